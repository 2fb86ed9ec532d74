"""Requests and answers of Bedrock's Converse."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError, ConfigurationError
from tollway.providers.messages import image_bytes, text_in, text_of
from tollway.providers.turns import arguments_of, split_system, turns
from tollway.types import Chunk, Completion, ImagePart, TextPart, ToolCall, ToolCallDelta, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tollway.providers.base import ChatRequest
    from tollway.types import FinishReason, Message, Part

__all__ = ["ChunkReader", "completion_of", "converse_arguments"]

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
    "model_context_window_exceeded": "context_window",
}


def converse_arguments(model: str, request: ChatRequest) -> dict[str, Any]:
    """Return the arguments of `converse` and `converse_stream` for a request.

    Raises:
        ConfigurationError: Something that boto3 has no place for.
    """
    if request.extra_headers:
        raise ConfigurationError("boto3 takes no headers for a call: leave out extra_headers")
    system, messages = split_system(request.messages)
    arguments: dict[str, Any] = {
        "modelId": model,
        "messages": [
            {"role": who, "content": blocks}
            for who, blocks in turns(
                messages, lambda message: (*_blocks(message), *_cache_point(message))
            )
        ],
    }
    if system:
        arguments["system"] = [
            block
            for message in system
            for block in (*_content(message.content), *_cache_point(message))
        ]
    # Newer models of Anthropic take one of temperature and topP, thinking ones neither.
    further: Mapping[str, Any] = request.extra_body.get("additionalModelRequestFields") or {}
    thinking: Mapping[str, Any] = further.get("thinking") or {}
    is_implied = "temperature" in request.defaults and (
        request.top_p is not None or thinking.get("type", "disabled") != "disabled"
    )
    given = {
        "maxTokens": request.max_tokens,
        "temperature": None if is_implied else request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
    }
    inference = {name: value for name, value in given.items() if value is not None}
    if inference:
        arguments["inferenceConfig"] = inference
    if (tools := _tool_config(request)) is not None:
        arguments["toolConfig"] = tools
    if (output := _output_config(request)) is not None:
        arguments["outputConfig"] = output
    return {**arguments, **request.extra_body}


def completion_of(answer: Mapping[str, Any], model: str) -> Completion:
    """Return boto3's answer as a `Completion`.

    Raises:
        BadResponseError: It holds no finished answer.
    """
    metadata: Mapping[str, Any] = answer.get("ResponseMetadata") or {}
    output: Mapping[str, Any] = answer.get("output") or {}
    stop = answer.get("stopReason")
    if not stop or "message" not in output:
        raise BadResponseError(
            f"bedrock/{model} answered 200 without a finished answer",
            status=200,
            request_id=metadata.get("RequestId"),
        )
    blocks: list[dict[str, Any]] = output["message"].get("content") or []
    calls = [block["toolUse"] for block in blocks if "toolUse" in block]
    return Completion(
        "".join(block["text"] for block in blocks if "text" in block),
        _FINISH.get(stop, "stop"),
        reasoning="".join(_thought(block) for block in blocks),
        tool_calls=tuple(
            ToolCall(call["toolUseId"], call["name"], json.dumps(call["input"], ensure_ascii=False))
            for call in calls
        ),
        usage=_usage(answer.get("usage")),
        model=model,
        provider="bedrock",
        request_id=metadata.get("RequestId"),
        extra=_extra(blocks),
        headers=metadata.get("HTTPHeaders") or {},
        raw=answer,
    )


class ChunkReader:
    """Reads the events of one stream."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._written: dict[int, str] = {}
        self._calls: dict[int, int] = {}

    def read(self, event: Mapping[str, Any]) -> Chunk | None:
        """Return what an event brings, or None; the first is the answer without its stream."""
        if "ResponseMetadata" in event:
            metadata: Mapping[str, Any] = event["ResponseMetadata"]
            headers: Mapping[str, str] = metadata.get("HTTPHeaders") or {}
            return Chunk(headers=headers, request_id=metadata.get("RequestId"))
        if "contentBlockStart" in event:
            return self._start(event["contentBlockStart"])
        if "contentBlockDelta" in event:
            given = event["contentBlockDelta"]
            return self._add(given["contentBlockIndex"], given["delta"])
        if "messageStop" in event:
            self._finish_calls()
            extra = _extra([block for _, block in sorted(self._blocks.items())])
            reason = _FINISH.get(event["messageStop"]["stopReason"], "stop")
            return Chunk(finish_reason=reason, extra=extra)
        if "metadata" in event:
            return Chunk(usage=_usage(event["metadata"].get("usage")))
        return None

    def _start(self, given: Mapping[str, Any]) -> Chunk | None:
        start: Mapping[str, Any] = given.get("start") or {}
        if "toolUse" not in start:
            return None
        index: int = given["contentBlockIndex"]
        call: dict[str, Any] = dict(start["toolUse"])
        self._blocks[index] = {"toolUse": call}
        number = self._calls[index] = len(self._calls)
        return Chunk(tool_calls=(ToolCallDelta(number, call["toolUseId"], call["name"]),))

    def _add(self, index: int, delta: Mapping[str, Any]) -> Chunk | None:
        if "text" in delta:
            block = self._blocks.setdefault(index, {"text": ""})
            block["text"] += delta["text"]
            return Chunk(delta["text"])
        if "toolUse" in delta and index in self._calls:
            written: str = delta["toolUse"].get("input") or ""
            self._written[index] = self._written.get(index, "") + written
            if not written:
                return None
            return Chunk(tool_calls=(ToolCallDelta(self._calls[index], arguments=written),))
        if "reasoningContent" in delta:
            return self._think(index, delta["reasoningContent"])
        return None

    def _think(self, index: int, thought: Mapping[str, Any]) -> Chunk | None:
        if "redactedContent" in thought:
            self._blocks[index] = {"reasoningContent": dict(thought)}
            return None
        block = self._blocks.setdefault(index, {"reasoningContent": {"reasoningText": {}}})
        text: dict[str, str] = block["reasoningContent"]["reasoningText"]
        for name in ("text", "signature"):
            if name in thought:
                text[name] = text.get(name, "") + thought[name]
        return Chunk(reasoning=thought["text"]) if thought.get("text") else None

    def _finish_calls(self) -> None:
        for index in self._calls:
            written = self._written.get(index, "")
            try:
                self._blocks[index]["toolUse"]["input"] = json.loads(written) if written else {}
            except ValueError:
                # Cut at the length: a block that cannot go back.
                self._blocks.pop(index)


