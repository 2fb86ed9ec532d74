"""OpenAI's wire format: paths, request bodies, answers, errors, headers."""

from __future__ import annotations

import json
import math
from binascii import b2a_base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, cast

from tollway.tokens import get_encoding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tollway.simulator.enforcement import Denial, Standing
    from tollway.simulator.faults import Rows

__all__ = [
    "MODELS",
    "EmbeddingsCall",
    "Refusal",
    "arguments_of",
    "authorize",
    "denied",
    "embeddings_body",
    "fault",
    "go_duration",
    "invalid",
    "limit_headers",
    "models_body",
    "read_embeddings",
    "route",
]

# https://platform.openai.com/docs/guides/embeddings: vector sizes and input lengths;
# the caps of a request are in the reference of POST /v1/embeddings.
MODELS: Mapping[str, int] = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
# Any other name is a chat model too: a list cannot hold them all.
_CHAT_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-5-mini")
# What an Azure deployment of any other name serves.
_DEPLOYED = "text-embedding-3-small"
_ENCODING = "cl100k_base"
_MAX_INPUTS = 2048
_MAX_INPUT_TOKENS = 8191
_MAX_REQUEST_TOKENS = 300_000
_FIXED_SIZE = frozenset({"text-embedding-ada-002"})
_ROUTES = {
    "/v1/chat/completions": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
}
# How an error names a limit.
_WORDS = {
    "rpm": "requests per min (RPM)",
    "rpd": "requests per day (RPD)",
    "tpm": "tokens per min (TPM)",
    "tpd": "tokens per day (TPD)",
    "sub_window": "requests per min (RPM)",
}
_ARGUMENTS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})


class Refusal(Exception):  # noqa: N818 - an answer, not a failure of the simulator
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        body: The error as OpenAI words it, JSON.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body = json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """A request for embeddings that is in order.

    Attributes:
        model: Name of the model.
        texts: The inputs; token lists decoded.
        tokens: Tokens of all inputs together.
        dimensions: Length of the vectors.
        base64: Whether the vectors go out as base64 rather than as numbers.
    """

    model: str
    texts: list[str]
    tokens: int
    dimensions: int
    base64: bool


def route(method: str, path: str) -> str:
    """Return the known path that a request asks for; refuse with 404 or 405."""
    allowed = _ROUTES.get(path)
    if allowed is None:
        raise Refusal(404, f"Invalid URL ({method} {path})")
    if method != allowed:
        raise Refusal(405, f"{path} takes {allowed}, not {method}", headers={"allow": allowed})
    return path


