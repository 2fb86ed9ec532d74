"""Answers that are JSON: held to a schema by the provider, or brought to it here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tollway.chat.repair import JsonError, read_json
from tollway.errors import ConfigurationError, StructuredOutputError
from tollway.types import JsonFormat, Message, TextPart, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tollway.providers import ChatCapabilities
    from tollway.types import Attempt, Completion

__all__ = [
    "Wanted",
    "ask_json",
    "checker",
    "instructed",
    "is_strict",
    "mentions_json",
    "read_format",
    "strict_schema",
]

# The first time, and three more.
_MOST_ASKS = 4

_KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


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
        value = read_json(text)
        try:
            return self.check(value)
        except ValueError as error:
            raise JsonError(str(error)[:1000]) from error

    def native(self, capabilities: ChatCapabilities) -> JsonFormat | None:
        """Return what to ask of the provider: the schema, else any JSON, else nothing."""
        if self.format.schema is None or "json_schema" in capabilities.features:
            has = "json_mode" if self.format.schema is None else "json_schema"
            return self.format if has in capabilities.features else None
        return JsonFormat() if "json_mode" in capabilities.features else None


def read_format(given: Any) -> Wanted:
    """Return what `response_format` asks for.

    Raises:
        ConfigurationError: It is not `"json"`, a schema, a `JsonFormat` or a pydantic model.
    """
    if isinstance(given, Wanted):
        return given
    if given == "json":
        return Wanted(JsonFormat(), _object)
    if isinstance(given, JsonFormat):
        return Wanted(given, checker(given.schema))
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        model = cast("Any", given)
        schema = strict_schema(model.model_json_schema())
        wanted = JsonFormat(schema, given.__name__, strict=is_strict(schema))
        return Wanted(wanted, model.model_validate)
    if isinstance(given, Mapping):
        schema = cast("Mapping[str, Any]", given)
        return Wanted(JsonFormat(schema, strict=is_strict(schema)), checker(schema))
    raise ConfigurationError(
        'response_format is "json", a JSON schema, a JsonFormat or a pydantic model, not '
        f"{given!r:.80}"
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


def _object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"it is not a JSON object but {type(value).__name__}")  # noqa: TRY004
    return cast("Any", value)


def checker(schema: Mapping[str, Any] | None) -> Callable[[Any], Any]:
    """Return what checks a value by a schema, and raises ValueError with what is wrong."""
    if schema is None:
        return _object

    def check(value: Any) -> Any:
        problem = _problem(value, schema, schema, "the answer")
        if problem is not None:
            raise ValueError(problem)
        return value

    return check


def _problem(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str
) -> str | None:
    """Return what is wrong with a value by the common part of JSON schema, or None."""
    if "$ref" in schema:
        found: Any = root
        for name in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found[name]
        return _problem(value, found, root, where)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        problems = [_problem(value, choice, root, where) for choice in choices]
        return None if None in problems else problems[0]
    allowed: Any = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if allowed is not None and value not in allowed:
        return f"{where} is {value!r:.80}, not one of {allowed}"
    kind: Any = schema.get("type", [])
    kinds = cast("Sequence[str]", kind if isinstance(kind, list) else [kind])
    if kinds and not any(_is_of(value, name) for name in kinds):
        return f"{where} is {type(value).__name__}, not {' or '.join(kinds)}"
    if isinstance(value, dict):
        return _object_problem(cast("dict[str, Any]", value), schema, root, where)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        found_in = (
            _problem(item, schema["items"], root, f"{where}[{number}]")
            for number, item in enumerate(cast("Sequence[Any]", value))
        )
        return next((problem for problem in found_in if problem is not None), None)
    return None


def _object_problem(
    value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str
) -> str | None:
    members: Mapping[str, Any] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where} has no {name!r}"
    if schema.get("additionalProperties") is False and (unknown := value.keys() - members.keys()):
        return f"{where} has {min(unknown)!r}, which the schema does not know"
    for name, rule in members.items():
        if name in value:
            problem = _problem(value[name], rule, root, f"{where}.{name}")
            if problem is not None:
                return problem
    return None


def _is_of(value: Any, kind: str) -> bool:
    if kind in {"integer", "number"}:
        numbers = int if kind == "integer" else (int, float)
        whole = kind == "integer" and isinstance(value, float) and value.is_integer()
        return whole or (isinstance(value, numbers) and not isinstance(value, bool))
    return isinstance(value, _KINDS.get(kind, object))


def strict_schema(schema: Any) -> Any:
    """Return a pydantic model's schema as strict modes want it: all members, and no others."""
    if isinstance(schema, list):
        return [strict_schema(item) for item in cast("Sequence[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    members = {
        name: value if name == "default" else strict_schema(value)
        for name, value in cast("dict[str, Any]", schema).items()
    }
    if "properties" in members and "additionalProperties" not in members:
        members |= {"additionalProperties": False, "required": list(members["properties"])}
    members.pop("default", None)
    return members


def is_strict(schema: Any) -> bool:
    """Whether every object of a schema lists all its members as required, and allows no others."""
    if isinstance(schema, list):
        return all(map(is_strict, cast("Sequence[Any]", schema)))
    if not isinstance(schema, Mapping):
        return True
    named = cast("Mapping[str, Any]", schema)
    if named.get("type") == "object":
        members = set(named.get("properties", ()))
        if named.get("additionalProperties") is not False or members != set(
            named.get("required", ())
        ):
            return False
    return all(map(is_strict, named.values()))
