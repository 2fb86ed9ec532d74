"""What a provider of embeddings or completions is, and what its answers are.

Providers know nothing of limits, retries or caches: `tollway.embed` and `tollway.chat` compose
them. A new provider is a class with the members of `EmbeddingProvider` or `ChatProvider`, given to
`register_provider` or `register_chat_provider`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import numpy as np
    from numpy.typing import NDArray

    from tollway.limiter import Limits
    from tollway.limiter.feedback import Feedback, FeedbackTable
    from tollway.types import Chunk, Completion, JsonFormat, Message, Tool, Usage

__all__ = [
    "ALL_FEATURES",
    "ALL_PARAMETERS",
    "CHECK_TIMEOUT",
    "ChatCapabilities",
    "ChatFeature",
    "ChatParameter",
    "ChatProvider",
    "ChatRequest",
    "ChatRules",
    "Checked",
    "EmbeddingAnswer",
    "EmbeddingProvider",
    "EmbeddingRules",
    "InPlaceProvider",
]

# Seconds for which the answer to a check is waited for.
CHECK_TIMEOUT = 10.0

ChatParameter: TypeAlias = Literal[
    "temperature",
    "max_tokens",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "parallel_tool_calls",
]
"""A member of `ChatRequest` that not every model takes."""

ChatFeature: TypeAlias = Literal[
    "stream",
    "stream_usage",
    "system",
    "images",
    "tools",
    "tool_choice",
    "json_mode",
    "json_schema",
    "reasoning",
]
"""What a model may be able to do.

`stream_usage`: a stream ends with its usage. `json_mode`: an answer can be held to JSON,
`json_schema`: to a schema. `reasoning`: what it thought is shown apart.
"""

ALL_PARAMETERS: frozenset[ChatParameter] = frozenset(get_args(ChatParameter))
ALL_FEATURES: frozenset[ChatFeature] = frozenset(get_args(ChatFeature))


@dataclass(frozen=True, slots=True)
class EmbeddingRules:
    """What one model takes.

    Attributes:
        encoding: Name of the encoding that counts its tokens.
        exact: Whether that is the model's own encoding, or an estimate.
        max_texts: Texts a request.
        max_request_tokens: Tokens a request, or None.
        max_text_tokens: Tokens a text, or None.
        dimensions: Length of its vectors, or None where the first answer tells.
        input_type: What the provider is told that texts are, or None; vectors differ by it.
        price: `listed` where the public price list applies, else `free` or `unknown`.
    """

    encoding: str = "cl100k_base"
    exact: bool = False
    max_texts: int = 2048
    max_request_tokens: int | None = None
    max_text_tokens: int | None = None
    dimensions: int | None = None
    input_type: str | None = None
    price: Literal["listed", "free", "unknown"] = "unknown"

    @property
    def window(self) -> int | None:
        """The most tokens of a text, which may fill a request but no more; None for any number."""
        caps = [cap for cap in (self.max_text_tokens, self.max_request_tokens) if cap is not None]
        return min(caps, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingAnswer:
    """The vectors of one request.

    Attributes:
        vectors: Shape (n, d), float32, row i for text i; NaN where a row is of no use.
        bad_rows: (i, reason) of every row of no use.
        usage: What the provider counted.
        feedback: What the answer says about limits, or None.
    """

    vectors: NDArray[np.float32]
    bad_rows: Sequence[tuple[int, str]]
    usage: Usage
    feedback: Feedback | None = None


class EmbeddingProvider(Protocol):
    """One embedding model behind one address and credential."""

    @property
    def name(self) -> str:
        """Name of the provider, as in `name/model`."""
        ...

    @property
    def model(self) -> str:
        """Name of the model, as the provider knows it."""
        ...

    @property
    def rules(self) -> EmbeddingRules:
        """What the model takes."""
        ...

    @property
    def limits(self) -> Limits:
        """What holds where the user names nothing else; the sub-window it judges by."""
        ...

    @property
    def quota_key(self) -> Hashable:
        """What shares one quota: provider, address, credential's fingerprint, model."""
        ...

    @property
    def priced_as(self) -> str:
        """Name of the model in the price list: another than `model` where that is a deployment."""
        ...

    def for_queries(self) -> EmbeddingProvider:
        """Return what embeds queries: itself where they are embedded as documents are."""
        ...

    async def open(self) -> None:
        """Make ready for this event loop: called before the first permit is asked for."""
        ...

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts, within the rules.

        Raises:
            ProviderError: Nothing of the request is of use.

        Cancellation closes the request.
        """
        ...

    async def aclose(self) -> None:
        """Close what the provider itself opened."""
        ...


@runtime_checkable
class InPlaceProvider(Protocol):
    """What an `EmbeddingProvider` is besides, if it can decode answers where they are wanted."""

    async def embed_into(self, texts: Sequence[str], out: NDArray[np.float32]) -> EmbeddingAnswer:
        """Send one request as `EmbeddingProvider.embed` does.

        Args:
            texts: n strings.
            out: Shape (n, d), C-contiguous: where the rows may go; the answer's `vectors` is this
                array then. After a failure it holds anything.

        Raises:
            ProviderError: As `embed` does.

        Cancellation closes the request; nothing is written to `out` afterwards.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChatRules:
    """What one chat model takes and how it is counted, charged and paid.

    Attributes:
        token_model: The model whose rules count the tokens of a request; see `count_messages`. The
            name of a deployment says nothing about its model.
        context_window: Tokens of input and output together, or None where it is not known.
        max_output_tokens: Tokens of an answer, or None.
        charges_max_tokens: How a request is charged when it comes, before its answer is known:
            `larger` of its input and `max_tokens` (OpenAI), their `sum` (Azure, Bedrock), or
            `no`, its real use alone.
        refunds: Whether what the answer did not use of that charge comes back with it.
        feedback: Reads what its answers' headers say about limits; None where they say nothing.
        price: `listed` where the public price list applies, else `free` or `unknown`.
        price_provider: Whose price list that is.
        price_model: Under which name.
    """

    token_model: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    charges_max_tokens: Literal["larger", "sum", "no"] = "no"
    refunds: bool = True
    feedback: FeedbackTable | None = None
    price: Literal["listed", "free", "unknown"] = "unknown"
    price_provider: str = ""
    price_model: str = ""


