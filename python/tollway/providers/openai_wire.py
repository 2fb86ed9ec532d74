"""Requests and answers of chat completions as OpenAI and its likes write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError
from tollway.providers.messages import openai_message, openai_tool
from tollway.providers.openai_calls import CallReader
from tollway.providers.openai_models import THOUGHTS
from tollway.providers.thinking import ThinkSplitter, split_thinking
from tollway.types import Chunk, Completion, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tollway.providers.base import ChatRequest
    from tollway.providers.openai_models import Learned
    from tollway.types import FinishReason, JsonFormat, Message

__all__ = ["ChunkReader", "chat_body", "completion_of", "listed", "usage_of"]

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
    # An answer that was broken off: vLLM's word, DeepSeek's; and Mistral's for a full window.
    "abort": "error",
    "insufficient_system_resource": "error",
    "model_length": "context_window",
}


def chat_body(model: str, request: ChatRequest, learned: Learned) -> dict[str, Any]:
    """Return the body of a request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message, learned) for message in request.messages],
    }
    parameters = learned.capabilities.parameters
    for name, value in (
        ("temperature", request.temperature),
        (learned.max_tokens, request.max_tokens),
        ("top_p", request.top_p),
        ("stop", list(request.stop) or None),
        ("seed", request.seed),
        ("presence_penalty", request.presence_penalty),
        ("frequency_penalty", request.frequency_penalty),
        ("reasoning_effort", request.reasoning_effort),
        ("parallel_tool_calls", request.parallel_tool_calls),
    ):
        # A retry of a request that was built before the model refused a default.
        is_refused = name in request.defaults and name not in parameters
        if value is not None and not is_refused:
            body[name] = value
    if "max_tokens" in request.defaults and "max_tokens" not in parameters:
        body.pop(learned.max_tokens, None)
    if request.tools:
        body["tools"] = [openai_tool(tool) for tool in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format)
    body.update(request.extra_body)
    return body


def completion_of(
    answer: object, headers: Mapping[str, str], provider: str, *, model: str, split: bool
) -> Completion:
    """Return an answer's JSON as a `Completion`.

    Args:
        answer: What the server sent with the status 200.
        headers: Of the answer.
        provider: Who answered.
        model: Its name where the answer has none.
        split: Whether reasoning may stand in the text.

    Raises:
        BadResponseError: It holds no finished answer.
    """
    request_id = headers.get("x-request-id")
    named = _members(answer)
    choice = _first(named.get("choices"))
    message = choice.get("message")
    finish = choice.get("finish_reason")
    if not isinstance(message, dict) or not finish:
        what = "without a finish reason" if message else f"200 without an answer{_said(answer)}"
        raise BadResponseError(
            f"{provider}/{model} answered {what}", status=200, request_id=request_id
        )
    said = cast("dict[str, Any]", message)
    text, reasoning = _content(said.get("content"))
    reasoning = _reasoning(said) or reasoning
    if split and not reasoning and "think>" in text:
        reasoning, text = split_thinking(text)
    calls = tuple(
        ToolCall(each.id or "", each.name or "", each.arguments)
        for each in CallReader().read(said.get("tool_calls"))
    )
    reason = _FINISH.get(finish, "stop")
    refusal = said.get("refusal")
    if refusal:
        text, reason = text or refusal, "refusal"
    elif calls and reason == "stop":
        reason = "tool_calls"
    return Completion(
        text,
        reason,
        reasoning,
        calls,
        usage_of(named.get("usage")),
        extra=_thoughts(said.get("reasoning_content")) if calls else {},
        model=named.get("model") or model,
        provider=provider,
        request_id=request_id,
        headers=headers,
        raw=answer,
    )


class ChunkReader:
    """Reads the pieces of one stream.

    Args:
        split: Whether reasoning may stand in the text.
    """

    def __init__(self, *, split: bool) -> None:
        self._splitter = ThinkSplitter() if split else None
        self._ends: dict[str, FinishReason] = dict(_FINISH)
        self._thoughts: list[str] = []
        self._calls = CallReader()

    def read(self, event: object) -> Chunk | None:
        """Return an event's JSON as a `Chunk`; None where it brings nothing."""
        named = _members(event)
        # Groq's older place for it.
        usage = named.get("usage") or _members(named.get("x_groq")).get("usage")
        counted = None if usage is None else usage_of(usage)
        model = named.get("model") or None
        choice = _first(named.get("choices"))
        if not choice or choice.get("index"):
            # The last one with the usage, or the first of Azure, about its filter; or one of
            # further answers, which were asked for by `n`.
            return None if counted is None else Chunk(usage=counted, model=model)
        delta = _members(choice.get("delta"))
        text, reasoning = _content(delta.get("content"))
        reasoning = _reasoning(delta) or reasoning
        if self._splitter is not None and text:
            thought, text = self._splitter.feed(text)
            reasoning += thought
        if refusal := delta.get("refusal"):
            text += refusal
            self._ends["stop"] = "refusal"
        calls = tuple(self._calls.read(delta.get("tool_calls")))
        if calls:
            self._ends["stop"] = "tool_calls"
        self._thoughts.append(delta.get("reasoning_content") or "")
        finish = choice.get("finish_reason")
        reason = self._ends.get(finish, "stop") if finish else None
        extra = _thoughts("".join(self._thoughts)) if reason == "tool_calls" else {}
        return Chunk(text, reasoning, calls, reason, counted, model, extra=extra)

    def end(self) -> Chunk | None:
        """Return what was held back, or None."""
        if self._splitter is None:
            return None
        reasoning, text = self._splitter.end()
        return Chunk(text, reasoning) if reasoning or text else None


