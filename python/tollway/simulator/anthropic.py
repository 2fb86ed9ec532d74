"""Anthropic's messages: paths, keys, bodies, server-sent events, errors, headers."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import time
from typing import TYPE_CHECKING, Any

from tollway.simulator.answers import Conversation, Said, pieces
from tollway.simulator.calls import Refused, dumps, image_digest, turn_of
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

__all__ = ["AnthropicFormat", "authorize", "refused"]

_PATHS = ("/v1/messages", "/v1/messages/count_tokens")
# What the reference of POST /v1/messages names, as far as it is taken here.
_ARGUMENTS = frozenset(
    {
        "cache_control",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "service_tier",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class AnthropicFormat:
    """`/v1/messages` and its counting of tokens."""

    def owns(self, path: str) -> bool:
        """These two paths."""
        return path in _PATHS

    def free(self, request: Request, keys: Collection[str] | None) -> Response | None:
        """Answer `count_tokens`; see `Format.free`."""
        if request.method != "POST":
            raise refused(405, "invalid_request_error", "Method Not Allowed")
        authorize(request, keys)
        if request.path == _PATHS[0]:
            return None
        turn = _read({**_body(request), "max_tokens": 1}, Behaviour())
        return Response(200, dumps({"input_tokens": turn.prompt_tokens}))

    def read(self, request: Request, behaviour: Behaviour) -> Call:
        """Read a request for a message."""
        return _read(_body(request), behaviour)

    def malformed(self, message: str) -> Exception:
        """Return the 400; see `Format.malformed`."""
        return _invalid(message)

    def denied(self, model: str, denial: Denial) -> Exception:
        """Return the 429; see `Format.denied`."""
        kind = "tokens" if denial.limit.startswith("t") else "requests"
        message = (
            f"This request would exceed your organization's rate limit of {denial.quota} {kind} "
            f"per {denial.window:g} s for {model}"
        )
        headers: dict[str, str] = {}
        if denial.retry_after is not None:
            headers["retry-after"] = str(math.ceil(denial.retry_after))
        return refused(429, "rate_limit_error", message, headers=headers)

    def fault(self, name: str, model: str, retry_after: float) -> Exception:
        """Return the error; see `Format.fault`."""
        if name == "429":
            headers = {"retry-after": f"{retry_after:g}"}
            message = f"Number of requests for {model} has exceeded your rate limit"
            return refused(429, "rate_limit_error", message, headers=headers)
        if name == "insufficient_quota":
            details = {"error_code": "enforced_spend_limit_reached"}
            message = "You have reached your specified API usage limits"
            return refused(429, "rate_limit_error", message, details=details)
        if name == "503":
            return refused(529, "overloaded_error", "Overloaded")
        return refused(500, "api_error", "Internal server error")

    def headers(self, request_id: str, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Return `request-id` and the `anthropic-ratelimit-*` headers."""
        headers = {"request-id": request_id}
        for kind, left in standing.items():
            full = dt.datetime.fromtimestamp(time.time() + left.reset, dt.UTC)
            for named in (kind, "input-tokens") if kind == "tokens" else (kind,):
                prefix = f"anthropic-ratelimit-{named}"
                headers[f"{prefix}-limit"] = str(left.limit)
                headers[f"{prefix}-remaining"] = str(left.remaining)
                headers[f"{prefix}-reset"] = f"{full:%Y-%m-%dT%H:%M:%SZ}"
        return headers


