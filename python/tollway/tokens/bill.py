"""What each part of a request costs in tokens.

Source of the formulas for messages and tools: OpenAI's cookbook, "How to count tokens with
tiktoken", sections 6 and 7, which gives counts that its API confirmed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from tollway.tokens.counts import TokenCount, Tokenizer
from tollway.tokens.estimate import TokenEstimator, tokenizer_for_model
from tollway.tokens.images import Image, image_tokens, size_of
from tollway.tokens.models import bare_name, family_of

__all__ = ["Bill", "Cost", "Sizes", "mapping_of"]

Sizes = Mapping[str, tuple[int, int]]


class _Format(NamedTuple):
    """What a family of models adds to the text of a request.

    Attributes:
        message: Tokens of each message beside its role, content and name.
        name: Tokens of a name beside its text.
        function: Tokens of each function beside its name and description.
        published: Whether the cookbook shows it for the family.
    """

    message: int
    name: int
    function: int
    published: bool


_OLD = _Format(message=3, name=1, function=10, published=True)
_GPT_4O = _Format(message=3, name=1, function=7, published=True)
_FORMATS = {
    # "<|start|>{role or name}\n{content}<|end|>\n": a name took the place of the role.
    "gpt-3.5-turbo-0301": _Format(message=4, name=-1, function=10, published=True),
    "gpt-3.5-turbo": _OLD,
    "gpt-35-turbo": _OLD,
    "gpt-4": _OLD,
    "gpt-4o": _GPT_4O,
    "chatgpt-4o": _GPT_4O,
}
_OTHER = _GPT_4O._replace(published=False)
# "Every reply is primed with <|start|>assistant<|message|>."
_REPLY = 3
_TOOLS = 12
_PROPERTIES = 3
_PROPERTY = 3
_ENUM = -3
_ENUM_ITEM = 3
# No formula is published for calls; this is what openai-chat-tokens found by trying.
_CALL = 3
# Members of content parts that are no text to the model, whatever their length.
_OPAQUE = frozenset({"type", "data", "file_data", "signature", "encrypted_content"})
# Members of a message that are counted by rules of their own, or that the model never sees.
_RULED = frozenset({"name", "content", "tool_calls", "function_call", "tool_call_id", "id"})


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens by text, which an estimator scales, and of images, which it does not."""

    text: int = 0
    images: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the sum of both parts."""
        return Cost(self.text + other.text, self.images + other.images)

    def __sub__(self, other: Cost) -> Cost:
        """Return the difference of both parts."""
        return Cost(self.text - other.text, self.images - other.images)


@functools.lru_cache(64)
def _format_of(model: str) -> _Format:
    family = family_of(model, _FORMATS)
    return _FORMATS[family] if family else _OTHER


class Bill:
    """Adds up one request.

    Args:
        model: Any model.
        tokenizer: Counts the text in place of the model's own.
        image_sizes: Width and height in pixels of images by URL.
    """

    def __init__(self, model: str, tokenizer: Tokenizer | None, image_sizes: Sizes) -> None:
        self._model = bare_name(model)
        self._sizes = image_sizes
        self._format = _format_of(self._model)
        own = tokenizer_for_model(model)
        self._tokenizer = tokenizer or own
        self._exact = self._format.published and self._tokenizer is own
        self._instructive = True
        reference = self._tokenizer
        self._count = (
            reference.reference.count if isinstance(reference, TokenEstimator) else reference.count
        )

    def count(self, total: Cost) -> TokenCount:
        """Return the tokens of parts that were added up."""
        text, basis = total.text, 0
        if isinstance(self._tokenizer, TokenEstimator):
            text = self._tokenizer.scale(text)
            basis = total.text if self._instructive else 0
        return TokenCount(text + total.images, estimated=not self._exact, basis=basis)

    def request(self, tools: Sequence[Mapping[str, object]] | None) -> Cost:
        """Return what a request has beside its messages."""
        if not tools:
            return Cost(_REPLY)
        self._instructive = False  # providers add instructions of their own to tools
        return Cost(_REPLY + _TOOLS + sum(self._tool(tool) for tool in tools))

    def message(self, message: Mapping[str, object]) -> Cost:
        """Return what a message adds to a request.

        Raises:
            TypeError: It is no mapping.
        """
        if not isinstance(message, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "a message must be a mapping with role and content, not "
                f"{type(message).__name__}; a conversation is a list of them"
            )
        form = self._format
        cost = Cost(form.message) + self._content(message.get("content"))
        if isinstance(name := message.get("name"), str):
            cost += Cost(form.name + self._count(name))
        calls = [*_mappings(message.get("tool_calls")), *_mappings(message.get("function_call"))]
        for call in calls:
            function = mapping_of(call.get("function")) or call
            cost += self._call(function.get("name"), function.get("arguments"))
        # The cookbook counts every value, so that the role and members yet unknown are text.
        rest = {key: value for key, value in message.items() if key not in _RULED}
        return cost + Cost(sum(self._count(v) for v in rest.values() if isinstance(v, str)))

    def _content(self, content: object) -> Cost:
        if isinstance(content, str):
            return Cost(self._count(content))
        if isinstance(content, Mapping):
            return self._part(cast("Mapping[str, object]", content))
        if isinstance(content, Sequence) and not isinstance(content, bytes):
            parts = cast("Sequence[object]", content)
            return sum((self._content(part) for part in parts), Cost())
        return Cost()

    def _part(self, part: Mapping[str, object]) -> Cost:
        match part.get("type"):
            case "text" | "input_text" | "output_text" | "refusal":
                text = part.get("refusal", part.get("text"))
                return Cost(self._count(text) if isinstance(text, str) else 0)
            case "image_url" | "input_image" | "image":
                return self._image(part)
            case "tool_use":
                return self._call(part.get("name"), part.get("input"))
            case "tool_result":
                self._exact = False
                return self._content(part.get("content"))
            case _:
                self._exact = self._instructive = False
                return Cost(sum(self._count(text) for text in _texts(part)))

    def _call(self, name: object, arguments: object) -> Cost:
        self._exact = False
        name = name if isinstance(name, str) else ""
        arguments = arguments if isinstance(arguments, str) else _json(arguments or {})
        return Cost(_CALL + self._count(name) + self._count(arguments))

    def _image(self, part: Mapping[str, object]) -> Cost:
        """Count an image in OpenAI's forms, a URL or a mapping with one, or in Anthropic's."""
        given = part.get("image_url", part.get("source"))
        source = mapping_of(given) or {"url": given}
        url = source.get("url")
        if isinstance(data := source.get("data"), str):
            url = f"data:{source.get('media_type')};base64,{data}"
        detail = source.get("detail", part.get("detail"))
        size = (self._sizes.get(url) or size_of(url)) if isinstance(url, str) else None
        tokens, exact = image_tokens(Image(size, str(detail)), self._model)
        self._exact &= exact
        self._instructive = False
        return Cost(images=tokens)

    def _tool(self, tool: Mapping[str, object]) -> int:
        function = mapping_of(tool.get("function")) or tool
        name, description = function.get("name"), function.get("description", "")
        if not (isinstance(name, str) and isinstance(description, str)):
            self._exact = False
            return self._format.function + self._count(_json(tool))
        tokens = self._format.function + self._count(f"{name}:{description.removesuffix('.')}")
        schema = mapping_of(function.get("parameters", function.get("input_schema")))
        properties = mapping_of(schema.get("properties"))
        if properties:
            tokens += _PROPERTIES
        return tokens + sum(self._property(key, rule) for key, rule in properties.items())

    def _property(self, key: str, rule: object) -> int:
        members = dict(mapping_of(rule))
        kind, description = members.pop("type", ""), members.pop("description", "")
        tokens = _PROPERTY
        if isinstance(choices := members.pop("enum", None), Sequence):
            items = cast("Sequence[object]", choices)
            tokens += _ENUM + sum(_ENUM_ITEM + self._count(str(item)) for item in items)
        if members or not (isinstance(kind, str) and isinstance(description, str)):
            # The cookbook's formula ends here: what it leaves out is counted as it is written.
            self._exact = False
            tokens += self._count(_json(members)) if members else 0
        description = str(description).removesuffix(".")
        return tokens + self._count(f"{key}:{kind}:{description}")


def mapping_of(value: object) -> Mapping[str, object]:
    """Return a value that is a mapping, or an empty one."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, object]]:
    if isinstance(value, Mapping):
        return [cast("Mapping[str, object]", value)]
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [mapping for item in items if (mapping := mapping_of(item))]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _texts(value: object) -> list[str]:
    """Return all text in a content part, but not what stands for something else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value).items()
        return [text for key, item in members if key not in _OPAQUE for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in cast("list[object]", value) for text in _texts(item)]
    return []