def _usage(given: Mapping[str, Any] | None) -> Usage:
    """Return Bedrock's usage, whose input excludes what was cached."""
    if not given or "inputTokens" not in given:
        return Usage(requests=1, estimated=True)
    read: int = given.get("cacheReadInputTokens") or 0
    written: int = given.get("cacheWriteInputTokens") or 0
    details: list[Mapping[str, Any]] = given.get("cacheDetails") or []
    return Usage(
        given["inputTokens"] + read + written,
        1,
        output_tokens=given.get("outputTokens") or 0,
        cached_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=sum(
            detail["inputTokens"] for detail in details if detail.get("ttl") == "1h"
        ),
    )


def _thought(block: Mapping[str, Any]) -> str:
    content: Mapping[str, Any] = block.get("reasoningContent") or {}
    text: Mapping[str, str] = content.get("reasoningText") or {}
    return text.get("text", "")


def _extra(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the blocks to send back as they came, where any is signed; its bytes as base64."""
    if not any("reasoningContent" in block for block in blocks):
        return {}
    return {"bedrock": {"content": [_recoded(block, base64.b64encode) for block in blocks]}}


def _recoded(block: Mapping[str, Any], code: Any) -> dict[str, Any]:
    thought: Mapping[str, Any] = block.get("reasoningContent") or {}
    if "redactedContent" not in thought:
        return dict(block)
    coded: Any = code(thought["redactedContent"])
    is_encoded = code is base64.b64encode
    redacted = coded.decode() if is_encoded else coded
    return {"reasoningContent": {"redactedContent": redacted}}


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        content = list(_content(message.content)) or [{"text": ""}]
        return [{"toolResult": {"toolUseId": message.tool_call_id, "content": content}}]
    own: Mapping[str, Any] = message.extra.get("bedrock") or {}
    return _replayed(message, own.get("content")) or [
        *_content(message.content),
        *(
            {"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments_of(call)}}
            for call in message.tool_calls
        ),
    ]


def _cache_point(message: Message) -> list[dict[str, Any]]:
    """Return the mark that the conversation is to be cached up to the end of a message."""
    own: Mapping[str, Any] = message.extra.get("bedrock") or {}
    return [{"cachePoint": own["cachePoint"]}] if "cachePoint" in own else []


def _replayed(
    message: Message, content: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the blocks of an answer as they came; none where the message was changed since."""
    blocks = [_recoded(block, base64.b64decode) for block in content or ()]
    ids = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
    same = "".join(block["text"] for block in blocks if "text" in block) == text_of(message)
    return blocks if same and ids == [call.id for call in message.tool_calls] else []


def _content(content: str | Sequence[Part]) -> Iterator[dict[str, Any]]:
    for part in (TextPart(content),) if isinstance(content, str) else content:
        text = text_in(part)
        if text is not None:
            # A blank block is refused.
            if text.strip():
                yield {"text": text}
        elif isinstance(part, ImagePart):
            known = image_bytes(part)
            if known is None:
                raise ConfigurationError(
                    "Bedrock takes images as bytes or data: URLs, not their addresses"
                )
            kind = known[0].rpartition("/")[2].replace("jpg", "jpeg")
            yield {"image": {"format": kind, "source": {"bytes": known[1]}}}
        else:
            yield dict(cast("Mapping[str, Any]", part))


def _tool_config(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    tools = [
        {
            "toolSpec": {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                **({} if tool.strict is None else {"strict": tool.strict}),
                "inputSchema": {"json": tool.parameters},
            }
        }
        for tool in (() if choice == "none" else request.tools)
    ]
    if not tools:
        # Calls in the conversation need their tools declared, also where none may be called.
        called = {call.name for message in request.messages for call in message.tool_calls}
        anything = {"inputSchema": {"json": {"type": "object"}}}
        tools = [{"toolSpec": {"name": name, **anything}} for name in sorted(called)]
        return {"tools": tools} if tools else None
    config: dict[str, Any] = {"tools": tools}
    if choice is not None:
        known: dict[str, Any] = {"auto": {"auto": {}}, "required": {"any": {}}}
        config["toolChoice"] = known.get(choice, {"tool": {"name": choice}})
    return config


def _output_config(request: ChatRequest) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        schema = {"schema": json.dumps(wanted.schema), "name": wanted.name}
        config["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}
    if request.reasoning_effort is not None:
        config["effort"] = request.reasoning_effort
    return config or None