def authorize(headers: Mapping[str, str], keys: Collection[str] | None) -> None:
    """Refuse with 401 unless the request has a key: one of `keys`, or any where that is None."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise Refusal(401, "No API key: send it as 'Authorization: Bearer KEY'")
    if keys is not None and key not in keys:
        raise Refusal(401, "Incorrect API key", code="invalid_api_key")


def read_embeddings(
    body: bytes, dimensions: int | None, *, azure: bool = False, deployment: str | None = None
) -> EmbeddingsCall:
    """Read and check the body of POST /v1/embeddings.

    Args:
        body: JSON.
        dimensions: Full size of every model's vectors; None for the real sizes.
        azure: A deployment may have any name; it serves the model called so, or a small one.
        deployment: The one that the path names; None where the body names it.
    """
    arguments = arguments_of(body)
    name = deployment or arguments.get("model")
    is_own = azure and name not in MODELS and not str(name).startswith("missing-")
    model = _model(_DEPLOYED if is_own else name)
    unknown = arguments.keys() - _ARGUMENTS
    if unknown:
        raise Refusal(400, f"Unrecognized request argument supplied: {', '.join(sorted(unknown))}")
    size = _dimensions(arguments.get("dimensions"), model, dimensions or MODELS[model])
    form = arguments.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise invalid("encoding_format", "expected 'float' or 'base64'")
    if not isinstance(arguments.get("user") or "", str):
        raise invalid("user", "expected a string")
    texts, counts = _inputs(arguments.get("input"))
    for position, count in enumerate(counts):
        if count > _MAX_INPUT_TOKENS:
            raise invalid(
                f"input[{position}]",
                f"it has {count} tokens, and {model} takes at most {_MAX_INPUT_TOKENS}",
            )
    total = sum(counts)
    if total > _MAX_REQUEST_TOKENS:
        raise Refusal(
            400,
            f"Requested {total} tokens, max {_MAX_REQUEST_TOKENS} tokens per request",
            kind="max_tokens_per_request",
            code="max_tokens_per_request",
        )
    return EmbeddingsCall(model, texts, total, size, form == "base64")


def embeddings_body(call: EmbeddingsCall, rows: Rows) -> bytes:
    """Write the answer to a call; rows are (index, values or None)."""
    data: list[bytes] = []
    for index, values in rows:
        if values is None:
            written = b"null"
        elif call.base64:
            written = b'"' + b2a_base64(values.astype("<f4").data, newline=False) + b'"'
        else:
            # Nine digits tell every float32 from its neighbours, also by way of a float64.
            numbers = ",".join(["%.9g"] * len(values)) % tuple(values.tolist())
            written = f"[{numbers.replace('nan', 'NaN')}]".encode()
        data.append(b'{"object":"embedding","index":%d,"embedding":%b}' % (index, written))
    usage = {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
        b",".join(data),
        json.dumps(call.model).encode(),
        json.dumps(usage).encode(),
    )


def models_body() -> bytes:
    """Write the answer to GET /v1/models."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "tollway-simulator"}
        for name in (*MODELS, *_CHAT_MODELS)
    ]
    return json.dumps({"object": "list", "data": data}).encode()


