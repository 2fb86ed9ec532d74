"""Gemini's format: generateContent, embedContent and their likes, at AI Studio and at Vertex."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from tollway.simulator.answers import Conversation, Said, pieces
from tollway.simulator.calls import Refused, Vectors, dumps, image_digest, is_size, turn_of
from tollway.simulator.formats import Behaviour
from tollway.simulator.openai import Refusal, arguments_of
from tollway.simulator.server import Response
from tollway.simulator.vectors import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from tollway.simulator.calls import Turn
    from tollway.simulator.enforcement import Denial, Standing
    from tollway.simulator.formats import Call
    from tollway.simulator.server import Request

__all__ = ["GeminiFormat"]

_PATH = re.compile(
    r"/v1(?:beta1?|alpha)?(/projects/[^/]+/locations/[^/]+/publishers/google)?/models/([^/:]+):(\w+)"
)
_GENERATE = frozenset({"generateContent", "streamGenerateContent"})
_EMBED = frozenset({"embedContent", "batchEmbedContents", "predict"})
_ARGUMENTS = frozenset(
    {
        "cachedContent",
        "contents",
        "generationConfig",
        "labels",
        "safetySettings",
        "serviceTier",
        "systemInstruction",
        "toolConfig",
        "tools",
    }
)
_CONFIG = frozenset(
    {
        "candidateCount",
        "frequencyPenalty",
        "maxOutputTokens",
        "presencePenalty",
        "responseJsonSchema",
        "responseMimeType",
        "responseSchema",
        "seed",
        "stopSequences",
        "temperature",
        "thinkingConfig",
        "topK",
        "topP",
    }
)
_OWN = frozenset(
    {
        "args",
        "parameters",
        "parametersJsonSchema",
        "response",
        "responseJsonSchema",
        "responseSchema",
    }
)
_FINISH = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"}
_MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
# https://ai.google.dev/gemini-api/docs/embeddings: the full length, and texts a batch.
_DIMENSIONS = 3072
_MAX_TEXTS = 100


class GeminiFormat:
    """`…/models/MODEL:METHOD`."""

    def owns(self, path: str) -> bool:
        """Paths that name a model and a method."""
        return _PATH.fullmatch(path) is not None

    def free(self, request: Request, keys: Collection[str] | None) -> Response | None:
        """Answer `countTokens`; see `Format.free`."""
        vertex, model, method = _parts(request.path)
        if request.method != "POST" or method not in {*_GENERATE, *_EMBED, "countTokens"}:
            raise _error(404, f"{method} is not found")
        _, _, bearer = request.headers.get("authorization", "").partition(" ")
        key = request.headers.get("x-goog-api-key") or (bearer if vertex else "")
        if not key:
            raise _error(403, "Method doesn't allow unregistered callers")
        if keys is not None and key not in keys:
            if vertex:
                raise _error(401, "Request had invalid authentication credentials")
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": _BAD_KEY}
            raise _error(400, "API key not valid. Please pass a valid API key.", [info])
        if method != "countTokens":
            return None
        turn = _read(model, _body(request), Behaviour(), is_stream=False)
        return Response(200, dumps({"totalTokens": turn.prompt_tokens}))

    def read(self, request: Request, behaviour: Behaviour) -> Call:
        """Read a request for an answer or for vectors."""
        _, model, method = _parts(request.path)
        if model.startswith("missing-"):
            raise _error(404, f"models/{model} is not found")
        body = _body(request)
        if method in _EMBED:
            return _read_vectors(model, method, body, behaviour)
        return _read(model, body, behaviour, is_stream=method == "streamGenerateContent")

    def malformed(self, message: str) -> Exception:
        """Return the 400; see `Format.malformed`."""
        return _error(400, message)

    def denied(self, model: str, denial: Denial) -> Exception:
        """Return the 429; see `Format.denied`."""
        kind = "InputTokens" if denial.limit.startswith("t") else "Requests"
        window = "PerDay" if denial.limit.endswith("d") else "PerMinute"
        return _exhausted(model, f"Generate{kind}{window}", denial.quota, denial.retry_after)

    def fault(self, name: str, model: str, retry_after: float) -> Exception:
        """Return the error; see `Format.fault`."""
        if name == "429":
            return _exhausted(model, "GenerateRequestsPerMinute", 10, retry_after)
        if name == "insufficient_quota":
            # With a delay of seconds, although no wait of seconds helps.
            return _exhausted(model, "GenerateRequestsPerDay", 250, 22.0)
        if name == "503":
            return _error(503, "The model is overloaded. Please try again later.")
        return _error(500, "An internal error has occurred. Please retry.")

    def headers(self, request_id: str, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Return none of the limits: Gemini tells nothing of them."""
        del request_id, standing
        return {"server": "scaffolding on HTTPServer2"}


_BAD_KEY = "API_KEY_INVALID"


