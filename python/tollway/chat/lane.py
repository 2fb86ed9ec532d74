"""One deployment of a router: whether it may be asked now, and how it has done so far."""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

from tollway.errors import (
    CircuitOpenError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from tollway.chat.path import CallPath

__all__ = ["Kind", "Lane"]

Kind: TypeAlias = Literal["complete", "stream"]
"""What is timed: whole answers, or first tokens."""

# Failures in a row after which a deployment cools down.
_ALLOWED = 3

# Seconds after which one that does not know the model or the key's rights is asked again, as long
# as a circuit breaker stays open.
_REFUSED = 60.0

# Weight of the newest time in the moving estimate, at the least; and the seconds after which one
# that was not asked any more is asked once, lest it be judged for ever by a bad minute.
_WEIGHT = 0.2
_STALE = 60.0


class Lane:
    """One credential or deployment, with its own limits.

    A time is one of `time.monotonic()`.

    Args:
        path: Sends to it.
        cooldown: Seconds for which it is not asked after failures.
        weight: Its share, beside the others' weights.
    """

    def __init__(self, path: CallPath, cooldown: float, weight: float = 1.0) -> None:
        self.path = path
        self.weight = weight
        self._cooldown = cooldown
        self._cools_until = 0.0
        # In a row; a success ends the row.
        self._failures = 0
        # Requests of this router that are on the wire; each step on a set is whole, in any thread.
        self._requests: set[object] = set()
        # When it was last chosen, as a number that grows with each choice of its router.
        self.chosen = 0
        self._seconds: dict[Kind, float] = {}
        self._timed_at = 0.0
        self.last_error: Exception | None = None

    def __repr__(self) -> str:
        """Show the model, and whether it cools down."""
        wait = self.wait(monotonic())
        return f"{self.path.model}{f' (cooling for {wait:.0f} s)' if wait else ''}"

    @property
    def max_in_flight(self) -> int:
        """Requests under way at once."""
        path = self.path
        return path.limiter.limits.max_in_flight or path.provider.limits.max_in_flight or 25

    @property
    def under_way(self) -> int:
        """Requests of this router that are on the wire."""
        return len(self._requests)

    @property
    def is_doubtful(self) -> bool:
        """Whether it has failed so often that one request is to show that it works again."""
        return self._failures >= _ALLOWED

    def load(self) -> float:
        """Return how much of what it takes at once is under way or waits, whoever asked for it."""
        limiter = self.path.limiter
        return (limiter.snapshot().in_flight + limiter.waiting) / self.max_in_flight

    def wait(self, now: float) -> float:
        """Return the seconds for which it is not to be asked; 0.0 where it may be."""
        left = self._cools_until - now
        if left > 0:
            return left
        refusal = self.refusal()
        # Half open, its breaker lets one request through and says no time for the others.
        return 0.0 if refusal is None else max(refusal.retry_in, 0.1)

    def refusal(self) -> CircuitOpenError | None:
        """Return what its circuit breaker raises, or None where that is closed."""
        try:
            self.path.breaker.check()
        except CircuitOpenError as error:
            return error
        return None

    def seconds(self, kind: Kind, now: float) -> float:
        """Return how long an answer of it takes; 0.0 where that is not known, or not any more."""
        if not self.under_way and now - self._timed_at > _STALE:
            return 0.0
        return self._seconds.get(kind, 0.0)

    @contextlib.contextmanager
    def request(self) -> Generator[None]:
        """Count a request as under way."""
        request = object()
        self._requests.add(request)
        try:
            yield
        finally:
            self._requests.discard(request)

    def succeeded(self, kind: Kind, took: float) -> None:
        """Note an answer, and the seconds from sending to it."""
        self._failures = 0
        self.last_error = None
        now = monotonic()
        known = self._seconds.get(kind, took)
        # The older the estimate, the less it is worth beside what has just been seen.
        weight = min(1.0, max(_WEIGHT, (now - self._timed_at) / _STALE))
        self._seconds[kind] = known + (took - known) * weight
        self._timed_at = now

    def failed(self, error: Exception) -> None:
        """Note how a request failed; whether it cools down follows from it."""
        if not isinstance(error, ProviderError) or error.retry_after == 0.0:
            # Not its failure; or it asks for the same at once, and has been learned from.
            return
        refused = isinstance(error, (NotFoundError, PermissionDeniedError))
        if not refused and not error.retryable:
            # The request's own fault; or that of its credential, which is for its breaker.
            return
        self.last_error = error
        self._failures += 1
        seconds = 0.0
        if refused:
            seconds = _REFUSED
        elif error.retry_after is not None:
            # It says itself how long it is of no use.
            seconds = error.retry_after
        elif isinstance(error, RateLimitError) or self.is_doubtful:
            seconds = self._cooldown
        if seconds:
            self._cools_until = max(self._cools_until, monotonic() + seconds)