@dataclass(frozen=True, slots=True)
class ChatCapabilities:
    """What one chat model is able to do, as far as is known.

    Attributes:
        features: What it can do.
        parameters: What it takes beside the messages.
    """

    features: AbstractSet[ChatFeature]
    parameters: AbstractSet[ChatParameter]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request, in the terms of no provider. None is the provider's default: it is not sent.

    Attributes:
        messages: The conversation, at least one.
        temperature: 0.0 to 2.0.
        max_tokens: The most tokens of the answer, reasoning included.
        top_p: Share of probability that is drawn from.
        stop: Texts that end the answer.
        seed: For answers that repeat.
        presence_penalty: -2.0 to 2.0.
        frequency_penalty: -2.0 to 2.0.
        reasoning_effort: As the provider words it: `none`, `minimal`, `low`, `medium`, `high`, ….
        parallel_tool_calls: Whether one answer may call several tools.
        tools: What the model may ask to have called.
        tool_choice: `auto`, `none`, `required` for any of them, or the name of one to be called.
        response_format: That the answer is to be JSON.
        defaults: Names of parameters that the user did not ask for: left out where the model does
            not take them, while one that the user named is then an error.
        extra_body: Further members of the provider's own request.
        extra_headers: Further headers of the request.
        timeout: Seconds for the whole answer; for a stream, up to each next piece.
    """

    messages: Sequence[Message]
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    parallel_tool_calls: bool | None = None
    tools: Sequence[Tool] = ()
    tool_choice: str | None = None
    response_format: JsonFormat | None = None
    defaults: AbstractSet[ChatParameter] = frozenset()
    extra_body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    extra_headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Checked:
    """What a provider answered to its cheapest check.

    Attributes:
        by: What was asked.
        has_model: Whether it has the model; None where its answer does not tell.
        models: Names of the models that it lists, if it does.
    """

    by: str
    has_model: bool | None
    models: Sequence[str] = ()


class ChatProvider(Protocol):
    """One chat model behind one address and credential.

    A provider that can be checked free of charge has `async def check(self) -> Checked` too, which
    raises what `complete` raises; see `LLM.available`.
    """

    @property
    def name(self) -> str:
        """Name of the provider, as in `name/model`."""
        ...

    @property
    def model(self) -> str:
        """Name of the model, as the provider knows it."""
        ...

    @property
    def rules(self) -> ChatRules:
        """What the model takes and how it is counted."""
        ...

    @property
    def capabilities(self) -> ChatCapabilities:
        """What the model can do; may shrink as answers teach it."""
        ...

    @property
    def limits(self) -> Limits:
        """Limits to begin with where the user names none; the sub-window it judges by."""
        ...

    @property
    def quota_key(self) -> Hashable:
        """What shares one quota: provider, address, credential's fingerprint, model."""
        ...

    async def open(self) -> None:
        """Make ready for this event loop: called before the first permit is asked for."""
        ...

    async def complete(self, request: ChatRequest) -> Completion:
        """Send one request and return the whole answer, without its cost.

        The request asks for nothing that `capabilities` does not name. Where the provider reports
        no usage, that of the answer is `Usage(requests=1, estimated=True)`: the caller counts.

        Raises:
            ProviderError: No answer, an error, or one without a finish reason.

        Cancellation closes the request.
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Send one request and return the pieces of its answer as they come.

        The pieces' usage and finish reason may come in any order; the stream may end without a
        finish reason, which its reader takes for an interruption.

        Raises:
            ProviderError: On the first or any later step; what came before stays right.

        Closing the generator, and cancellation, closes the request.
        """
        ...

    async def aclose(self) -> None:
        """Close what the provider itself opened."""
        ...
