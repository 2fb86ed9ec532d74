"""Values that calls take and return: frozen, typed, with next to no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

__all__ = [
    "Attempt",
    "Chunk",
    "Completion",
    "FinishReason",
    "ImagePart",
    "JsonFormat",
    "Message",
    "Part",
    "Role",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]

FinishReason: TypeAlias = Literal[
    "stop", "length", "tool_calls", "content_filter", "refusal", "context_window", "pause", "error"
]
"""Why an answer ended, in one vocabulary for all providers.

`stop`: it was done, or met a stop sequence. `length`: it reached `max_tokens`. `tool_calls`: it
wants tools called. `content_filter`: the provider cut it. `refusal`: the model declined.
`context_window`: the conversation filled the model's window. `pause`: the provider wants it sent
back to go on. `error`: the provider failed inside the answer.
"""


def _nothing() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider says it counted.

    Every kind of token is part of its total: cached input is within `input_tokens`, reasoning
    within `output_tokens`, whatever the provider's own convention.

    Attributes:
        input_tokens: Tokens of all inputs.
        requests: Requests that were answered.
        estimated: True where the provider reported nothing and the tokens are our own count.
        output_tokens: Tokens of all answers.
        cached_tokens: Input read from the provider's prompt cache.
        cache_write_tokens: Input written to it.
        cache_write_1h_tokens: Of these, those kept for an hour.
        reasoning_tokens: Output that the model thought and did not say.
        input_audio_tokens: Input in audio.
        input_image_tokens: Input in images.
        output_audio_tokens: Output in audio.
    """

    input_tokens: int = 0
    requests: int = 0
    estimated: bool = False
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_audio_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        """Return the sum; estimated if either part is."""
        added = [getattr(self, name) + getattr(other, name) for name in _SUMMED]
        estimated = self.estimated or other.estimated
        return Usage(added[0], added[1], estimated, *added[2:])


_SUMMED = [member.name for member in fields(Usage) if member.name != "estimated"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text within a message's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image within a message's content: either its address or its bytes.

    Attributes:
        url: `https://…`, or a `data:` URL.
        data: The file's bytes.
        media_type: What `data` is, such as `image/png`; needed with it.
        detail: `low`, `high` or `auto`, where the provider has such a choice.
    """

    url: str | None = None
    data: bytes | None = field(default=None, repr=False)
    media_type: str | None = None
    detail: str | None = None


Part: TypeAlias = TextPart | ImagePart | Mapping[str, Any]
"""A part of a message's content; a mapping goes to the provider as it is."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that the model asks for.

    Attributes:
        id: The provider's name for the call, to be repeated with its result.
        name: Name of the tool.
        arguments: The arguments as the model wrote them: JSON text, hopefully.
        extra: By name of the provider, what it wants back with the call (Gemini's
            `thought_signature`).
    """

    id: str
    name: str
    arguments: str
    extra: Mapping[str, Any] = field(default_factory=_nothing, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        content: Text, or parts.
        name: Of the speaker, or of the tool whose result this is.
        tool_calls: The assistant's calls of tools.
        tool_call_id: The call whose result this is.
        extra: By name of the provider, what it wants back with the message as it gave it
            (Anthropic's thinking blocks with their signatures), or takes beside it. So a
            conversation may go on with another provider, which sees nothing of it.
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=_nothing, repr=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to have called.

    Attributes:
        name: Letters, digits, `_` and `-`.
        description: When and for what to call it.
        parameters: JSON schema of its arguments: an object.
        strict: Whether the provider is to hold the model to the schema; None for its default.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """That the answer is to be JSON.

    Attributes:
        schema: Its JSON schema; None for any JSON object.
        name: Name of the schema.
        strict: Whether the provider is to hold the model to the schema.
    """

    schema: Mapping[str, Any] | None = None
    name: str = "answer"
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer.

    Attributes:
        text: What it says; empty where it only calls tools.
        finish_reason: Why it ended.
        reasoning: What the model thought, where the provider shows it; never part of `text`.
        tool_calls: The tools it wants called.
        usage: What the provider counted, for this answer alone.
        cost: US dollars; None where no price is known.
        model: The model that answered, as the provider names it.
        provider: Name of the provider.
        request_id: The provider's id of the request, or None.
        parsed: The value of an answer that was asked for as JSON; else None.
        extra: As `Message.extra`.
        headers: Headers of the answer.
        raw: The answer as the SDK gave it, its object or the JSON of the answer; None for a stream.
        answered_by: `provider/model` of the `LLM`, fallback or deployment that gave it.
        attempts: What failed before it, first to last, with the model that it was asked of.
    """

    text: str
    finish_reason: FinishReason
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    model: str = ""
    provider: str = ""
    request_id: str | None = None
    parsed: Any = None
    extra: Mapping[str, Any] = field(default_factory=_nothing, repr=False)
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False, compare=False)
    raw: Any = field(default=None, repr=False, compare=False)
    answered_by: str = ""
    attempts: tuple[Attempt, ...] = field(default=(), repr=False, compare=False)

    @property
    def message(self) -> Message:
        """The answer as a message, to go on from."""
        return Message("assistant", self.text, tool_calls=self.tool_calls, extra=self.extra)


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call of a tool, as a stream brings it.

    Attributes:
        index: Which call of the answer it belongs to.
        id: Of the call, once.
        name: Of the tool, once.
        arguments: More of the JSON text.
        extra: As `ToolCall.extra`.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    extra: Mapping[str, Any] = field(default_factory=_nothing, repr=False)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; every field is what this piece brings.

    `LLM.stream` gives pieces with text, reasoning, calls or the finish reason, and a last one with
    the whole answer.

    Attributes:
        text: More of the answer.
        reasoning: More of what the model thinks.
        tool_calls: More of calls of tools.
        finish_reason: Why it ended, once.
        usage: All that was counted so far, not what was added: the last one counts.
        model: The model that answers, once.
        request_id: The provider's id of the request, once.
        extra: As `Completion.extra`; later members replace earlier ones of the same name.
        headers: Headers of the answer, once.
        completion: The whole answer, with the last piece that `LLM.stream` gives.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=_nothing, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call that failed.

    Attributes:
        number: 1 for the first.
        at: Seconds since the call began when the attempt failed.
        error: Name of the error's class.
        status: HTTP status, or None where no answer came.
        request_id: The provider's id of the request, or None.
        wait: Seconds waited after it; 0.0 after the last.
        model: `provider/model` that was asked; empty where a retried function is not a model's.
    """

    number: int
    at: float
    error: str
    status: int | None
    request_id: str | None
    wait: float
    model: str = ""
