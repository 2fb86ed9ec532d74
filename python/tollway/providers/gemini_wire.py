"""Requests and answers of Gemini's generateContent."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError, ContentFilterError
from tollway.providers.messages import image_bytes, image_url, only_text, text_in
from tollway.providers.turns import arguments_of, split_system, turns, with_names
from tollway.types import Chunk, Completion, ImagePart, TextPart, ToolCall, ToolCallDelta, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from tollway.providers.base import ChatRequest
    from tollway.types import FinishReason, Message, Part

__all__ = ["ChunkReader", "completion_of", "contents_and_config", "usage_of"]

# https://ai.google.dev/api/generate-content#FinishReason; any other is an error.
_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "BLOCKLIST": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "RECITATION": "content_filter",
    "SAFETY": "content_filter",
    "SPII": "content_filter",
}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
# Models of 2.5 take tokens in place of a level: https://ai.google.dev/gemini-api/docs/openai.
_BUDGETS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}


def contents_and_config(
    model: str, request: ChatRequest, *, thoughts: bool, has_system: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the arguments `contents` and `config` of the SDK for a request.

    Args:
        model: Name of the model.
        request: What is asked.
        thoughts: Whether to ask for what the model thinks.
        has_system: Whether the model takes system prompts; else they stand before the question.
    """
    system, messages = split_system(request.messages)
    named = {
        call.id for message in messages for call in message.tool_calls if "id" in _own(call.extra)
    }
    contents: list[dict[str, Any]] = [
        {"role": "model" if who == "assistant" else "user", "parts": parts}
        for who, parts in turns(with_names(messages), lambda message: _parts(message, named))
    ]
    config: dict[str, Any] = {
        "automatic_function_calling": {"disable": True},
        "http_options": _http_options(request),
    }
    if system:
        parts = [part for message in system for part in _content(message.content)]
        if has_system:
            config["system_instruction"] = {"parts": parts}
        elif contents[0]["role"] == "user":
            contents[0]["parts"][:0] = parts
        else:
            contents.insert(0, {"role": "user", "parts": parts})
    config |= _sampling(request)
    if thinking := _thinking(model, request.reasoning_effort, thoughts=thoughts):
        config["thinking_config"] = thinking
    if request.tools:
        declared = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters_json_schema": tool.parameters,
            }
            for tool in request.tools
        ]
        config["tools"] = [{"function_declarations": declared}]
        if request.tool_choice is not None:
            config["tool_config"] = _tool_config(request.tool_choice)
    if request.response_format is not None:
        config["response_mime_type"] = "application/json"
        if request.response_format.schema is not None:
            config["response_json_schema"] = request.response_format.schema
    return contents, config


def _sampling(request: ChatRequest) -> dict[str, Any]:
    given = {
        "temperature": request.temperature,
        "max_output_tokens": request.max_tokens,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
    }
    return {name: value for name, value in given.items() if value is not None}


def completion_of(answer: Any, model: str) -> Completion:
    """Return the SDK's `GenerateContentResponse` as a `Completion`.

    Raises:
        ContentFilterError: The prompt was blocked.
        BadResponseError: It holds no finished answer.
    """
    reader = ChunkReader(model)
    chunk = reader.read(answer)
    if chunk.finish_reason is None:
        raise BadResponseError(f"gemini/{model} answered 200 without a finished answer", status=200)
    return Completion(
        chunk.text,
        chunk.finish_reason,
        reasoning=chunk.reasoning,
        tool_calls=tuple(
            ToolCall(call.id or "", call.name or "", call.arguments, call.extra)
            for call in chunk.tool_calls
        ),
        usage=chunk.usage or Usage(requests=1, estimated=True),
        model=chunk.model or model,
        provider="gemini",
        request_id=chunk.request_id,
        extra=chunk.extra,
        headers=chunk.headers or {},
        raw=answer,
    )


class ChunkReader:
    """Reads the pieces of one stream; a whole answer is a stream of one piece."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._calls = 0
        self._is_first = True

    def read(self, piece: Any) -> Chunk:
        """Return what a piece brings; the first brings the headers too.

        Raises:
            ContentFilterError: The prompt was blocked.
        """
        headers = headers_of(piece) if self._is_first else None
        self._is_first = False
        candidates = getattr(piece, "candidates", None)
        given = getattr(piece, "usage_metadata", None)
        if not candidates:
            blocked = getattr(getattr(piece, "prompt_feedback", None), "block_reason", None)
            if blocked is not None:
                reason = getattr(blocked, "value", blocked)
                raise ContentFilterError(
                    f"gemini/{self._model} blocked the prompt: {reason}",
                    status=200,
                    code=str(reason),
                )
            return Chunk(usage=None if given is None else usage_of(given), headers=headers)
        candidate = candidates[0]
        text: list[str] = []
        reasoning: list[str] = []
        calls: list[ToolCallDelta] = []
        extra: dict[str, Any] = {}
        for part in getattr(getattr(candidate, "content", None), "parts", None) or ():
            signature = getattr(part, "thought_signature", None)
            signed = {"thought_signature": _encoded(signature)} if signature else {}
            if part.function_call is not None:
                calls.append(self._call(part.function_call, signed))
                continue
            if part.text:
                (reasoning if part.thought else text).append(part.text)
            if signed:
                extra = {"gemini": signed}
        reason = self._finish(candidate)
        usage = None
        if given is not None:
            usage = usage_of(given)
        elif reason is not None:
            usage = Usage(requests=1, estimated=True)
        return Chunk(
            "".join(text),
            "".join(reasoning),
            tuple(calls),
            reason,
            usage,
            getattr(piece, "model_version", None),
            getattr(piece, "response_id", None),
            extra,
            headers,
        )

    def _call(self, call: Any, signed: Mapping[str, Any]) -> ToolCallDelta:
        number, self._calls = self._calls, self._calls + 1
        # AI Studio names its calls, some models do not: within a turn the number does.
        return ToolCallDelta(
            number,
            call.id or f"call_{number}",
            call.name,
            json.dumps(call.args or {}, ensure_ascii=False),
            {"gemini": {**signed, **({"id": call.id} if call.id else {})}},
        )

    def _finish(self, candidate: Any) -> FinishReason | None:
        given = getattr(candidate, "finish_reason", None)
        name = str(getattr(given, "value", given) or "")
        if name in {"", "FINISH_REASON_UNSPECIFIED"}:
            return None
        reason = _FINISH.get(name, "error")
        return "tool_calls" if reason == "stop" and self._calls else reason


def headers_of(answer: Any) -> dict[str, str]:
    """Return the headers of the SDK's answer, names in lower case."""
    given: Mapping[str, str] | None = getattr(
        getattr(answer, "sdk_http_response", None), "headers", None
    )
    return {name.lower(): value for name, value in (given or {}).items()}