class _Writer:
    """Writes messages."""

    stream_type = "text/event-stream; charset=utf-8"

    def whole(self, turn: Turn, *, finished: bool, counted: bool) -> bytes:
        stop = _STOP[turn.said.finish] if finished else None
        usage = _usage(turn, turn.said.tokens) if counted else None
        message = {**_head(turn), "content": list(_blocks(turn)), "stop_reason": stop}
        return dumps({**message, "usage": usage})

    def empty(self, turn: Turn) -> bytes:
        return dumps({**_head(turn), "content": None, "stop_reason": None, "usage": None})

    def filtered(self, turn: Turn) -> Response:
        del turn
        raise refused(400, "invalid_request_error", "Output blocked by content filtering policy")

    def failed(self) -> bytes:
        return dumps({"type": "error", "error": {"type": "api_error", "message": "it failed"}})

    def pieces(self, turn: Turn) -> list[bytes]:
        head: dict[str, Any] = {
            **_head(turn),
            "content": [],
            "stop_reason": None,
            "usage": _usage(turn, 1),
        }
        events = [_event("message_start", message=head), _event("ping")]
        for index, block in enumerate(_blocks(turn)):
            start, deltas = _deltas(block)
            events.append(_event("content_block_start", index=index, content_block=start))
            events += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
            events.append(_event("content_block_stop", index=index))
        return events

    def end(self, turn: Turn, *, finished: bool, counted: bool) -> list[bytes]:
        if not finished:
            return []
        # Cumulative: the whole of the answer's tokens, not what was added.
        usage = _usage(turn, turn.said.tokens) if counted else None
        delta = {"stop_reason": _STOP[turn.said.finish], "stop_sequence": None}
        return [_event("message_delta", delta=delta, usage=usage), _event("message_stop")]

    def broken(self) -> bytes:
        return _event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def _head(turn: Turn) -> dict[str, Any]:
    head: dict[str, Any] = {
        "id": "msg_simulated",
        "type": "message",
        "role": "assistant",
        "stop_sequence": None,
    }
    head["model"] = turn.model
    return head


def _usage(turn: Turn, output: int) -> dict[str, Any]:
    return {
        "input_tokens": turn.prompt_tokens - turn.cached,
        "cache_read_input_tokens": turn.cached,
        "cache_creation_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": min(output, turn.said.reasoning_tokens)},
        "service_tier": "standard",
    }


def _blocks(turn: Turn) -> Iterator[dict[str, Any]]:
    said = turn.said
    if said.reasoning:
        signature = digest(said.reasoning)
        yield {"type": "thinking", "thinking": said.reasoning, "signature": signature}
    if said.text:
        yield {"type": "text", "text": said.text, "citations": None}
    for number, use in enumerate(said.tools):
        call = {"id": f"toolu_{number}", "name": use.name, "input": use.arguments}
        yield {"type": "tool_use", **call}


def _deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the beginning of a block, and what is added to it."""
    if block["type"] == "thinking":
        thought = [{"type": "thinking_delta", "thinking": p} for p in pieces(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*thought, signed]
    if block["type"] == "text":
        added = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        return {**block, "text": ""}, added
    written = json.dumps(block["input"])
    parts = ["", *(written[at : at + 8] for at in range(0, len(written), 8))]
    added = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return {**block, "input": {}}, added


def _event(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps({"type": kind, **members}))


def authorize(request: Request, keys: Collection[str] | None) -> None:
    """Refuse with 401 unless the request has a key: one of `keys`, or any where that is None."""
    _, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = request.headers.get("x-api-key") or bearer
    if not key:
        raise refused(401, "authentication_error", "x-api-key header is required")
    if keys is not None and key not in keys:
        raise refused(401, "authentication_error", "invalid x-api-key")
    if "anthropic-version" not in request.headers:
        raise refused(400, "invalid_request_error", "anthropic-version: header is required")


def refused(
    status: int,
    kind: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Refused:
    """Return an error as Anthropic words it."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if details is not None:
        error["details"] = details
    return Refused(status, {"type": "error", "error": error}, headers)


def _invalid(message: str) -> Refused:
    return refused(400, "invalid_request_error", message)


def _body(request: Request) -> dict[str, Any]:
    try:
        return arguments_of(request.body)
    except Refusal as refusal:
        raise _invalid(str(refusal)) from refusal


