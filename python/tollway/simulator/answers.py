"""What the simulated models say: a function of the conversation, in no provider's format.

A test knows every answer in advance (`reply`), and steers it by directives in the last message of
the user: `[[say TEXT]]`, `[[think TEXT]]`, `[[words N]]`, `[[refuse TEXT]]`, and
`[[call NAME {"arguments": …}]]` for a call of a tool with just these arguments.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tollway.tokens import get_encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "ENCODING",
    "Answer",
    "Conversation",
    "Said",
    "ToolUse",
    "answer_to",
    "cached_of",
    "pieces",
    "reply",
    "sample",
]

Finish: TypeAlias = Literal["stop", "length", "tool_calls", "refusal"]

# Counts what is said and answered, whatever the model.
ENCODING = "o200k_base"
# A prompt's beginning is cached in steps of so many tokens, from so many on.
_CACHE_FROM, _CACHE_STEP = 1024, 128
_DIRECTIVE = re.compile(r"\[\[(say|think|words|refuse|call)\s+(.*?)\]\](?!\])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """One message: who said it, its text, and what else it holds.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        text: All its text; of a tool, the result.
        images: Digests of its images' addresses or bytes.
        calls: Names of the tools that it calls.
    """

    role: str
    text: str
    images: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """All that a request says, whatever the format that it came in.

    Attributes:
        said: The messages in order; system prompts first.
        tools: JSON schema of the arguments, by name of the tool.
        tool_choice: `auto`, `none`, `required` or the name of a tool.
        schema: The JSON schema that the answer is held to, or None.
        json_mode: Whether the answer is held to be a JSON object.
        max_tokens: The most tokens of the answer, reasoning included.
        stop: Texts that end it.
    """

    said: Sequence[Said]
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, "Mapping[str, Any]"])
    tool_choice: str = "auto"
    schema: Mapping[str, Any] | None = None
    json_mode: bool = False
    max_tokens: int | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a tool: its name and arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says.

    Attributes:
        text: The answer.
        finish: Why it ended.
        reasoning: What was thought before.
        tools: Calls of tools.
        tokens: Of all of it.
        reasoning_tokens: Of these, those of the reasoning.
    """

    text: str
    finish: Finish
    reasoning: str
    tools: tuple[ToolUse, ...]
    tokens: int
    reasoning_tokens: int


def reply(*said: tuple[str, str]) -> str:
    """Return what is answered to a conversation without directives: the oracle of a test.

    Args:
        said: (role, text) of every message in order, system prompts first.

    Returns:
        A digest of all of them, and the text of the last.
    """
    whole = hashlib.blake2b(digest_size=4)
    for role, text in said:
        who = "system" if role == "developer" else role
        whole.update(f"{who}\0{text}\0".encode("utf-8", "replace"))
    return f"{whole.hexdigest()} {said[-1][1]}"


def answer_to(conversation: Conversation) -> Answer:
    """Return what the model says to a conversation."""
    last = conversation.said[-1]
    directives = dict(_directives(last.text)) if last.role == "user" else {}
    reasoning = directives.get("think", "")
    tools = () if last.role == "tool" else tuple(_calls(conversation, last.text))
    finish: Finish = "tool_calls" if tools else "stop"
    if "refuse" in directives:
        text, finish, tools = directives["refuse"], "refusal", ()
    elif tools:
        text = ""
    else:
        text = _text(conversation, directives)
        ends = [text.find(stop) for stop in conversation.stop if stop in text]
        text = text[: min(ends, default=len(text))]
    encoding = get_encoding(ENCODING)
    thought = encoding.count(reasoning)
    said = encoding.count(text) + sum(
        encoding.count(use.name + json.dumps(use.arguments)) for use in tools
    )
    most = conversation.max_tokens
    if most is not None and thought + said > most and not tools:
        text = encoding.truncate(text, max(0, most - thought))
        reasoning = encoding.truncate(reasoning, most)
        finish, thought = "length", encoding.count(reasoning)
        said = encoding.count(text)
    return Answer(text, finish, reasoning, tools, thought + said, thought)


def sample(schema: Mapping[str, Any], seed: str, root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that a JSON schema allows: strings are `seed`, numbers its length.

    Args:
        schema: Objects, arrays, enums, `const`, `anyOf`, `$ref` within the schema, simple types.
        seed: What strings are, where the schema lets them be anything.
        root: The schema that references start from; this one by default.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        found: Any = root
        for name in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found[name]
        return sample(found, seed, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return sample(schema[name][0], seed, root)
    return _sample_of_type(schema, seed, root)


def _sample_of_type(schema: Mapping[str, Any], seed: str, root: Mapping[str, Any]) -> Any:
    kind: Any = schema.get("type")
    simple: dict[str, Any] = {
        "integer": max(len(seed), int(schema.get("minimum", 0))),
        "number": len(seed) + 0.5,
        "boolean": True,
        "null": None,
    }
    named = cast("str", kind[0] if isinstance(kind, list) else kind)
    if named == "object":
        members: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
        return {name: sample(rule, seed, root) for name, rule in members.items()}
    if named == "array":
        return [sample(schema.get("items", {}), seed, root)]
    return simple.get(named, seed)


def cached_of(prompt_tokens: int) -> int:
    """Return how many tokens of a prompt were cached, as the usage tells."""
    return prompt_tokens // _CACHE_STEP * _CACHE_STEP if prompt_tokens >= _CACHE_FROM else 0


def pieces(text: str) -> list[str]:
    """Return a text in the pieces that a stream sends: words with the blanks before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def _directives(text: str) -> Iterator[tuple[str, str]]:
    for found in _DIRECTIVE.finditer(text):
        yield found[1], found[2]


def _calls(conversation: Conversation, text: str) -> Iterator[ToolUse]:
    if not conversation.tools or conversation.tool_choice == "none":
        return
    asked = [value for kind, value in _directives(text) if kind == "call"]
    for call in asked:
        name, _, arguments = call.partition(" ")
        yield ToolUse(name, json.loads(arguments or "{}"))
    if asked:
        return
    choice = conversation.tool_choice
    named = [name for name in conversation.tools if name in text or name == choice]
    if not named and choice == "required":
        named = [next(iter(conversation.tools))]
    for name in named:
        yield ToolUse(name, sample(conversation.tools[name], text))


def _told_schema(said: Sequence[Said]) -> Mapping[str, Any] | None:
    """Return the schema that a system prompt asks for: a model reads what it is told."""
    for message in said:
        _, asked, rest = message.text.partition("JSON schema:\n")
        if asked and message.role != "user":
            return cast("Mapping[str, Any]", json.JSONDecoder().raw_decode(rest)[0])
    return None


def _text(conversation: Conversation, directives: Mapping[str, str]) -> str:
    last = conversation.said[-1]
    if "say" in directives:
        return directives["say"]
    if "words" in directives:
        return " ".join(f"word{number}" for number in range(int(directives["words"])))
    if last.role == "tool":
        results: list[str] = []
        for said in reversed(conversation.said):
            if said.role != "tool":
                break
            results.insert(0, said.text)
        return f"results: {'; '.join(results)}"
    schema = conversation.schema or _told_schema(conversation.said)
    if schema is not None:
        return json.dumps(sample(schema, last.text), ensure_ascii=False)
    is_told = any("one JSON value" in told.text for told in conversation.said[:-1])
    if conversation.json_mode or is_told:
        return json.dumps({"answer": last.text}, ensure_ascii=False)
    text = reply(*((said.role, said.text) for said in conversation.said))
    seen = [image for said in conversation.said for image in said.images]
    return f"{text} [saw {', '.join(seen)}]" if seen else text
