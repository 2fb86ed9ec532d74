"""Batches as every provider keeps them: requests that are answered some time later."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tollway.errors import ConfigurationError
from tollway.simulator.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tollway.simulator.server import Request, Response

__all__ = ["Batch", "BatchBehaviour", "BatchFormat", "BatchResult", "BatchStore"]


@dataclass(frozen=True, slots=True)
class BatchBehaviour:
    """How batches go. Times are seconds.

    Attributes:
        seconds: From the beginning of a batch to its end; its requests are done evenly over it.
        window: After which a batch expires; what is not done by then is not done at all.
        faults: What goes wrong with requests in batches: errors and spoiled rows; what concerns a
            connection does nothing here.
        refused: So many batches, the first of all, fail their validation.
        enqueued_tokens: Tokens of input in all batches under way (OpenAI); None for any number.
        queue: Requests in all batches under way, over which a further batch is a 429 (Anthropic);
            None for any number.
        max_requests: Requests of a batch; None for the provider's own number.
        hidden: How long a new batch does not appear in the list.

    Raises:
        ConfigurationError: A negative number.
    """

    seconds: float = 0.0
    window: float = 86_400.0
    faults: Faults = field(default_factory=Faults)
    refused: int = 0
    enqueued_tokens: int | None = None
    queue: int | None = None
    max_requests: int | None = None
    hidden: float = 0.0

    def __post_init__(self) -> None:
        """Check the times."""
        if min(self.seconds, self.window, self.hidden, self.refused) < 0:
            raise ConfigurationError("times and numbers of a batch are not negative")


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request.

    Attributes:
        custom_id: Its name.
        kind: Whether it was answered, be it with an error, or not before its batch ended.
        status: HTTP status of the answer.
        body: The answer.
        request_id: Of the answer.
    """

    custom_id: str
    kind: Literal["answered", "expired", "cancelled"]
    status: int = 0
    body: bytes = b""
    request_id: str = ""


@dataclass(slots=True)
class Batch:
    """One batch.

    Attributes:
        id: Its name.
        path: What answers its requests.
        requests: Custom id and body of each.
        tokens: Of their input.
        created: Seconds since 1970.
        began: Seconds of the monotonic clock.
        details: What the provider shows of it beside.
        problem: Code and message, where it was refused as a whole.
        cancelled: Seconds from its beginning until it was; or None.
        results: Of every request, once it has ended.
    """

    id: str
    path: str
    requests: Sequence[tuple[str, Mapping[str, Any]]]
    tokens: int
    created: float
    began: float
    details: Mapping[str, Any]
    problem: tuple[str, str] | None = None
    cancelled: float | None = None
    results: list[BatchResult] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.results is None and self.problem is None

    def cancel(self) -> None:
        """Have it end now, unless it was cancelled before."""
        if self.cancelled is None:
            self.cancelled = time.monotonic() - self.began

    def count(self, kind: str | None, *, ok: bool | None = None) -> int:
        """Count the results of a kind; of those answered, the right ones or the errors."""
        return sum(
            result.kind == kind and (ok is None or ok == (result.status == 200))
            for result in self.results or ()
        )


class BatchFormat(Protocol):
    """How one provider speaks of batches."""

    def owns(self, path: str) -> bool:
        """Whether a path is about batches."""
        ...

    def answer(self, request: Request, keys: Collection[str] | None, base: str) -> Response:
        """Answer a request about batches.

        Args:
            request: It.
            keys: Those that are accepted; None for any.
            base: The simulator's address.

        Raises:
            Refusal: It is not in order.
        """
        ...


class BatchStore:
    """The batches of one account.

    Args:
        behaviour: How they go.
        perform: Answers a request of a batch: from the batch's id, the path and the body to status,
            body and request id.
    """

    def __init__(
        self,
        behaviour: BatchBehaviour,
        perform: Callable[[str, str, Mapping[str, Any]], tuple[int, bytes, str]],
    ) -> None:
        self.behaviour = behaviour
        self._perform = perform
        self._refused = behaviour.refused
        # Oldest first.
        self.batches: dict[str, Batch] = {}

    def create(
        self,
        name: str,
        path: str,
        requests: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        tokens: int,
        details: Mapping[str, Any],
        problem: tuple[str, str] | None,
    ) -> Batch:
        """Begin a batch, or refuse it as a whole with a code and a message."""
        if self._refused:
            self._refused -= 1
            problem = ("invalid_json_line", "This line is not parseable as valid JSON.")
        batch = Batch(
            f"{name}_{secrets.token_hex(12)}",
            path,
            requests,
            tokens,
            time.time(),
            time.monotonic(),
            details,
            problem,
        )
        self.batches[batch.id] = batch
        return batch

    @property
    def open_batches(self) -> list[Batch]:
        """Those under way."""
        return [batch for batch in self.batches.values() if batch.is_open]

    def listed(self, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """Return a page of batches, newest first, and whether there are more."""
        now = time.monotonic()
        shown = [
            batch
            for batch in reversed(self.batches.values())
            if now - batch.began >= self.behaviour.hidden
        ]
        if after is not None:
            names = [batch.id for batch in shown]
            shown = shown[names.index(after) + 1 :] if after in names else []
        return shown[:limit], len(shown) > limit

    def advance(self, *, to_the_end: bool = False) -> None:
        """Do what is due by now, or all that will ever be."""
        now = float("inf") if to_the_end else time.monotonic()
        for batch in self.open_batches:
            # Seconds after the beginning: differences of the clock itself are rounded, and a
            # request that is done would be missing.
            seconds = self.behaviour.seconds
            ends = {"done": seconds, "expired": self.behaviour.window}
            if batch.cancelled is not None:
                ends["cancelled"] = batch.cancelled
            why = min(ends, key=lambda end: ends[end])
            if batch.began + ends[why] > now:
                continue
            total = len(batch.requests)
            done = total if why == "done" else min(total, int(total * ends[why] / seconds))
            kind: Literal["expired", "cancelled"] = "expired" if why == "expired" else "cancelled"
            batch.results = [
                BatchResult(name, "answered", *self._perform(batch.id, batch.path, body))
                for name, body in batch.requests[:done]
            ]
            batch.results += [BatchResult(name, kind) for name, _ in batch.requests[done:]]