class _Writer:
    """Writes answers of generateContent."""

    stream_type = "text/event-stream"

    def __init__(self, *, thoughts: bool) -> None:
        self._thoughts = thoughts

    def whole(self, turn: Turn, *, finished: bool, counted: bool) -> bytes:
        parts = list(self._parts(turn))
        reason = _FINISH[turn.said.finish] if finished else None
        usage = _usage(turn, turn.said.tokens) if counted else None
        return dumps(_answer(turn, parts, reason, usage))

    def empty(self, turn: Turn) -> bytes:
        return dumps({"modelVersion": turn.model, "usageMetadata": _usage(turn, 0)})

    def filtered(self, turn: Turn) -> Response:
        feedback = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        body = dumps({**feedback, "modelVersion": turn.model, "usageMetadata": _usage(turn, 0)})
        if turn.is_stream:
            return Response(200, b"data: %b\r\n\r\n" % body, {"content-type": self.stream_type})
        return Response(200, body)

    def failed(self) -> bytes:
        return dumps({"error": {"code": 500, "message": "it failed", "status": "INTERNAL"}})

    def pieces(self, turn: Turn) -> list[bytes]:
        cut: list[dict[str, Any]] = []
        for part in self._parts(turn):
            texts = pieces(part["text"]) if "text" in part else []
            cut += [{**part, "text": text} for text in texts] if texts else [part]
        return [
            _event(_answer(turn, [part], None, _usage(turn, number)))
            for number, part in enumerate(cut, 1)
        ]

    def end(self, turn: Turn, *, finished: bool, counted: bool) -> list[bytes]:
        if not finished:
            return []
        usage = _usage(turn, turn.said.tokens) if counted else None
        return [_event(_answer(turn, [{"text": ""}], _FINISH[turn.said.finish], usage))]

    def broken(self) -> bytes:
        return _event({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})

    def _parts(self, turn: Turn) -> Iterator[dict[str, Any]]:
        said = turn.said
        if said.reasoning and self._thoughts:
            yield {"text": said.reasoning, "thought": True}
        if said.text and said.finish != "refusal":
            yield {"text": said.text}
        for number, use in enumerate(said.tools):
            part: dict[str, Any] = {"functionCall": {"name": use.name, "args": use.arguments}}
            # Of parallel calls the first alone is signed.
            yield part if number else {**part, "thoughtSignature": _signature(use.name)}


def _signature(name: str) -> str:
    return base64.b64encode(digest(name).encode()).decode()


def _answer(
    turn: Turn, parts: list[dict[str, Any]], reason: str | None, usage: dict[str, Any] | None
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    answer = {"candidates": [candidate], "modelVersion": turn.model, "responseId": "simulated"}
    return answer if usage is None else {**answer, "usageMetadata": usage}


def _usage(turn: Turn, output: int) -> dict[str, Any]:
    thoughts = min(output, turn.said.reasoning_tokens)
    return {
        "promptTokenCount": turn.prompt_tokens,
        "cachedContentTokenCount": turn.cached,
        "candidatesTokenCount": output - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": turn.prompt_tokens + output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": turn.prompt_tokens}],
    }


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\r\n\r\n" % dumps(data)


def _error(status: int, message: str, details: Sequence[Mapping[str, Any]] = ()) -> Refused:
    error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS[status]}
    if details:
        error["details"] = details
    return Refused(status, {"error": error})


def _exhausted(model: str, quota: str, value: int, retry_after: float | None) -> Refused:
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
        "quotaId": f"{quota}PerProjectPerModel",
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(value),
    }
    failure = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}
    details: list[dict[str, Any]] = [failure]
    if retry_after is not None:
        delay = f"{retry_after:.9f}".rstrip("0").rstrip(".")
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        details.append({"@type": kind, "retryDelay": f"{delay}s"})
    return _error(429, "You exceeded your current quota.", details)


def _parts(path: str) -> tuple[bool, str, str]:
    """Return whether a path is one of Vertex, its model and its method."""
    found = _PATH.fullmatch(path)
    assert found is not None
    return found[1] is not None, found[2], found[3]


def _body(request: Request) -> dict[str, Any]:
    try:
        body: dict[str, Any] = _in_camel_case(arguments_of(request.body))
    except Refusal as refusal:
        raise _error(400, str(refusal)) from refusal
    return body


