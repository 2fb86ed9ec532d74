"""Hedging: a second attempt beside one that is slow; whichever succeeds first counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from tollway.errors import ConfigurationError
from tollway.retry.budget import RetryBudget
from tollway.retry.sleeper import resolve_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Hedge", "race"]

T = TypeVar("T")

# Successes that a percentile is taken of, the fewest that give one, and how often it is anew.
_KEPT = 256
_FEWEST = 20
_EVERY = 16


class Hedge:
    """When to send a second attempt beside a first that has not answered.

    A hedge takes a permit of its own, counts in cost and needs a retry that is paid for: by the
    policy's budget, or else by one of its own of 10 % of the successes. The loser is cancelled,
    which closes its request; what the provider had done for it is paid for all the same.

    Args:
        after: Seconds from the first attempt to the second.
        percentile: Or the time in which this part of the last 256 successes answered, 0 to 100;
            without hedges until there are 20.

    Raises:
        ConfigurationError: Both or neither are given, or one is out of range.
    """

    def __init__(self, after: float | None = None, *, percentile: float | None = None) -> None:
        if (after is None) == (percentile is None):
            raise ConfigurationError("a hedge takes `after` or `percentile`, one of the two")
        if after is not None and not 0 <= after < float("inf"):
            raise ConfigurationError(f"after must be seconds >= 0, not {after!r}")
        if percentile is not None and not 0 < percentile < 100:
            raise ConfigurationError(f"percentile must be between 0 and 100, not {percentile!r}")
        self.after = after
        self.percentile = percentile
        self.budget = RetryBudget()
        # A ring: the newest is at `_noted` % `_KEPT`.
        self._latencies: list[float] = []
        self._noted = 0
        self._delay = after

    def __repr__(self) -> str:
        """Show the settings."""
        if self.after is not None:
            return f"Hedge(after={self.after:g})"
        return f"Hedge(percentile={self.percentile:g})"

    def __reduce__(self) -> tuple[Callable[..., Hedge], tuple[float | None, float | None]]:
        """Pickle the settings; another process learns its own latencies."""
        return _hedge, (self.after, self.percentile)

    @property
    def delay(self) -> float | None:
        """Seconds from the first attempt to the second; None while there are no hedges."""
        return self._delay

    def note(self, seconds: float) -> None:
        """Learn how long a success took."""
        if self.percentile is None:
            return
        if len(self._latencies) < _KEPT:
            self._latencies.append(seconds)
        else:
            self._latencies[self._noted % _KEPT] = seconds
        self._noted += 1
        if self._noted >= _FEWEST and (self._delay is None or self._noted % _EVERY == 0):
            known = sorted(self._latencies)
            self._delay = known[int(len(known) * self.percentile / 100)]


def _hedge(after: float | None, percentile: float | None) -> Hedge:
    return Hedge(after, percentile=percentile)


async def race(
    first: Awaitable[T],
    second: Callable[[], Awaitable[T] | None],
    delay: float,
    is_final: Callable[[BaseException], bool],
) -> tuple[T, bool]:
    """Return the first success, and whether it is the second's.

    Args:
        first: Under way from the start.
        second: Called after `delay` seconds if the first has not ended; what it returns is awaited
            beside it, unless that is None.
        delay: Seconds.
        is_final: Whether what one of them met ends the other too.

    Raises:
        BaseException: What is final, as soon as it is met; else that of the first, where neither
            succeeds.

    Cancellation: cancels both. They are waited for to their end, here and when one has won.
    """
    runs = [asyncio.ensure_future(first)]
    loop = asyncio.get_running_loop()
    alarm = loop.create_future()
    cancel = resolve_after(alarm, delay)
    try:
        await asyncio.wait([runs[0], alarm], return_when=asyncio.FIRST_COMPLETED)
        hedge = None if runs[0].done() else second()
        if hedge is not None:
            runs.append(asyncio.ensure_future(hedge))
        pending = set(runs)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for run in (run for run in runs if run in done and not run.cancelled()):
                error = run.exception()
                if error is None:
                    return run.result(), run is not runs[0]
                if is_final(error):
                    raise error
        return await runs[0], False
    finally:
        cancel()
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
