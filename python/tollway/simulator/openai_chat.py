"""OpenAI's chat completions: request bodies, answers, and answers in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tollway.simulator.answers import Answer, Conversation, Said, answer_to, cached_of, pieces
from tollway.simulator.openai import MODELS, Refusal, arguments_of, invalid
from tollway.simulator.server import Response
from tollway.simulator.vectors import digest
from tollway.tokens import count_messages, encoding_for_model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tollway.simulator.formats import Behaviour

__all__ = ["ChatCall", "read_chat"]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
# What the reference of POST /v1/chat/completions names, as far as it is taken here.
_ARGUMENTS = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "top_p",
        "n",
        "stream",
        "stream_options",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "user",
        "metadata",
        "store",
        "logprobs",
        "top_logprobs",
        "service_tier",
        "verbosity",
        "prompt_cache_key",
        "safety_identifier",
    }
)
_REASONING = ("gpt-5", "o1", "o3", "o4")
_FINISH = {"refusal": "stop"}


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A request for a chat completion that is in order.

    Attributes:
        model: Name of the model that answers.
        texts: The text of the last message.
        tokens: What the request is charged: the larger of its prompt and the most it may answer.
        prompt_tokens: Tokens of the prompt.
        said: What is answered.
        is_stream: Whether the answer comes in pieces.
        has_usage: Whether its last piece is the usage.
        azure: Whether the answer is in Azure's form.
        behaviour: How this endpoint differs.
    """

    model: str
    texts: list[str]
    tokens: int
    prompt_tokens: int
    said: Answer
    is_stream: bool
    has_usage: bool
    azure: bool
    behaviour: Behaviour

    @property
    def rows(self) -> int:
        """0: a completion has none."""
        return 0

    def answer(self, fault: str | None, hit: int) -> Response:
        """Write the answer as a fault leaves it."""
        del hit
        if fault == "content_filter":
            raise _filtered()
        if fault == "error_body":
            return Response(200, b'{"error":{"message":"upstream failed","code":"upstream"}}')
        if fault == "empty_answer":
            return Response(200, json.dumps({**self._head(), "choices": None}).encode())
        if self.is_stream:
            cut = 1 if fault == "truncated" else None
            return Response(200, b"", cut=cut, parts=self._events(fault))
        choice: dict[str, Any] = {
            "index": 0,
            "message": self._message(),
            "finish_reason": None if fault == "unfinished" else self._finish,
        }
        if self.azure:
            choice["content_filter_results"] = {"hate": {"filtered": False, "severity": "safe"}}
        usage = None if fault == "no_usage" else self._usage()
        body = json.dumps({**self._head(), "choices": [choice], "usage": usage}).encode()
        return Response(200, body, cut=len(body) // 2 if fault == "truncated" else None)

    @property
    def _finish(self) -> str:
        return _FINISH.get(self.said.finish, self.said.finish)

    def _head(self, kind: str = "chat.completion") -> dict[str, Any]:
        return {"id": "chatcmpl-simulated", "object": kind, "created": 0, "model": self.model}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.said.tokens,
            "total_tokens": self.prompt_tokens + self.said.tokens,
            "prompt_tokens_details": {
                "cached_tokens": cached_of(self.prompt_tokens),
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": self.said.reasoning_tokens},
        }

    def _text(self) -> str:
        said = self.said
        if said.reasoning and self.behaviour.reasoning == "tags":
            return f"<think>{said.reasoning}</think>\n\n{said.text}"
        if said.reasoning and self.behaviour.reasoning == "headless":
            return f"{said.reasoning}</think>\n\n{said.text}"
        return said.text

    def _reasoning(self) -> str:
        return self.said.reasoning if self.behaviour.reasoning == "apart" else ""

    def _message(self) -> dict[str, Any]:
        refused = self.said.finish == "refusal"
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if refused or self.said.tools else self._text(),
            "refusal": self.said.text if refused else None,
        }
        if reasoning := self._reasoning():
            message["reasoning_content"] = reasoning
        if self.said.tools:
            message["tool_calls"] = [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": use.name, "arguments": json.dumps(use.arguments)},
                }
                for number, use in enumerate(self.said.tools)
            ]
        return message

    async def _events(self, fault: str | None) -> AsyncGenerator[bytes, None]:
        deltas = list(self._deltas())
        if fault in {"truncated", "unfinished", "stream_error"}:
            deltas = deltas[: max(2, len(deltas) // 2)]
        head = self._head("chat.completion.chunk")
        if self.azure:
            filtered = {"prompt_filter_results": [{"prompt_index": 0}]}
            yield _event({**head, "model": "", "choices": [], **filtered})
        for number, delta in enumerate(deltas):
            if number and self.behaviour.piece_delay:
                await asyncio.sleep(self.behaviour.piece_delay)
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield _event({**head, "choices": [choice]})
        if fault == "stream_error":
            yield _event({"error": {"message": "it failed on the way", "type": "server_error"}})
        if fault in {"truncated", "stream_error"}:
            return
        if fault != "unfinished":
            end: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": self._finish}
            yield _event({**head, "choices": [end]})
        if self.has_usage:
            usage = None if fault == "no_usage" else self._usage()
            yield _event({**head, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        for piece in pieces(self._reasoning()):
            yield {"reasoning_content": piece}
        if self.said.finish == "refusal":
            for piece in pieces(self.said.text):
                yield {"refusal": piece}
        elif not self.said.tools:
            for piece in pieces(self._text()):
                yield {"content": piece}
        for number, use in enumerate(self.said.tools):
            function = {"name": use.name, "arguments": ""}
            call = {"index": number, "id": f"call_{number}", "type": "function"}
            yield {"tool_calls": [{**call, "function": function}]}
            written = json.dumps(use.arguments)
            for start in range(0, len(written), 8):
                part = {"index": number, "function": {"arguments": written[start : start + 8]}}
                yield {"tool_calls": [part]}


def read_chat(
    body: bytes, behaviour: Behaviour, *, deployment: str | None, azure: bool
) -> ChatCall:
    """Read and check the body of a request for a chat completion.

    Args:
        body: JSON.
        behaviour: How this endpoint differs.
        deployment: The model by the path, in place of one in the body.
        azure: Whether to answer in Azure's form.
    """
    arguments = arguments_of(body)
    model = deployment or arguments.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "you must provide a model parameter")
    if model in MODELS or model.startswith("missing-"):
        raise Refusal(404, f"The model '{model}' does not exist", code="model_not_found")
    _check_arguments(arguments, model, behaviour)
    said = [_said(number, given) for number, given in enumerate(_list(arguments, "messages"))]
    if not said:
        raise invalid("messages", "expected at least one message")
    most = arguments.get("max_completion_tokens") or arguments.get("max_tokens")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise invalid("max_tokens", "expected an integer from 1")
    tools = [cast("dict[str, Any]", tool)["function"] for tool in _list(arguments, "tools")]
    prompt_tokens = int(
        count_messages(
            cast("list[dict[str, object]]", arguments["messages"]),
            "gpt-4o" if azure else model,
            cast("list[dict[str, object]]", arguments.get("tools")),
            # Not the estimate that a client in this process would share and move.
            tokenizer=encoding_for_model("gpt-4o" if azure else model, "o200k_base"),
        )
    )
    window = behaviour.context_window
    if window is not None and prompt_tokens > window:
        raise Refusal(
            400,
            f"This model's maximum context length is {window} tokens. However, your messages "
            f"resulted in {prompt_tokens} tokens.",
            param="messages",
            code="context_length_exceeded",
        )
    if any("[[filtered]]" in message.text for message in said):
        raise _filtered()
    stream: Any = arguments.get("stream_options") or {}
    return ChatCall(
        "gpt-4o-2024-11-20" if azure else model,
        [said[-1].text],
        max(prompt_tokens, most or 0),
        prompt_tokens,
        answer_to(_conversation(arguments, said, tools, most)),
        bool(arguments.get("stream")),
        bool(stream.get("include_usage")),
        azure,
        behaviour,
    )


def _check_arguments(arguments: Mapping[str, Any], model: str, behaviour: Behaviour) -> None:
    for name in sorted(arguments.keys() & behaviour.refuses):
        raise Refusal(400, f"Unrecognized request argument supplied: {name}", param=name)
    unknown = arguments.keys() - _ARGUMENTS
    if unknown:
        raise Refusal(400, f"Unrecognized request argument supplied: {', '.join(sorted(unknown))}")
    wanted: dict[str, Any] = arguments.get("response_format") or {}
    if wanted.get("type") in behaviour.refuses:
        raise Refusal(
            400,
            f"Invalid parameter: 'response_format' of type '{wanted['type']}' is not supported",
            param="response_format",
        )
    temperature = arguments.get("temperature")
    is_number = isinstance(temperature, int | float)
    if temperature is not None and not (is_number and 0 <= temperature <= 2):
        raise invalid("temperature", "expected a number from 0 to 2")
    if model.startswith(_REASONING) and "chat" not in model:
        if "max_tokens" in arguments:
            raise Refusal(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                param="max_tokens",
                code="unsupported_parameter",
            )
        if temperature not in {None, 1}:
            raise Refusal(
                400,
                f"Unsupported value: 'temperature' does not support {temperature} with this model. "
                "Only the default (1) value is supported.",
                param="temperature",
                code="unsupported_value",
            )
    roles = {message.get("role") for message in _list(arguments, "messages")}
    if "developer" in roles and "developer" in behaviour.refuses:
        raise Refusal(400, "messages: unexpected role 'developer'", param="messages")


def _conversation(
    arguments: Mapping[str, Any], said: list[Said], tools: list[dict[str, Any]], most: int | None
) -> Conversation:
    choice = arguments.get("tool_choice") or "auto"
    if isinstance(choice, Mapping):
        choice = cast("Any", choice)["function"]["name"]
    wanted: dict[str, Any] = arguments.get("response_format") or {}
    given: Any = arguments.get("stop")
    stop: list[Any] = [given] if isinstance(given, str) else _list(arguments, "stop")
    if not all(isinstance(text, str) for text in stop):
        raise invalid("stop", "expected a string or an array of strings")
    return Conversation(
        said,
        {tool["name"]: tool.get("parameters") or {} for tool in tools},
        choice,
        wanted.get("json_schema", {}).get("schema"),
        wanted.get("type") == "json_object",
        most,
        stop,
    )


def _said(number: int, given: object) -> Said:
    message: Mapping[str, Any] = cast("Any", given) if isinstance(given, Mapping) else {}
    role = message.get("role")
    if role not in _ROLES:
        raise invalid(f"messages[{number}].role", f"expected one of {', '.join(sorted(_ROLES))}")
    calls = tuple(call["function"]["name"] for call in message.get("tool_calls") or ())
    content = message.get("content")
    if content is None and not calls:
        raise invalid(f"messages[{number}].content", "expected text or an array of parts")
    if role == "tool" and not message.get("tool_call_id"):
        raise invalid(f"messages[{number}]", "a result of a tool needs its 'tool_call_id'")
    if content is None or isinstance(content, str):
        return Said(role, content or "", calls=calls)
    texts: list[str] = []
    images: list[str] = []
    for part in cast("list[dict[str, Any]]", content):
        if part.get("type") == "text":
            texts.append(part["text"])
        elif part.get("type") == "image_url":
            images.append(digest(part["image_url"]["url"]))
        else:
            raise invalid(f"messages[{number}].content", f"unknown part {part.get('type')!r}")
    return Said(role, "\n\n".join(texts), tuple(images), calls)


def _list(arguments: Mapping[str, Any], name: str) -> list[Any]:
    value = arguments.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(name, "expected an array")
    return value  # pyright: ignore[reportUnknownVariableType]


def _filtered() -> Refusal:
    return Refusal(
        400,
        "The response was filtered due to the prompt triggering the content management policy.",
        param="prompt",
        code="content_filter",
    )


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
