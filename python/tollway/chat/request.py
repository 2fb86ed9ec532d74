"""From what a caller writes to one request in the terms of no provider."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast, get_args

from tollway.errors import ConfigurationError
from tollway.providers.base import ChatParameter, ChatRequest
from tollway.providers.messages import openai_message, openai_tool, read_message
from tollway.tokens.counts import without_surrogates
from tollway.types import ImagePart, JsonFormat, Message, TextPart, Tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from tollway.providers import ChatCapabilities

__all__ = [
    "DEFAULTS",
    "CallOptions",
    "Prompt",
    "build_request",
    "check_options",
    "conversation",
    "identity_of",
]

Prompt: TypeAlias = str | Message | Sequence[Message | Mapping[str, Any]]
"""What to answer: a text, a message, or a conversation of messages.

A message may be a mapping in OpenAI's form.
"""

_PARAMETERS: tuple[ChatParameter, ...] = get_args(ChatParameter)


class CallOptions(TypedDict, total=False):
    """What one call may be given; what it is not given is as the `LLM` was made.

    Attributes:
        system_prompt: Put before everything else.
        history_messages: Put between the system prompt and what is asked now.
        temperature: Default 0.0; None for the provider's own.
        max_tokens: The most tokens of the answer. Default 4000; None for the provider's own.
        top_p: Share of probability that is drawn from.
        stop: Text or texts that end the answer.
        seed: For answers that repeat.
        presence_penalty: -2.0 to 2.0.
        frequency_penalty: -2.0 to 2.0.
        reasoning_effort: As the provider words it: `minimal`, `low`, `medium`, `high`, ….
        tools: Functions, pydantic models or `Tool`s that the model may ask to have called.
        tool_choice: `auto`, `none`, `required`, or the name of a tool.
        parallel_tool_calls: Whether one answer may call several tools.
        response_format: `"json"`, a JSON schema, a `JsonFormat` or a pydantic model, or what OpenAI
            takes: the answer is JSON, and its value is in `Completion.parsed`.
        extra_body: Further members of the provider's own request.
        extra_headers: Further headers.
        timeout: Seconds for one attempt's answer; for a stream, up to each next piece. Default 600.
        deadline: Seconds for the whole call with its waits and retries.
        priority: Higher ones get their permit first.
    """

    system_prompt: str | None
    history_messages: Sequence[Message | Mapping[str, Any]]
    temperature: float | None
    max_tokens: int | None
    top_p: float | None
    stop: str | Sequence[str]
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    reasoning_effort: str | None
    tools: Sequence[Tool | Callable[..., Any]]
    tool_choice: str | None
    parallel_tool_calls: bool | None
    response_format: Any
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]
    timeout: float
    deadline: float | None
    priority: int


DEFAULTS: CallOptions = {"temperature": 0.0, "max_tokens": 4000, "timeout": 600.0}

_NUMBER: tuple[Any, str] = ((int, float), "a number")
_SECONDS: tuple[Any, str] = ((int, float), "a number of seconds")
_WHOLE: tuple[Any, str] = (int, "a whole number")
_KINDS: dict[str, tuple[Any, str]] = {
    "system_prompt": (str, "a text"),
    "history_messages": (Sequence, "a list of messages"),
    "temperature": _NUMBER,
    "max_tokens": _WHOLE,
    "top_p": _NUMBER,
    "stop": ((str, Sequence), "a text or a list of them"),
    "seed": _WHOLE,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "reasoning_effort": (str, "a word"),
    "tools": (Sequence, "a list of tools"),
    "tool_choice": (str, "a word, or the name of a tool"),
    "parallel_tool_calls": (bool, "True or False"),
    "extra_body": (Mapping, "a mapping"),
    "extra_headers": (Mapping, "a mapping"),
    "timeout": _SECONDS,
    "deadline": _SECONDS,
    "priority": _WHOLE,
}
_POSITIVE = ("timeout", "deadline", "max_tokens")
# Of others None is what they are without.
_NEVER_NONE = frozenset({"timeout", "priority"})


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no option of a call, or a value that cannot work.

    Raises:
        TypeError: An unknown name.
        ConfigurationError: A value of another kind, or a number out of its range.
    """
    unknown = options.keys() - CallOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a call takes no {min(unknown)!r}; provider's own go into extra_body")
    for name, value in options.items():
        kinds, told = _KINDS.get(name, (object, ""))
        # True and False are whole numbers to Python.
        is_right = isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
        if not is_right and (value is not None or name in _NEVER_NONE):
            raise ConfigurationError(f"{name} is {told}, not {value!r:.80}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{name} is {told}, not {value!r}")
    headers: Mapping[str, object] = options.get("extra_headers") or {}
    for name, value in headers.items():
        if not (_fits_header(name) and _fits_header(value)):
            raise ConfigurationError(
                f"extra_headers: {name!r:.80} or what it is to hold is no text of a header"
            )
    for name in _POSITIVE:
        value = options.get(name)
        if value is not None and value <= 0:
            raise ConfigurationError(f"{name} is {_KINDS[name][1]} over 0, not {value!r}")


