"""Answers that are JSON: held to a schema by the provider, or brought to it here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tollway.chat.repair import JsonError, read_json
from tollway.chat.schemas import checker, is_strict, strict_schema
from tollway.errors import ConfigurationError, StructuredOutputError
from tollway.types import JsonFormat, Message, TextPart, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tollway.providers import ChatCapabilities
    from tollway.types import Attempt, Completion

__all__ = [
    "Wanted",
    "ask_json",
    "instructed",
    "mentions_json",
    "read_format",
]

# The first time, and three more.
_MOST_ASKS = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer is to be.

    Attributes:
        format: As the provider gets it, where it can be held to it.
        check: Returns the value that is handed to the user, from the JSON value.
    """

    format: JsonFormat
    check: Callable[[Any], Any]

    def read(self, text: str) -> Any:
        """Return the value in an answer.

        Raises:
            JsonError: There is none, or it is not what is wanted.
        """
        return read_json(text, self.check)

    def native(self, capabilities: ChatCapabilities) -> JsonFormat | None:
        """Return what to ask of the provider: the schema, else any JSON, else nothing."""
        if self.format.schema is None or "json_schema" in capabilities.features:
            has = "json_mode" if self.format.schema is None else "json_schema"
            return self.format if has in capabilities.features else None
        return JsonFormat() if "json_mode" in capabilities.features else None


def read_format(given: Any) -> Wanted | None:
    """Return what `response_format` asks for; None for any text.

    Raises:
        ConfigurationError: It is not `"json"`, a schema, a `JsonFormat`, a pydantic model or
            OpenAI's form of these.
    """
    if given is None or isinstance(given, Wanted):
        return given
    if given == "json":
        return Wanted(JsonFormat(), checker(None))
    if isinstance(given, JsonFormat):
        return Wanted(given, checker(given.schema))
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        model = cast("Any", given)
        schema = strict_schema(model.model_json_schema())
        wanted = JsonFormat(schema, given.__name__, strict=is_strict(schema))
        return Wanted(wanted, model.model_validate)
    if isinstance(given, Mapping):
        schema = cast("Mapping[str, Any]", given)
        # No type of a schema, but OpenAI's words for what is wanted.
        if schema.get("type") == "text":
            return None
        if schema.get("type") == "json_object":
            return read_format(JsonFormat())
        told: Any = schema.get("json_schema")
        if schema.get("type") == "json_schema" and isinstance(told, Mapping):
            return read_format(_told(cast("Mapping[str, Any]", told)))
        return Wanted(JsonFormat(schema, strict=is_strict(schema)), checker(schema))
    raise ConfigurationError(
        'response_format is "json", a JSON schema, a JsonFormat or a pydantic model, not '
        f"{given!r:.80}"
    )


def _told(schema: Mapping[str, Any]) -> JsonFormat:
    return JsonFormat(
        schema.get("schema"), schema.get("name") or "answer", strict=bool(schema.get("strict"))
    )


async def ask_json(
    ask: Callable[[Sequence[Message]], Awaitable[Completion]], wanted: Wanted
) -> Completion:
    """Ask until an answer is what is wanted, at most four times; return it with its value.

    Args:
        ask: Answers the question, after what was said since.
        wanted: What the answer is to be.

    Raises:
        StructuredOutputError: No answer is what is wanted.
    """
    said: list[Message] = []
    usage, cost = Usage(), cast("float | None", 0.0)
    attempts: tuple[Attempt, ...] = ()
    for asked in range(1, _MOST_ASKS + 1):
        answer = await ask(said)
        usage += answer.usage
        cost = None if cost is None or answer.cost is None else cost + answer.cost
        attempts += answer.attempts
        answer = dataclasses.replace(answer, usage=usage, cost=cost, attempts=attempts)
        if answer.tool_calls:
            return answer
        problem = f"it ended with {answer.finish_reason}"
        # Asked again, one that was cut, filtered or refused would be so again.
        is_last = answer.finish_reason != "stop" or asked == _MOST_ASKS
        if answer.finish_reason == "stop":
            try:
                return dataclasses.replace(answer, parsed=wanted.read(answer.text))
            except JsonError as error:
                problem = str(error)
        if is_last:
            raise StructuredOutputError(
                f"after {asked} tries the answer is not what was asked for: {problem}; its text "
                "is in completion",
                answer,
            )
        told = f"That cannot be used: {problem}\nAnswer again with the corrected JSON alone."
        said += [answer.message, Message("user", told)]
    raise AssertionError("unreachable")


def instructed(messages: Sequence[Message], wanted: JsonFormat) -> list[Message]:
    """Return the conversation with the instruction to answer in JSON, in its system prompt."""
    told = "Answer with one JSON value and nothing else: no explanation, no code fence."
    if wanted.schema is not None:
        schema = json.dumps(wanted.schema, ensure_ascii=False)
        told += f" It has to match this JSON schema:\n{schema}"
    first = messages[0]
    if first.role not in {"system", "developer"}:
        return [Message("system", told), *messages]
    content = first.content
    if isinstance(content, str):
        grown: Any = f"{content}\n\n{told}"
    else:
        grown = (*content, TextPart(told))
    return [Message(first.role, grown, first.name, extra=first.extra), *messages[1:]]


def mentions_json(messages: Sequence[Message]) -> bool:
    """Whether the word stands in the conversation, as OpenAI's JSON mode demands."""
    return any("json" in str(message.content).lower() for message in messages)