def _in_camel_case(value: Any) -> Any:
    """Return a body with one form of its names: both are taken, but for what is the user's own."""
    if isinstance(value, list):
        return [_in_camel_case(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    named: dict[str, Any] = {}
    for name, member in value.items():  # pyright: ignore[reportUnknownVariableType]
        camel = re.sub("_([a-z])", lambda found: found[1].upper(), str(name))  # pyright: ignore[reportUnknownArgumentType]
        named[camel] = member if camel in _OWN else _in_camel_case(member)
    return named


def _read(model: str, body: dict[str, Any], behaviour: Behaviour, *, is_stream: bool) -> Turn:
    config: dict[str, Any] = body.get("generationConfig") or {}
    for given, known in ((body, _ARGUMENTS), (config, _CONFIG)):
        refused = sorted(given.keys() - known | given.keys() & behaviour.refuses)
        if refused:
            message = f'Invalid JSON payload received. Unknown name "{refused[0]}"'
            raise _error(400, message)
    system: dict[str, Any] = body.get("systemInstruction") or {}
    said = [Said("system", part["text"]) for part in system.get("parts") or ()]
    for content in body.get("contents") or ():
        said += _said(model, content)
    if not said or said[-1].role == "system":
        raise _error(400, "contents is not specified")
    tools: dict[str, Any] = {}
    for tool in body.get("tools") or ():
        for declared in tool["functionDeclarations"]:
            own: Any = declared.get("parametersJsonSchema") or declared.get("parameters")
            tools[declared["name"]] = own or {}
    tool_config: dict[str, Any] = body.get("toolConfig") or {}
    calling: dict[str, Any] = tool_config.get("functionCallingConfig") or {"mode": "AUTO"}
    allowed: list[str] = calling.get("allowedFunctionNames") or []
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    thinking: dict[str, Any] = config.get("thinkingConfig") or {}
    conversation = Conversation(
        said,
        tools,
        allowed[0] if len(allowed) == 1 else _MODES[calling["mode"]],
        schema,
        config.get("responseMimeType") == "application/json" and schema is None,
        config.get("maxOutputTokens"),
        config.get("stopSequences") or (),
    )
    return turn_of(
        conversation,
        _Writer(thoughts=bool(thinking.get("includeThoughts"))),
        behaviour,
        model=model,
        is_stream=is_stream,
        too_long=lambda tokens, window: _error(
            400,
            f"The input token count ({tokens}) exceeds the maximum number of tokens allowed "
            f"({window}).",
        ),
    )


def _said(model: str, content: Mapping[str, Any]) -> list[Said]:  # noqa: C901 - flat
    role = {"model": "assistant", "user": "user", "function": "user"}.get(content.get("role", ""))
    if role is None:
        raise _error(400, "Please use a valid role: user, model.")
    said: list[Said] = []
    texts: list[str] = []
    images: list[str] = []
    calls: list[str] = []
    for part in content["parts"]:
        if part.get("thought"):
            continue
        if "functionCall" in part:
            signature = part.get("thoughtSignature")
            name = part["functionCall"]["name"]
            # The SDK writes bytes in the alphabet of URLs.
            plain = (signature or "").replace("-", "+").replace("_", "/")
            if model.startswith("gemini-3") and not calls and plain != _signature(name):
                raise _error(400, f"Function call `{name}` is missing a thought_signature.")
            calls.append(name)
        elif "functionResponse" in part:
            said.append(Said("tool", _output(part["functionResponse"])))
        elif "text" in part:
            texts.append(part["text"])
        elif "inlineData" in part:
            data = base64.b64decode(part["inlineData"]["data"].replace("-", "+").replace("_", "/"))
            images.append(image_digest(data, part["inlineData"]["mimeType"]))
        elif "fileData" in part:
            images.append(digest(part["fileData"]["fileUri"]))
        else:
            raise _error(400, "contents.parts must not be empty.")
    if texts or images or calls:
        said.append(Said(role, "\n\n".join(texts), tuple(images), tuple(calls)))
    return said


def _output(response: Mapping[str, Any]) -> str:
    given: dict[str, Any] = response["response"]
    output: Any = given.get("output", given)
    return output if isinstance(output, str) else json.dumps(output)


def _read_vectors(model: str, method: str, body: dict[str, Any], behaviour: Behaviour) -> Vectors:
    full = behaviour.dimensions or _DIMENSIONS
    if method == "predict":
        texts = [instance["content"] for instance in body["instances"]]
        parameters: dict[str, Any] = _in_camel_case(body.get("parameters") or {})
        size: Any = parameters.get("outputDimensionality")
    else:
        requests: list[dict[str, Any]] = body.get("requests", [body])
        texts = [_text(request["content"]) for request in requests]
        first: dict[str, Any] = requests[0] if requests else {}
        # Vertex has it one step further in.
        size = first.get("embedContentConfig", first).get("outputDimensionality")
    if not texts or len(texts) > _MAX_TEXTS:
        raise _error(400, f"at most {_MAX_TEXTS} requests can be in one batch")
    if not all(texts):
        raise _error(400, "content is empty")
    if size is not None and not is_size(size, full):
        raise _error(400, f"outputDimensionality must be between 1 and {full}")

    def write(rows: Sequence[list[float] | None], tokens: int) -> dict[str, Any]:
        if method == "predict":
            one: Any = {"truncated": False, "token_count": tokens // len(texts)}
            return {
                "predictions": [{"embeddings": {"values": row, "statistics": one}} for row in rows]
            }
        listed = [{"values": row} for row in rows]
        if method == "batchEmbedContents":
            return {"embeddings": listed}
        return {"embedding": listed[0], "usageMetadata": {"promptTokenCount": tokens}}

    # A cut vector is the beginning of the full one as it is, which is no longer of unit length.
    return Vectors(model, texts, size or full, write, cut_only=True, full=full)


def _text(content: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in content["parts"])
