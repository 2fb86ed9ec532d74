"""Requests and answers of Ollama's /api/chat."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError, ConfigurationError
from tollway.providers.messages import image_bytes, only_text, openai_tool
from tollway.providers.thinking import ThinkSplitter, split_thinking
from tollway.providers.turns import arguments_of, with_names
from tollway.types import Chunk, Completion, ImagePart, ToolCall, ToolCallDelta, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tollway.providers.base import ChatRequest
    from tollway.types import FinishReason, Message

__all__ = ["ChunkReader", "chat_body", "completion_of"]

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def chat_body(model: str, request: ChatRequest, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        model: Name of the model.
        request: What is asked.
        options: The server's options beside those of the request.

    Raises:
        ConfigurationError: A choice of tools, which Ollama does not have, or an image's address.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in with_names(request.messages)],
        "options": {**options, **_options(request, options)},
    }
    if request.tools and request.tool_choice != "none":
        if request.tool_choice not in {None, "auto"}:
            raise ConfigurationError(
                f"ollama/{model} takes no tool_choice but auto and none, not {request.tool_choice}"
            )
        body["tools"] = [openai_tool(tool) for tool in request.tools]
    wanted = request.response_format
    if wanted is not None:
        body["format"] = "json" if wanted.schema is None else wanted.schema
    if request.reasoning_effort is not None:
        effort = request.reasoning_effort
        body["think"] = {"none": False, "true": True}.get(effort, effort)
    return body


def completion_of(answer: Mapping[str, Any], headers: Mapping[str, str], model: str) -> Completion:
    """Return an answer as a `Completion`.

    Raises:
        BadResponseError: It holds no finished answer.
    """
    given: Any = answer.get("message")
    if not answer.get("done") or not isinstance(given, dict):
        raise BadResponseError(f"ollama/{model} answered 200 without a finished answer", status=200)
    message = cast("dict[str, Any]", given)
    text, reasoning = _text(message, "content"), _text(message, "thinking")
    if not reasoning and "think>" in text:
        reasoning, text = split_thinking(text)
    calls = tuple(
        ToolCall(_id(call, number), _function(call)["name"], _arguments(call))
        for number, call in enumerate(message.get("tool_calls") or ())
    )
    return Completion(
        text,
        _finish(answer, has_calls=bool(calls)),
        reasoning=reasoning,
        tool_calls=calls,
        usage=_usage(answer),
        model=answer.get("model") or model,
        provider="ollama",
        headers=headers,
        raw=answer,
    )


class ChunkReader:
    """Reads the lines of one stream."""

    def __init__(self) -> None:
        self._splitter = ThinkSplitter()
        self._calls = 0

    def read(self, piece: Mapping[str, Any]) -> Chunk:
        """Return what a line brings."""
        message: dict[str, Any] = piece.get("message") or {}
        thought, text = self._splitter.feed(_text(message, "content"))
        calls: list[ToolCallDelta] = []
        for call in message.get("tool_calls") or ():
            number, self._calls = self._calls, self._calls + 1
            name = _function(call)["name"]
            calls.append(ToolCallDelta(number, _id(call, number), name, _arguments(call)))
        is_done = bool(piece.get("done"))
        if is_done:
            held_thought, held = self._splitter.end()
            thought, text = thought + held_thought, text + held
        return Chunk(
            text,
            _text(message, "thinking") + thought,
            tuple(calls),
            _finish(piece, has_calls=self._calls > 0) if is_done else None,
            _usage(piece) if is_done else None,
            piece.get("model"),
        )


def _message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    text = only_text(message, "Ollama", images=True)
    written: dict[str, Any] = {"role": role, "content": text}
    if message.role == "tool":
        written["tool_name"] = message.name
    if not isinstance(message.content, str):
        images = [_image(part) for part in message.content if isinstance(part, ImagePart)]
        if images:
            written["images"] = images
    if message.tool_calls:
        # An object here, where other APIs have text.
        written["tool_calls"] = [
            {"function": {"name": call.name, "arguments": arguments_of(call)}}
            for call in message.tool_calls
        ]
    return {**(message.extra.get("ollama") or {}), **written}


def _image(part: ImagePart) -> str:
    known = image_bytes(part)
    if known is None:
        raise ConfigurationError("Ollama takes images as bytes or data: URLs, not their addresses")
    return base64.b64encode(known[1]).decode()


def _options(request: ChatRequest, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the server's options for a request; a default replaces none of the user's own."""
    temperature, most = (
        None if name in request.defaults and option in own else getattr(request, name)
        for name, option in (("temperature", "temperature"), ("max_tokens", "num_predict"))
    )
    given = {
        "temperature": temperature,
        "num_predict": most,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
    }
    return {name: value for name, value in given.items() if value is not None}


def _finish(answer: Mapping[str, Any], *, has_calls: bool) -> FinishReason:
    # Servers before 0.1.39 give no reason; `load` and `unload` are about the model.
    reason = _FINISH.get(answer.get("done_reason") or "stop", "error")
    return "tool_calls" if has_calls and reason == "stop" else reason


def _usage(answer: Mapping[str, Any]) -> Usage:
    """Return what was counted; a prompt whose beginning was kept may have no count."""
    prompt, written = answer.get("prompt_eval_count"), answer.get("eval_count")
    if not prompt or not isinstance(prompt, int):
        return Usage(requests=1, estimated=True)
    return Usage(prompt, 1, output_tokens=written if isinstance(written, int) else 0)


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name) or ""
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function: Mapping[str, Any] = call["function"]
    return function


def _id(call: Mapping[str, Any], number: int) -> str:
    """Return the call's name for itself, which newer servers give."""
    return str(call.get("id") or f"call_{number}")


def _arguments(call: Mapping[str, Any]) -> str:
    return json.dumps(_function(call).get("arguments") or {}, ensure_ascii=False)
