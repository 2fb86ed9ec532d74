"""What the providers' batch APIs have in common, as `tollway.batch` sees them.

A batch is many requests that are handed over at once and answered within a day, at half the price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from tollway.errors import APITimeoutError, ConfigurationError, ProviderError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from tollway.providers.base import (
        ChatProvider,
        ChatRequest,
        EmbeddingAnswer,
        EmbeddingProvider,
    )
    from tollway.types import Completion

__all__ = [
    "BatchAPI",
    "BatchResult",
    "BatchRules",
    "BatchState",
    "ChatBatchAPI",
    "EmbeddingBatchAPI",
    "cancelled",
    "chat_batches",
    "embedding_batches",
    "expired",
]


@dataclass(frozen=True, slots=True)
class BatchRules:
    """What one batch takes.

    Attributes:
        max_requests: Requests.
        max_bytes: Bytes of all of them as they are sent.
        max_inputs: Texts of all of them, for embeddings; None for any number.
        line_bytes: What a request takes beside its body.
    """

    max_requests: int
    max_bytes: int
    max_inputs: int | None = None
    line_bytes: int = 200


@dataclass(frozen=True, slots=True, eq=False)
class BatchState:
    """Where a batch stands.

    Attributes:
        id: The provider's name of it.
        status: `running`; `ended`, with results for some or all requests; or `refused` as a whole,
            nothing of it having been done.
        created: When, seconds since 1970.
        requests: How many it has; 0 while the provider has not counted them.
        finished: Those that have an answer or an error.
        failed: Those with an error.
        digest: What `submit` was given, where the provider keeps it; else None.
        error: Why it was refused, one that is `retryable` passes; or why it ended before all of its
            requests were answered.
        results: Where the results are, in the provider's terms.
    """

    id: str
    status: Literal["running", "ended", "refused"]
    created: float
    requests: int = 0
    finished: int = 0
    failed: int = 0
    digest: str | None = None
    error: ProviderError | None = None
    results: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """What became of one request of a batch.

    Attributes:
        custom_id: The name that the request was given.
        body: The answer's JSON; None where there is an error.
        error: Why there is no answer; of the classes that the same refusal has outside a batch.
        refused: Where the provider answered the request itself with an error, its status and body.
        request_id: The provider's id of the request, or None.
    """

    custom_id: str
    body: Any = None
    error: ProviderError | None = None
    refused: tuple[int, bytes] | None = None
    request_id: str | None = None


class BatchAPI(Protocol):
    """Batches of one model behind one address and credential."""

    @property
    def model(self) -> str:
        """`provider/model`."""
        ...

    @property
    def address(self) -> str:
        """Where the batches are."""
        ...

    @property
    def rules(self) -> BatchRules:
        """What one batch takes."""
        ...

    @property
    def is_tagged(self) -> bool:
        """Whether a batch's `digest` can be asked for again."""
        ...

    async def open(self) -> None:
        """Make ready for this event loop."""
        ...

    async def submit(
        self, requests: Iterable[tuple[str, bytes]], digest: str, begin: Callable[[], None]
    ) -> BatchState:
        """Hand over a batch.

        Args:
            requests: (custom id, body as JSON) of each.
            digest: Kept with the batch, where the provider can.
            begin: Called right before the request that starts it: what fails earlier has cost
                nothing.

        Raises:
            ProviderError: As any request does.
        """
        ...

    async def state(self, batch: str) -> BatchState:
        """Return where a batch stands.

        Raises:
            ProviderError: As any request does.
        """
        ...

    def recent(self) -> AsyncGenerator[BatchState, None]:
        """Return the batches of the account, newest first.

        Raises:
            ProviderError: On any step.
        """
        ...

    def results(self, state: BatchState) -> AsyncGenerator[BatchResult, None]:
        """Return the results of a batch that has ended, in any order.

        Raises:
            ProviderError: On any step; what came before stays right.
        """
        ...

    async def cancel(self, batch: str) -> None:
        """Ask the provider to stop; what is done by then is paid for and has its results.

        Raises:
            ProviderError: As any request does.
        """
        ...


class ChatBatchAPI(BatchAPI, Protocol):
    """Batches of completions."""

    def write(self, request: ChatRequest) -> bytes:
        """Return the body of a request."""
        ...

    def read(self, result: BatchResult, request: ChatRequest | None) -> Completion:
        """Return the answer in a result, without its cost.

        Args:
            result: Of this API.
            request: What it is the result of, to learn from where that was refused.

        Raises:
            ProviderError: There is none.
        """
        ...


class EmbeddingBatchAPI(BatchAPI, Protocol):
    """Batches of embeddings."""

    def write(self, texts: Sequence[str]) -> bytes:
        """Return the body of a request for n texts."""
        ...

    def read(self, result: BatchResult, count: int) -> EmbeddingAnswer:
        """Return the vectors in a result, checked as those of a request of n texts are.

        Raises:
            ProviderError: There are none.
        """
        ...


def chat_batches(provider: ChatProvider) -> ChatBatchAPI:
    """Return the batch API of a provider of completions.

    Raises:
        ConfigurationError: It has none.
    """
    return cast("ChatBatchAPI", _batches(provider, "openai, azure and anthropic"))


def embedding_batches(provider: EmbeddingProvider) -> EmbeddingBatchAPI:
    """Return the batch API of a provider of embeddings.

    Raises:
        ConfigurationError: It has none.
    """
    return cast("EmbeddingBatchAPI", _batches(provider, "openai"))


def _batches(provider: ChatProvider | EmbeddingProvider, those: str) -> object:
    make = getattr(provider, "batches", None)
    if make is None:
        raise ConfigurationError(
            f'{provider.name}/{provider.model} has no batch API for this; mode="batch" is there '
            f"for {those}"
        )
    return make()


def expired(batch: str) -> ProviderError:
    """Return the error of a request that its batch had no time for."""
    return APITimeoutError(
        f"batch {batch} expired before this request was answered; it was not charged",
        code="batch_expired",
    )


def cancelled(batch: str) -> ProviderError:
    """Return the error of a request whose batch was cancelled before it was answered."""
    return ProviderError(
        f"batch {batch} was cancelled before this request was answered; it was not charged",
        code="batch_cancelled",
    )