def limit_headers(standing: Mapping[str, Standing]) -> dict[str, str]:
    """Return the `x-ratelimit-*` headers for what `Enforcement.standing` says."""
    headers: dict[str, str] = {}
    for kind, left in standing.items():
        headers[f"x-ratelimit-limit-{kind}"] = str(left.limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(left.remaining)
        headers[f"x-ratelimit-reset-{kind}"] = go_duration(left.reset)
    return headers


def denied(model: str, denial: Denial) -> Refusal:
    """Return the 429 for a request that a limit holds back."""
    kind = "tokens" if denial.limit.startswith("t") else "requests"
    limit = f"on {_WORDS[denial.limit]}: Limit {denial.quota}, Requested {denial.requested}"
    if denial.retry_after is None:
        message = f"Request too large for {model} {limit}"
        return Refusal(429, message, kind=kind, code="rate_limit_exceeded")
    return _throttled(model, limit, kind, denial.retry_after)


def _throttled(model: str, reason: str, kind: str, seconds: float) -> Refusal:
    """Return a 429 that names the time to wait, in its message and in two headers."""
    return Refusal(
        429,
        f"Rate limit reached for {model} {reason}. Please try again in {go_duration(seconds)}.",
        kind=kind,
        code="rate_limit_exceeded",
        headers={
            "retry-after": str(math.ceil(seconds)),
            "retry-after-ms": str(_milliseconds(seconds)),
        },
    )


def fault(name: str, model: str, retry_after: float) -> Refusal:
    """Return the error that the fault of that name is answered with."""
    match name:
        case "429":
            return _throttled(model, "on requests per min (RPM)", "requests", retry_after)
        case "insufficient_quota":
            return Refusal(
                429,
                "You exceeded your current quota: check your plan and billing details",
                kind="insufficient_quota",
                code="insufficient_quota",
            )
        case "503":
            return Refusal(
                503,
                "The server is overloaded: try again later",
                kind="service_unavailable_error",
                code="server_is_overloaded",
            )
        case _:
            return Refusal(
                500, "The server had an error while processing your request", kind="server_error"
            )


def go_duration(seconds: float) -> str:
    """Write a duration as Go does, rounded up to milliseconds: `120ms`, `1.5s`, `6m0s`."""
    whole, milliseconds = divmod(_milliseconds(seconds), 1000)
    if not whole and milliseconds:
        return f"{milliseconds}ms"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{milliseconds:03d}".rstrip("0") if milliseconds else ""
    larger = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{larger}{whole}{fraction}s"


def _milliseconds(seconds: float) -> int:
    # 0.12 * 1000 is a little over 120: rounding to nanoseconds first keeps it 120.
    return math.ceil(round(seconds * 1000, 6))


def invalid(param: str, reason: str, code: str | None = None) -> Refusal:
    """Return the 400 for an argument that is not in order."""
    return Refusal(400, f"Invalid '{param}': {reason}", param=param, code=code)


def arguments_of(body: bytes) -> dict[str, object]:
    """Read a body; refuse with 400 what is no JSON object."""
    try:
        loaded: object = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise Refusal(400, "The body is not a JSON object")
    return cast("dict[str, object]", loaded)


def _model(asked: object) -> str:
    if asked is None or asked == "":
        raise Refusal(400, "you must provide a model parameter")
    if not isinstance(asked, str):
        raise invalid("model", "expected a string")
    if asked not in MODELS:
        raise Refusal(404, f"The model '{asked}' does not exist", code="model_not_found")
    return asked


def _dimensions(asked: object, model: str, full: int) -> int:
    if asked is None:
        return full
    if model in _FIXED_SIZE:
        raise Refusal(400, f"{model} has no 'dimensions'", param="dimensions")
    if not _is_int(asked) or not 1 <= asked <= full:
        raise invalid("dimensions", f"expected an integer from 1 to {full}")
    return asked


def _is_int(value: object) -> TypeGuard[int]:
    return type(value) is int


def _inputs(given: object) -> tuple[list[str], list[int]]:
    """Return the texts and their token counts."""
    if given is None:
        raise Refusal(400, "you must provide an input parameter", param="input")
    if not isinstance(given, (str, list)):
        raise invalid("input", "expected a string, a list of strings, or lists of tokens")
    items: Sequence[object] = [given] if isinstance(given, str) else cast("list[object]", given)
    if not items:
        raise invalid("input", "it is empty", "empty_array")
    if _is_int(items[0]):
        items = [items]
    if len(items) > _MAX_INPUTS:
        reason = f"it has {len(items)} items, and at most {_MAX_INPUTS} are taken"
        raise invalid("input", reason, "array_above_max_length")
    return _texts(items) if isinstance(items[0], str) else _token_lists(items)


def _texts(items: Sequence[object]) -> tuple[list[str], list[int]]:
    texts: list[str] = []
    for position, item in enumerate(items):
        if not isinstance(item, str):
            raise invalid(f"input[{position}]", "expected a string, as the first one is")
        if not item:
            raise invalid(f"input[{position}]", "it is an empty string")
        texts.append(item)
    return texts, get_encoding(_ENCODING).count_batch(texts).tolist()


def _token_lists(items: Sequence[object]) -> tuple[list[str], list[int]]:
    encoding = get_encoding(_ENCODING)
    texts: list[str] = []
    counts: list[int] = []
    for position, item in enumerate(items):
        tokens = cast("list[object]", item) if isinstance(item, list) else []
        numbers = [token for token in tokens if _is_int(token)]
        if not tokens or len(numbers) < len(tokens):
            raise invalid(f"input[{position}]", "expected a list of at least one token")
        try:
            texts.append(encoding.decode(numbers))
        except (KeyError, ValueError, OverflowError) as error:
            raise invalid(f"input[{position}]", f"a token is not of {_ENCODING}") from error
        counts.append(len(numbers))
    return texts, counts