def usage_of(given: object) -> Usage:
    """Return usage as OpenAI and its likes report it; estimated where there is none."""
    named = _members(given)
    input_tokens = named.get("prompt_tokens")
    if not isinstance(input_tokens, int):
        return Usage(requests=1, estimated=True)
    details = _members(named.get("prompt_tokens_details"))
    output_details = _members(named.get("completion_tokens_details"))
    output_tokens = _number(named, "completion_tokens")
    reasoning_tokens = _number(output_details, "reasoning_tokens")
    # Within the answer's at OpenAI, beside them at xAI and in Gemini's form of this API.
    if input_tokens + output_tokens + reasoning_tokens == named.get("total_tokens"):
        output_tokens += reasoning_tokens
    return Usage(
        input_tokens,
        1,
        output_tokens=output_tokens,
        # DeepSeek's own name for the same.
        cached_tokens=_number(details, "cached_tokens")
        or _number(named, "prompt_cache_hit_tokens"),
        cache_write_tokens=_number(details, "cache_write_tokens"),
        reasoning_tokens=reasoning_tokens,
        input_audio_tokens=_number(details, "audio_tokens"),
        input_image_tokens=_number(details, "image_tokens"),
        output_audio_tokens=_number(output_details, "audio_tokens"),
    )


def listed(answer: object) -> tuple[str, ...] | None:
    """Return the names in a list of models; None where the answer holds no such list.

    Together's answer is the list itself.
    """
    given = cast("object", answer if isinstance(answer, list) else _members(answer).get("data"))
    if not isinstance(given, list):
        return None
    names = [_members(model).get("id") for model in cast("list[object]", given)]
    return tuple(name for name in names if isinstance(name, str))


def _members(value: object) -> dict[str, Any]:
    """Return a JSON object, or an empty one for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _first(value: object) -> dict[str, Any]:
    return _members(cast("list[object]", value)[0]) if isinstance(value, list) and value else {}


def _number(of: dict[str, Any], name: str) -> int:
    value = of.get(name)
    return value if isinstance(value, int) else 0


def _message(message: Message, learned: Learned) -> dict[str, Any]:
    written = openai_message(message)
    if message.role == "developer":
        written["role"] = learned.developer
    further: dict[str, Any] = dict(message.extra.get("openai") or {})
    if learned.thoughts_back:
        further |= message.extra.get(THOUGHTS) or {}
    return {**further, **written}


def _thoughts(reasoning: object) -> dict[str, Any]:
    return {THOUGHTS: {"reasoning_content": reasoning}} if reasoning else {}


def _tool_choice(choice: str) -> Any:
    if choice in {"auto", "none", "required"}:
        return choice
    return {"type": "function", "function": {"name": choice}}


def _response_format(wanted: JsonFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": schema}


def _content(content: Any) -> tuple[str, str]:
    """Return (text, reasoning) of content that is text, nothing, or parts (Mistral's)."""
    if isinstance(content, str):
        return content, ""
    text: list[str] = []
    reasoning: list[str] = []
    for part in content if isinstance(content, list) else ():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(part, dict):
            continue
        named = cast("dict[str, Any]", part)
        if "thinking" in named:
            reasoning.append(_content(named["thinking"])[0])
        elif isinstance(named.get("text"), str):
            text.append(named["text"])
    return "".join(text), "".join(reasoning)


def _reasoning(message: dict[str, Any]) -> str:
    """Return reasoning that stands apart: DeepSeek's and vLLM's name, then OpenRouter's."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _said(answer: object) -> str:
    """Return what a server says in place of an answer, for the message of an error."""
    error = _members(answer).get("error")
    text = _members(error).get("message") or error
    return "" if not text else f": {str(text)[:200]}"