def usage_of(given: Any) -> Usage:
    """Return Gemini's usage: thoughts are beside the answer, cached input is part of the prompt."""
    prompt = _number(given, "prompt_token_count")
    if not prompt:
        return Usage(requests=1, estimated=True)
    thoughts = _number(given, "thoughts_token_count")
    inputs = _by_modality(given.prompt_tokens_details)
    outputs = _by_modality(given.candidates_tokens_details)
    return Usage(
        prompt + _number(given, "tool_use_prompt_token_count"),
        1,
        output_tokens=_number(given, "candidates_token_count") + thoughts,
        cached_tokens=_number(given, "cached_content_token_count"),
        reasoning_tokens=thoughts,
        input_audio_tokens=inputs.get("AUDIO", 0),
        input_image_tokens=inputs.get("IMAGE", 0),
        output_audio_tokens=outputs.get("AUDIO", 0),
    )


def _number(of: Any, name: str) -> int:
    value = getattr(of, name, None)
    return value if isinstance(value, int) else 0


def _by_modality(details: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for detail in details or ():
        name = str(getattr(detail.modality, "value", detail.modality))
        counts[name] = counts.get(name, 0) + (detail.token_count or 0)
    return counts


def _http_options(request: ChatRequest) -> dict[str, Any]:
    options: dict[str, Any] = {
        # In milliseconds here.
        "timeout": max(1, round(request.timeout * 1000)),
        "retry_options": {"attempts": 1},
    }
    if request.extra_headers:
        options["headers"] = dict(request.extra_headers)
    if request.extra_body:
        options["extra_body"] = dict(request.extra_body)
    return options


def _thinking(model: str, effort: str | None, *, thoughts: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"include_thoughts": True} if thoughts else {}
    if effort is not None and model.startswith("gemini-2.5") and effort in _BUDGETS:
        config["thinking_budget"] = _BUDGETS[effort]
    elif effort is not None:
        config["thinking_level"] = effort.upper()
    return config


def _tool_config(choice: str) -> dict[str, Any]:
    calling: dict[str, Any] = {"mode": _MODES.get(choice, "ANY")}
    if choice not in _MODES:
        calling["allowed_function_names"] = [choice]
    return {"function_calling_config": calling}


def _own(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what Gemini wants back with a message or a call."""
    return extra.get("gemini") or {}


def _parts(message: Message, named: AbstractSet[str]) -> Iterator[dict[str, Any]]:
    own = _own(message.extra)
    if message.role == "tool":
        yield {"function_response": _function_response(message, named)}
        return
    parts = list(_content(message.content))
    if parts and "thought_signature" in own:
        signature = base64.b64decode(own["thought_signature"])
        parts[-1] = {**parts[-1], "thought_signature": signature}
    yield from parts
    for call in message.tool_calls:
        given = _own(call.extra)
        function: dict[str, Any] = {"name": call.name, "args": arguments_of(call)}
        if "id" in given:
            function["id"] = given["id"]
        part: dict[str, Any] = {"function_call": function}
        if "thought_signature" in given:
            part["thought_signature"] = base64.b64decode(given["thought_signature"])
        yield part


def _function_response(message: Message, named: AbstractSet[str]) -> dict[str, Any]:
    call_id = message.tool_call_id
    return {
        # Tells the results of one tool apart, which was called twice.
        **({"id": call_id} if call_id in named else {}),
        "name": message.name,
        # https://ai.google.dev/api/caching#FunctionResponse: `output` for what a function returned.
        "response": {"output": only_text(message, "Gemini")},
    }


def _content(content: str | Sequence[Part]) -> Iterator[dict[str, Any]]:
    for part in (TextPart(content),) if isinstance(content, str) else content:
        text = text_in(part)
        if text is not None:
            if text:
                yield {"text": text}
        elif isinstance(part, ImagePart):
            known = image_bytes(part)
            if known is None:
                yield {"file_data": {"file_uri": image_url(part)}}
            else:
                yield {"inline_data": {"mime_type": known[0], "data": known[1]}}
        else:
            yield dict(cast("Mapping[str, Any]", part))


def _encoded(signature: bytes) -> str:
    return base64.b64encode(signature).decode()
