"""OpenAI's format as a whole: paths, keys, embeddings and chat; Azure's as its variant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tollway.simulator import faults as faulty
from tollway.simulator import openai as wire
from tollway.simulator.openai_chat import read_chat
from tollway.simulator.server import Response
from tollway.simulator.vectors import vectors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tollway.simulator.enforcement import Denial, Standing
    from tollway.simulator.formats import Behaviour, Call
    from tollway.simulator.server import Request

__all__ = ["OpenAIFormat"]

_AZURE = re.compile(r"/openai(?:/deployments/([^/]+)|/v1|(?=/models$))(/.+)")


@dataclass(frozen=True, slots=True)
class _Embeddings:
    """A call for embeddings."""

    asked: wire.EmbeddingsCall

    @property
    def model(self) -> str:
        return self.asked.model

    @property
    def texts(self) -> list[str]:
        return self.asked.texts

    @property
    def tokens(self) -> int:
        return self.asked.tokens

    @property
    def rows(self) -> int:
        return len(self.asked.texts)

    def answer(self, fault: str | None, hit: int) -> Response:
        values = vectors(self.asked.texts, self.asked.dimensions)
        body = wire.embeddings_body(self.asked, faulty.disturb(list(enumerate(values)), fault, hit))
        return Response(200, body, cut=len(body) // 2 if fault == "truncated" else None)


class OpenAIFormat:
    """`/v1/…` of OpenAI and its likes; `/openai/…` of Azure, where a deployment is the model."""

    def owns(self, path: str) -> bool:
        """All that no other format owns."""
        return bool(path)

    def free(self, request: Request, keys: Collection[str] | None) -> Response | None:
        """Answer `GET /v1/models`; see `Format.free`."""
        path, _ = _plain(request.path)
        path = wire.route(request.method, path)
        if path != request.path and (key := request.headers.get("api-key")):
            wire.authorize({"authorization": f"Bearer {key}"}, keys)
        else:
            wire.authorize(request.headers, keys)
        return Response(200, wire.models_body()) if path == "/v1/models" else None

    def read(self, request: Request, behaviour: Behaviour) -> Call:
        """Read a request for embeddings or a chat completion."""
        path, deployment = _plain(request.path)
        azure = path != request.path
        if path == "/v1/embeddings":
            asked = wire.read_embeddings(
                request.body, behaviour.dimensions, azure=azure, deployment=deployment
            )
            return _Embeddings(asked)
        return read_chat(request.body, behaviour, deployment=deployment, azure=azure)

    def malformed(self, message: str) -> Exception:
        """Return the 400; see `Format.malformed`."""
        return wire.Refusal(400, message)

    def denied(self, model: str, denial: Denial) -> Exception:
        """Return the 429; see `Format.denied`."""
        return wire.denied(model, denial)

    def fault(self, name: str, model: str, retry_after: float) -> Exception:
        """Return the error; see `Format.fault`."""
        return wire.fault(name, model, retry_after)

    def headers(self, request_id: str, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Return `x-request-id` and the `x-ratelimit-*` headers."""
        return {"x-request-id": request_id, **wire.limit_headers(standing)}


def _plain(path: str) -> tuple[str, str | None]:
    """Return OpenAI's own form of a path, and the deployment that it names."""
    azure = _AZURE.fullmatch(path)
    return (path, None) if azure is None else (f"/v1{azure[2]}", azure[1])