def _read(arguments: dict[str, Any], behaviour: Behaviour) -> Turn:
    model = arguments.get("model")
    if not isinstance(model, str) or not model:
        raise _invalid("model: Field required")
    if model.startswith("missing-"):
        raise refused(404, "not_found_error", f"model: {model}")
    unknown = sorted(arguments.keys() - _ARGUMENTS | arguments.keys() & behaviour.refuses)
    if unknown:
        raise _invalid(f"{unknown[0]}: Extra inputs are not permitted")
    most = arguments.get("max_tokens")
    if not isinstance(most, int) or most < 1:
        raise _invalid("max_tokens: Field required")
    temperature = arguments.get("temperature")
    is_number = isinstance(temperature, int | float)
    if temperature is not None and not (is_number and 0 <= temperature <= 1):
        raise _invalid("temperature: range: 0..1")
    said = [*_system(arguments.get("system"))]
    for number, message in enumerate(arguments.get("messages") or ()):
        said += _said(number, message)
    if not said or said[-1].role == "system":
        raise _invalid("messages: at least one message is required")
    _check_results(arguments["messages"])
    choice: dict[str, Any] = arguments.get("tool_choice") or {"type": "auto"}
    config: dict[str, Any] = arguments.get("output_config") or {}
    # The older name for it, with which the schemas were first served.
    form: dict[str, Any] = config.get("format") or arguments.get("output_format") or {}
    conversation = Conversation(
        said,
        {tool["name"]: tool["input_schema"] for tool in arguments.get("tools") or ()},
        choice["name"] if choice["type"] == "tool" else _CHOICES[choice["type"]],
        form.get("schema"),
        max_tokens=most,
        stop=arguments.get("stop_sequences") or (),
    )
    return turn_of(
        conversation,
        _Writer(),
        behaviour,
        model=model,
        is_stream=bool(arguments.get("stream")),
        too_long=lambda tokens, window: _invalid(
            f"prompt is too long: {tokens} tokens > {window} maximum"
        ),
    )


def _system(given: str | Sequence[Mapping[str, Any]] | None) -> Iterator[Said]:
    for block in [{"text": given}] if isinstance(given, str) else given or ():
        yield Said("system", block["text"])


def _said(number: int, message: Mapping[str, Any]) -> list[Said]:  # noqa: C901, PLR0912 - flat
    role = message.get("role")
    if role not in {"user", "assistant"}:
        raise _invalid(f"messages.{number}.role: Input should be 'user' or 'assistant'")
    content: Any = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not content:
        raise _invalid(f"messages.{number}: all messages must have non-empty content")
    said: list[Said] = []
    texts: list[str] = []
    images: list[str] = []
    calls: list[str] = []
    for block in content:
        match block["type"]:
            case "text" if block["text"]:
                texts.append(block["text"])
            case "text":
                raise _invalid(f"messages.{number}: text content blocks must be non-empty")
            case "image":
                images.append(_image(block["source"]))
            case "tool_use":
                calls.append(block["name"])
            case "tool_result":
                said.append(Said("tool", _result(block.get("content") or "")))
            case "thinking" if digest(block["thinking"]) != block["signature"]:
                raise _invalid(f"messages.{number}: Invalid `signature` in `thinking` block")
            case "thinking" | "redacted_thinking":
                pass
            case kind:
                raise _invalid(f"messages.{number}: Input tag '{kind}' is not expected")
    if texts or images or calls:
        said.append(Said(role, "\n\n".join(texts), tuple(images), tuple(calls)))
    return said


def _image(source: Mapping[str, Any]) -> str:
    if source["type"] == "url":
        return digest(source["url"])
    return image_digest(base64.b64decode(source["data"], validate=True), source["media_type"])


def _result(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(block["text"] for block in content if block["type"] == "text")


def _check_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """Every call has its result in the very next message, and every result its call."""
    open_: set[str] = set()
    for number, message in enumerate(messages):
        content: Any = message["content"]
        blocks: list[dict[str, Any]] = [] if isinstance(content, str) else content
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if results != open_:
            raise _invalid(
                f"messages.{number}: `tool_use` ids and `tool_result` blocks do not match"
            )
        open_ = {block["id"] for block in blocks if block["type"] == "tool_use"}
