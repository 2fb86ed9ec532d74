"""Requests and answers of Anthropic's messages."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tollway.errors import BadResponseError
from tollway.providers.messages import image_bytes, image_url, text_of
from tollway.providers.turns import arguments_of, split_system, turns
from tollway.types import Chunk, Completion, ImagePart, TextPart, ToolCall, ToolCallDelta, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from tollway.providers.base import ChatRequest
    from tollway.types import FinishReason, Message, Part, Tool

__all__ = ["ChunkReader", "completion_of", "messages_body", "usage_of"]

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_window",
}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
# Blocks that a message's text and calls tell in full; any other goes back as it came.
_PLAIN = frozenset({"text", "tool_use"})


def messages_body(
    model: str, request: ChatRequest, max_output_tokens: int, parameters: AbstractSet[str]
) -> dict[str, Any]:
    """Return the arguments of the SDK's `messages.create` for a request.

    Args:
        model: Name of the model.
        request: What is asked.
        max_output_tokens: What is sent where the request names no `max_tokens`: Anthropic needs it.
        parameters: What the model takes by now: it may have refused a default since.
    """
    system, messages = split_system(request.messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": who, "content": blocks} for who, blocks in turns(messages, _blocks)],
        "max_tokens": request.max_tokens or max_output_tokens,
        "timeout": request.timeout,
    }
    if system:
        body["system"] = [block for message in system for block in _system(message)]
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if (choice := _tool_choice(request)) is not None:
            body["tool_choice"] = choice
    if (config := _output_config(request)) is not None:
        body["output_config"] = config
    further = {**_sampling(request, parameters), **request.extra_body}
    if further:
        body["extra_body"] = further
    if request.extra_headers:
        body["extra_headers"] = request.extra_headers
    return body


def _sampling(request: ChatRequest, parameters: AbstractSet[str]) -> dict[str, float]:
    """Return temperature and top_p, which the SDK has no arguments for since version 2.12."""
    sampling: dict[str, float] = {}
    thinking: Mapping[str, Any] = request.extra_body.get("thinking") or {}
    # Models from Opus 4.1 on take one of the two, thinking ones and newer ones neither.
    is_left_out = "temperature" in request.defaults and (
        request.top_p is not None
        or "temperature" not in parameters
        or thinking.get("type", "disabled") != "disabled"
    )
    if request.temperature is not None and not is_left_out:
        sampling["temperature"] = request.temperature
    if request.top_p is not None:
        sampling["top_p"] = request.top_p
    return sampling


def completion_of(answer: Any, headers: Mapping[str, str], model: str) -> Completion:
    """Return the SDK's `Message` as a `Completion`.

    Raises:
        BadResponseError: It holds no finished answer.
    """
    request_id = headers.get("request-id")
    stop = getattr(answer, "stop_reason", None)
    content: Any = getattr(answer, "content", None)
    if not stop or not hasattr(content, "__iter__"):
        error: Any = getattr(answer, "error", None)
        said = f": {str(error)[:200]}" if error else ""
        raise BadResponseError(
            f"anthropic/{model} answered 200 without a finished answer{said}",
            status=200,
            request_id=request_id,
        )
    blocks = list(map(_dumped, content))
    return Completion(
        _joined(blocks, "text", "text"),
        _FINISH.get(stop, "stop"),
        reasoning=_joined(blocks, "thinking", "thinking"),
        tool_calls=tuple(
            ToolCall(block["id"], block["name"], json.dumps(block["input"], ensure_ascii=False))
            for block in blocks
            if block["type"] == "tool_use"
        ),
        usage=usage_of(getattr(answer, "usage", None)),
        model=getattr(answer, "model", None) or model,
        provider="anthropic",
        request_id=request_id,
        extra=_extra(blocks),
        headers=headers,
        raw=answer,
    )


class ChunkReader:
    """Reads the events of one stream."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._written: dict[int, list[str]] = {}
        self._calls: dict[int, int] = {}
        self._usage: dict[str, Any] = {}

    def read(self, event: Any) -> Chunk | None:
        """Return what an event brings, or None."""
        match event.type:
            case "message_start":
                return Chunk(model=event.message.model, usage=self._count(event.message.usage))
            case "content_block_start":
                return self._start(event.index, _dumped(event.content_block))
            case "content_block_delta":
                return self._add(event.index, event.delta)
            case "message_delta":
                self._finish_calls()
                stop = event.delta.stop_reason
                reason = _FINISH.get(stop, "stop") if stop else None
                extra = _extra([block for _, block in sorted(self._blocks.items())])
                return Chunk(finish_reason=reason, usage=self._count(event.usage), extra=extra)
            case _:
                return None

    def _count(self, usage: Any) -> Usage | None:
        """Return all that was counted so far: later numbers replace earlier ones."""
        if usage is None:
            # The last event has none: what the first said is of no answer yet.
            return Usage(requests=1, estimated=True)
        given = _dumped(usage)
        self._usage.update({name: value for name, value in given.items() if value is not None})
        return _usage(self._usage)

    def _start(self, index: int, block: dict[str, Any]) -> Chunk | None:
        self._blocks[index] = block
        if block["type"] == "tool_use":
            number = self._calls[index] = len(self._calls)
            return Chunk(tool_calls=(ToolCallDelta(number, block["id"], block["name"]),))
        if block["type"] == "text" and block["text"]:
            return Chunk(block["text"])
        return None

    def _add(self, index: int, delta: Any) -> Chunk | None:
        block = self._blocks[index]
        match delta.type:
            case "text_delta":
                block["text"] += delta.text
                return Chunk(delta.text)
            case "thinking_delta":
                block["thinking"] += delta.thinking
                return Chunk(reasoning=delta.thinking)
            case "signature_delta":
                block["signature"] = (block.get("signature") or "") + delta.signature
                return None
            case "input_json_delta":
                self._written.setdefault(index, []).append(delta.partial_json)
                if index not in self._calls or not delta.partial_json:
                    return None
                call = ToolCallDelta(self._calls[index], arguments=delta.partial_json)
                return Chunk(tool_calls=(call,))
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), _dumped(delta.citation)]
                return None
            case _:
                return None

    def _finish_calls(self) -> None:
        for index, parts in self._written.items():
            written = "".join(parts)
            try:
                self._blocks[index]["input"] = json.loads(written) if written else {}
            except ValueError:
                # Cut at max_tokens: a block that cannot go back.
                self._blocks.pop(index, None)
        self._written.clear()


