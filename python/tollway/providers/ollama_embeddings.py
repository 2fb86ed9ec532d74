"""Ollama's embeddings, by its own route."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tollway.errors import BadResponseError
from tollway.limiter import Limits
from tollway.providers.base import EmbeddingAnswer, EmbeddingRules
from tollway.providers.errors import OLLAMA_ERRORS
from tollway.providers.frame import fingerprint
from tollway.providers.ollama import KEY_VARIABLE, address_of
from tollway.providers.openai import checked_key, connect, error_of
from tollway.transport import Request
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.providers.errors import ErrorTable
    from tollway.transport import Response, Transport

__all__ = ["OllamaEmbeddingProvider"]


class OllamaEmbeddingProvider:
    """One embedding model that Ollama runs.

    Tokens are estimated; a text over the model's context is an error, because Ollama would cut it
    without a word, unless `max_tokens` says where to cut it.

    Args:
        model: As `ollama list` shows it, such as `nomic-embed-text`.
        base_url: Else from `OLLAMA_HOST`, else `http://127.0.0.1:11434`.
        api_key: Else from `OLLAMA_API_KEY`; needed at ollama.com only.
        dimensions: Shorter vectors, where the model can.
        max_tokens: Tokens that a text may have.
        keep_alive: How long the model stays in memory after a request, such as `10m`.
        http_client: An `httpx.AsyncClient` or `httpx2.AsyncClient` to send with.
        transport: Or any `tollway.transport.Transport`.
        errors: What its errors mean.
        connection: How to connect where neither is given, as in `OpenAIProvider`.

    Raises:
        ConfigurationError: An address or key that is none.
    """

    name = "ollama"
    # Ollama answers requests of one model one after the other, or a few at once.
    limits = Limits(max_in_flight=4)

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        max_tokens: int | None = None,
        keep_alive: str | None = None,
        http_client: Any = None,
        transport: Transport | None = None,
        errors: ErrorTable = OLLAMA_ERRORS,
        **connection: Any,
    ) -> None:
        self.model = model
        self.base_url = address_of(base_url or os.environ.get("OLLAMA_HOST") or "127.0.0.1")
        self._key = checked_key(
            api_key or os.environ.get(KEY_VARIABLE), f"ollama/{model}", KEY_VARIABLE
        )
        self._dimensions = dimensions
        self._keep_alive = keep_alive
        self._transport = connect(transport, http_client, connection)
        self._errors = errors
        self.rules = EmbeddingRules(
            max_texts=512,
            max_text_tokens=max_tokens,
            dimensions=dimensions,
            price="free" if not self._key else "unknown",
        )

    def __repr__(self) -> str:
        """Show the model and the address, never the key."""
        return f"<OllamaEmbeddingProvider {self.model} at {self.base_url}>"

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, model."""
        return (self.name, self.base_url, fingerprint(self._key), self.model)

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> OllamaEmbeddingProvider:
        """Return itself: queries are embedded as documents are."""
        return self

    async def open(self) -> None:
        """Make the transport ready."""
        await self._transport.open()

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts; see `EmbeddingProvider.embed`."""
        body: dict[str, Any] = {"model": self.model, "input": list(texts), "truncate": False}
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        if self._keep_alive is not None:
            body["keep_alive"] = self._keep_alive
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        request = Request("POST", f"{self.base_url}/api/embed", headers, json.dumps(body).encode())
        response = await self._transport.send(request)
        if response.status != 200:
            raise self._error(response)
        return _answer(response.body, len(texts), self.rules.dimensions)

    def _error(self, response: Response) -> Exception:
        unset = None if self._key else KEY_VARIABLE
        error = error_of(response, self._key, self._errors, unset=unset)
        if response.status == 404:
            error.args = (f"{error}; `ollama pull {self.model}` gets the model",)
        return error

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._transport.aclose()


def _answer(body: bytes, count: int, dimensions: int | None) -> EmbeddingAnswer:
    import numpy as np  # noqa: PLC0415

    try:
        parsed: Any = json.loads(body)
        rows: list[list[float] | None] = list(parsed["embeddings"])
        width = dimensions or max((len(row) for row in rows if row), default=0)
        reported: Any = parsed.get("prompt_eval_count")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = body[:200].decode(errors="replace")
        raise BadResponseError(f"the answer holds no embeddings: {shown}", status=200) from error
    if len(rows) != count:
        # Rows have no index: where one is missing, those after it are of other texts.
        raise BadResponseError(f"{len(rows)} rows for {count} texts", status=200)
    vectors: NDArray[np.float32] = np.full((count, width), np.nan, np.float32)
    bad: list[tuple[int, str]] = []
    for i in range(count):
        reason = _place(vectors[i], rows[i])
        if reason is not None:
            vectors[i] = np.nan
            bad.append((i, reason))
    usage = Usage(
        input_tokens=reported if isinstance(reported, int) else 0,
        requests=1,
        # Left out where the model's cache had it all.
        estimated=not (isinstance(reported, int) and reported),
    )
    return EmbeddingAnswer(vectors, bad, usage)


def _place(place: NDArray[np.float32], row: object) -> str | None:
    """Put a row in its place, or say why it is of no use."""
    import numpy as np  # noqa: PLC0415

    if row is None:
        return "null"
    if not isinstance(row, list) or len(row) != len(place):  # pyright: ignore[reportUnknownArgumentType]
        return f"not a list of {len(place)} numbers"
    try:
        place[:] = row
    except (ValueError, TypeError):
        return "not a list of numbers"
    return None if np.isfinite(place).all() else "NaN or infinite"
