"""Conversations as turns of user and model: how Anthropic, Gemini and Bedrock take them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tollway.errors import ConfigurationError
from tollway.providers.messages import text_in, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tollway.types import Message, ToolCall

__all__ = ["Speaker", "arguments_of", "split_system", "turns", "with_names"]

Speaker: TypeAlias = Literal["user", "assistant"]


def split_system(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Return the system prompts that say something, wherever they stand, and the others."""
    system = [message for message in messages if message.role in {"system", "developer"}]
    rest = [message for message in messages if message.role not in {"system", "developer"}]
    if not rest:
        raise ConfigurationError("there are system prompts alone: there is nothing to answer")
    return [message for message in system if _says_something(message)], rest


def _says_something(message: Message) -> bool:
    content = message.content
    parts = () if isinstance(content, str) else content
    return bool(text_of(message).strip()) or any(text_in(part) is None for part in parts)


def turns(
    messages: Iterable[Message], write: Callable[[Message], Iterable[dict[str, Any]]]
) -> list[tuple[Speaker, list[dict[str, Any]]]]:
    """Return messages in turns that alternate; the results of tools are the user's.

    An answer that says nothing is none: no provider that asks for turns takes an empty one.

    Args:
        messages: Without system prompts.
        write: Returns the blocks of a message, as the provider takes them.
    """
    written = [(message.role == "assistant", [*write(message)]) for message in messages]
    said = [each for each in written if not each[0] or any(map(_is_said, each[1]))]
    return [
        ("assistant" if is_model else "user", [block for _, blocks in group for block in blocks])
        for is_model, group in itertools.groupby(said or written, lambda each: each[0])
    ]


def _is_said(block: Mapping[str, Any]) -> bool:
    """Whether it is more than blanks; what has no text is a call, or a thought that is signed."""
    return "text" not in block or bool(block["text"].strip())


def with_names(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages, the results of tools with the names of these.

    Providers that give calls no ids number them in each answer anew: of two calls of one id, the
    last before a result is the one that it belongs to.
    """
    names: dict[str, str] = {}
    for message in messages:
        names.update((call.id, call.name) for call in message.tool_calls)
        if message.role == "tool" and message.name is None:
            call_id = message.tool_call_id or ""
            yield dataclasses.replace(message, name=names.get(call_id, call_id))
        else:
            yield message


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """Return the arguments of a call as the object that they are.

    Raises:
        ConfigurationError: They are not JSON, or no object.
    """
    try:
        value: Any = json.loads(call.arguments or "{}")
    except ValueError as error:
        raise ConfigurationError(
            f"the arguments of the call of {call.name} in the conversation are not JSON: {error}"
        ) from error
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"the arguments of the call of {call.name} in the conversation are not an object"
        )
    return cast("dict[str, Any]", value)
