"""What a call is given around its attempts, what it tells of them, what it takes as a result."""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from tollway.errors import ConfigurationError, TollwayError
from tollway.types import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from tollway.limiter import Permit, RateLimiter
    from tollway.retry.breaker import CircuitBreaker
    from tollway.retry.budget import RetryBudget

__all__ = [
    "LATER",
    "Around",
    "CallRecord",
    "ahead",
    "attempt_of",
    "describe",
    "give_back",
    "refuse_later",
    "times",
]

# How far a retry goes ahead of new work, however long that has waited: 10 s of waiting are worth
# one level of priority. And the highest that there is.
_AHEAD = 10_000
_HIGHEST = 1_000_000

# What a sync function returns that has done nothing yet: whatever fails does so after the call.
LATER = frozenset({types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType})


@dataclass(slots=True)
class CallRecord:
    """What a call did, filled in while it runs. Times are seconds.

    One record may be given to several calls; it then sums them up.

    Attributes:
        attempts: What each failed attempt met, hedges included, in order of failure; not the last
            one of a call whose error is raised as it is.
        sent: Attempts begun, hedges included.
        hedges: Second attempts begun beside a slow one.
        hedges_won: Those whose answer was used.
        queue_wait: Waited for permits of the limiter.
        backoff: Waited between attempts.
        budget_wait: Waited for the retry budget besides.
        seconds: From beginning to end.
        permit: That of the attempt that succeeded, where the call is to keep it (`keep_permit`).
    """

    attempts: list[Attempt] = field(default_factory=list[Attempt])
    sent: int = 0
    hedges: int = 0
    hedges_won: int = 0
    queue_wait: float = 0.0
    backoff: float = 0.0
    budget_wait: float = 0.0
    seconds: float = 0.0
    permit: Permit | None = None


class Around(TypedDict, total=False):
    """What a call has around its attempts; see `RetryPolicy.call`."""

    limiter: RateLimiter | None
    tokens: int | Callable[[], int]
    output_tokens: int
    priority: int
    keep_permit: bool
    breaker: CircuitBreaker | None
    budget: RetryBudget | None
    until: float | None
    record: CallRecord | None


def ahead(priority: int) -> int:
    """Return the priority with which a retry waits for its permit."""
    return min(priority + _AHEAD, _HIGHEST)


def attempt_of(
    error: BaseException, *, number: int, at: float, wait: float = 0.0, model: str = ""
) -> Attempt:
    """Return the attempt that ended with an error; the arguments are its other fields."""
    return Attempt(
        number=number,
        at=at,
        error=type(error).__name__,
        status=getattr(error, "status", None),
        request_id=getattr(error, "request_id", None),
        wait=wait,
        model=model,
    )


def describe(error: Exception) -> str:
    """Return what an error is called, with its message where that shows no secret."""
    # Our own messages carry no key and no body; of others only the class is certain not to.
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, TollwayError) else name


def times(attempts: Sequence[Attempt]) -> str:
    """Return how many attempts there were, in words."""
    return "1 attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"


def give_back(permit: Permit | None) -> None:
    """Give back a permit for what is not sent after all."""
    if permit is not None:
        permit.cancel()
        permit.release()


def refuse_later(result: Any) -> NoReturn:
    """Refuse what a sync function returned that begins only when it is awaited or iterated.

    Raises:
        ConfigurationError: Always.
    """
    kind = "generator"
    if inspect.iscoroutine(result):
        kind = "coroutine"
        # Else the interpreter warns that nobody awaited it.
        result.close()
    raise ConfigurationError(
        f"a function that is called as a sync one returned a {kind}, whose failures come later; "
        "retry the async function itself, or what it iterates over"
    )