def usage_of(given: Any) -> Usage:
    """Return Anthropic's usage, whose input excludes what was cached."""
    return Usage(requests=1, estimated=True) if given is None else _usage(_dumped(given))


def _usage(given: Mapping[str, Any]) -> Usage:
    if given.get("input_tokens") is None:
        return Usage(requests=1, estimated=True)
    read = given.get("cache_read_input_tokens") or 0
    written = given.get("cache_creation_input_tokens") or 0
    kinds: dict[str, int | None] = given.get("cache_creation") or {}
    output: dict[str, int | None] = given.get("output_tokens_details") or {}
    return Usage(
        given["input_tokens"] + read + written,
        1,
        output_tokens=given.get("output_tokens") or 0,
        cached_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=kinds.get("ephemeral_1h_input_tokens") or 0,
        reasoning_tokens=output.get("thinking_tokens") or 0,
    )


def _blocks(message: Message) -> list[dict[str, Any]]:
    """Return a message's blocks; the first message of the answer to a call holds its result."""
    own: Mapping[str, Any] = message.extra.get("anthropic") or {}
    if message.role == "tool":
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        content = list(_content(message.content))
        blocks = [{**result, "content": content, **_without(own, "content")}]
    else:
        blocks = _replayed(message, own.get("content")) or [
            *_content(message.content),
            *(
                {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call)}
                for call in message.tool_calls
            ),
        ]
    if blocks:
        blocks[-1] = _cached(blocks[-1], message)
    return blocks


def _system(message: Message) -> list[dict[str, Any]]:
    blocks = list(_content(message.content))
    return [*blocks[:-1], _cached(blocks[-1], message)]


def _cached(block: Mapping[str, Any], message: Message) -> dict[str, Any]:
    """Return the last block of a message, with the mark where it is to be cached up to it."""
    own: Mapping[str, Any] = message.extra.get("anthropic") or {}
    mark = {"cache_control": own["cache_control"]} if "cache_control" in own else {}
    return {**block, **mark}


def _replayed(message: Message, content: Sequence[Mapping[str, Any]] | None) -> list[Any]:
    """Return the blocks of an answer as they came; none where the message was changed since."""
    blocks = [dict(block) for block in content or ()]
    ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
    same = _joined(blocks, "text", "text") == text_of(message)
    return blocks if same and ids == [call.id for call in message.tool_calls] else []


def _content(content: str | Sequence[Part]) -> Iterator[dict[str, Any]]:
    for part in (TextPart(content),) if isinstance(content, str) else content:
        if isinstance(part, TextPart):
            # An empty block is refused.
            if part.text:
                yield {"type": "text", "text": part.text}
        elif isinstance(part, ImagePart):
            yield {"type": "image", "source": _source(part)}
        else:
            yield dict(part)


def _source(image: ImagePart) -> dict[str, Any]:
    known = image_bytes(image)
    if known is None:
        return {"type": "url", "url": image_url(image)}
    media_type, data = known
    encoded = base64.b64encode(data).decode()
    return {"type": "base64", "media_type": media_type, "data": encoded}


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "input_schema": tool.parameters}
    if tool.description:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return written


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    parallel = request.parallel_tool_calls
    if choice is None and parallel is None:
        return None
    named = choice or "auto"
    written: dict[str, Any] = (
        {"type": _CHOICES[named]} if named in _CHOICES else {"type": "tool", "name": named}
    )
    if parallel is not None and named != "none":
        written["disable_parallel_tool_use"] = not parallel
    return written


def _output_config(request: ChatRequest) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
    if request.reasoning_effort is not None:
        config["effort"] = request.reasoning_effort
    return config or None


def _extra(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    if all(block["type"] in _PLAIN for block in blocks):
        return {}
    return {"anthropic": {"content": [_without(block, "citations") for block in blocks]}}


def _joined(blocks: Iterable[Mapping[str, Any]], kind: str, member: str) -> str:
    return "".join(block[member] for block in blocks if block["type"] == kind)


def _without(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key not in {name, "cache_control"}}


def _dumped(model: Any) -> dict[str, Any]:
    """Return the SDK's object as a mapping of what the server sent."""
    return model.to_dict(mode="json") if hasattr(model, "to_dict") else dict(model)
