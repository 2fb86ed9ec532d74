"""Other providers' embedding routes, as OpenAI's in other words: Azure OpenAI and Ollama.

A request is rewritten into OpenAI's before it is judged, and what is answered back into the
dialect, so that limits, faults, the ledger and the vectors are the same for all.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, cast

from tollway.simulator.openai import MODELS, Refusal

if TYPE_CHECKING:
    from tollway.simulator.server import Request, Response

__all__ = ["answered", "as_openai"]

_AZURE = re.compile(r"/openai/(?:deployments/(?P<deployment>[^/]+)|v1)/embeddings")
_OLLAMA = "/api/embed"
# What a deployment or a model of any other name serves.
_SERVED = "text-embedding-3-small"


def as_openai(request: Request) -> Request:
    """Return a request as OpenAI would get it; one in no known dialect stays as it is."""
    if request.path == _OLLAMA:
        return _from_ollama(request)
    azure = _AZURE.fullmatch(request.path)
    if azure is None:
        return request
    headers = dict(request.headers)
    if "api-key" in headers:
        headers["authorization"] = f"Bearer {headers.pop('api-key')}"
    body = _object(request.body)
    name = azure["deployment"] or body.get("model")
    body["model"] = name if name in MODELS else _SERVED
    return dataclasses.replace(
        request, path="/v1/embeddings", headers=headers, body=json.dumps(body).encode()
    )


def _from_ollama(request: Request) -> Request:
    body = _object(request.body)
    name = body.get("model")
    if not isinstance(name, str) or name.startswith("missing"):
        raise Refusal(404, f'model "{name}" not found, try pulling it first')
    for own in ("truncate", "keep_alive", "options"):
        body.pop(own, None)
    body["model"] = name if name in MODELS else _SERVED
    headers = {"authorization": "Bearer local", **request.headers}
    return dataclasses.replace(
        request, path="/v1/embeddings", headers=headers, body=json.dumps(body).encode()
    )


def answered(path: str, response: Response) -> Response:
    """Return an answer of OpenAI's as the route of a request has it."""
    if path != _OLLAMA:
        return response
    parsed = cast("dict[str, Any]", json.loads(response.body))
    if response.status != 200:
        parsed = {"error": parsed["error"]["message"]}
    else:
        # Ollama's rows have no index: they are in the order of the texts.
        rows = sorted(parsed["data"], key=lambda row: row["index"])
        parsed = {
            "model": parsed["model"],
            "embeddings": [row["embedding"] for row in rows],
            "total_duration": 1_000_000,
            "load_duration": 1_000,
            "prompt_eval_count": parsed["usage"]["prompt_tokens"],
        }
    body = json.dumps(parsed).encode()
    cut = None if response.cut is None else len(body) // 2
    return dataclasses.replace(response, body=body, cut=cut)


def _object(body: bytes) -> dict[str, Any]:
    try:
        loaded: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise Refusal(400, "The body is not a JSON object")
    return cast("dict[str, Any]", loaded)