def _fits_header(value: object) -> bool:
    # Clients take bytes as they are.
    is_plain = isinstance(value, str) and value.isascii() and value.isprintable()
    return is_plain or isinstance(value, bytes)


def conversation(prompt: Prompt, options: CallOptions) -> list[Message]:
    """Return system prompt, history and prompt as one list of messages.

    Raises:
        ConfigurationError: There is nothing to answer, or something is no message.
    """
    messages: list[Message] = []
    system_prompt = options.get("system_prompt")
    if system_prompt:
        messages.append(Message("system", system_prompt))
    messages.extend(map(read_message, options.get("history_messages") or ()))
    if isinstance(prompt, str):
        if not prompt:
            raise ConfigurationError("the prompt is empty: there is nothing to answer")
        messages.append(Message("user", prompt))
    elif isinstance(prompt, (Message, Mapping)):
        messages.append(read_message(cast("Message | Mapping[str, Any]", prompt)))
    else:
        if not isinstance(cast("object", prompt), Sequence):
            kind = type(prompt).__name__
            raise ConfigurationError(f"a prompt is a text, a Message or a list of them, not {kind}")
        given = [read_message(message) for message in prompt]
        if not given:
            raise ConfigurationError("there are no messages: there is nothing to answer")
        messages.extend(given)
    return messages


def build_request(
    messages: Sequence[Message],
    options: CallOptions,
    named: CallOptions,
    *,
    tools: Sequence[Tool],
    response_format: JsonFormat | None,
    capabilities: ChatCapabilities,
    model: str,
) -> ChatRequest:
    """Return the request for a conversation, within what the model is able to do.

    Args:
        messages: The conversation.
        options: All that holds for the call.
        named: What of it the user named; the rest is left out where the model does not take it.
        tools: As the provider gets them.
        response_format: As the provider gets it.
        capabilities: What the model can do.
        model: For messages.

    Raises:
        ConfigurationError: The model does not take what the user named, or there is no such tool.
    """
    given: dict[str, Any] = {}
    for name in _PARAMETERS:
        value: Any = options.get(name)
        if value is None:
            continue
        if name in capabilities.parameters:
            given[name] = value
        elif name in named:
            raise ConfigurationError(
                f"{model} takes no {name}; leave it out, or send the provider's own by extra_body"
            )
    stop = given.get("stop")
    if isinstance(stop, str):
        given["stop"] = (stop,)
    features = capabilities.features
    if tools and "tools" not in features:
        raise ConfigurationError(f"{model} calls no tools")
    _check_choice(tools, options)
    if "images" not in features and any(map(_has_image, messages)):
        raise ConfigurationError(f"{model} takes no images")
    return ChatRequest(
        tuple(map(_readable, messages)),
        **given,
        tools=tools,
        tool_choice=options.get("tool_choice"),
        response_format=response_format,
        defaults=frozenset(name for name in _PARAMETERS if name in given and name not in named),
        extra_body=options.get("extra_body") or {},
        extra_headers=options.get("extra_headers") or {},
        timeout=options.get("timeout", 600.0),
    )


def _check_choice(tools: Sequence[Tool], options: CallOptions) -> None:
    """Refuse a choice of tools that there are not."""
    choice = options.get("tool_choice")
    names = {tool.name for tool in tools}
    if choice in {None, "auto", "none"} or choice in names or (choice == "required" and names):
        return
    # The provider's own tools are not known here.
    if "tools" not in (options.get("extra_body") or {}):
        known = ", ".join(sorted(names)) or "none"
        raise ConfigurationError(f"tool_choice={choice!r} is none of the tools: {known}")


def identity_of(request: ChatRequest, named: CallOptions) -> dict[str, Any]:
    """Return all of a request that decides its answer, as JSON holds it.

    Args:
        request: As the model gets it.
        named: What of it the user named. A default counts also where the model does not take it:
            that may be learned on the way, and an answer has one identity before and after.
    """
    decisive: dict[str, Any] = {name: getattr(request, name) for name in _PARAMETERS}
    asked: CallOptions = {**DEFAULTS, **named}
    decisive |= {name: asked.get(name) for name in ("temperature", "max_tokens")}
    decisive |= {
        "messages": [openai_message(message) for message in request.messages],
        "tools": [openai_tool(tool) for tool in request.tools],
        "tool_choice": request.tool_choice,
        "extra_body": dict(request.extra_body),
    }
    return {name: value for name, value in decisive.items() if value not in (None, (), [], {})}


def _readable(message: Message) -> Message:
    """Return a message without lone surrogates, which no JSON holds: U+FFFD as in embeddings."""
    content = message.content
    if isinstance(content, str):
        read: Any = without_surrogates(content)
    else:
        read = tuple(
            dataclasses.replace(part, text=without_surrogates(part.text))
            if isinstance(part, TextPart)
            else part
            for part in content
        )
    calls = tuple(
        dataclasses.replace(call, arguments=without_surrogates(call.arguments))
        for call in message.tool_calls
    )
    if read == content and calls == message.tool_calls:
        return message
    return dataclasses.replace(message, content=read, tool_calls=calls)


def _has_image(message: Message) -> bool:
    content = message.content
    return not isinstance(content, str) and any(isinstance(part, ImagePart) for part in content)
