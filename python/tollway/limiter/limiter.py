"""The limiter as callers see it."""

from __future__ import annotations

import asyncio
import datetime
import os
import threading
import time
import weakref
import zoneinfo
from typing import TYPE_CHECKING

from tollway import _core
from tollway.errors import ConfigurationError, DeadlineExceededError, RequestTooLargeError
from tollway.limiter.learning import Learning, most_of
from tollway.limiter.permit import Permit, Reservation
from tollway.limiter.snapshot import LimiterSnapshot, WindowSnapshot
from tollway.limiter.waiting import Timer, Waiter

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tollway.limiter.adaptive import Outcome, Ramp
    from tollway.limiter.feedback import Feedback
    from tollway.limiter.limits import Limits

__all__ = ["RateLimiter", "shared_limiter"]

# Admissions of one visit of the timer, and the seconds until the next where there are more: in
# between, the loops run the tasks of the visit before.
_BATCH = 256
_PAUSE = 0.001

# Seconds after which the bounds of a calendar day are told again: the clock on the wall may be set.
_TELL_DAY = 600.0


class RateLimiter:
    """Admits requests as `limits` allow, by priority, then first come first served.

    For every t, what was admitted in (t - window, t] is at most the quota, for all limits jointly.
    One limiter may be used from several event loops and threads at once.

    Args:
        limits: What to hold; without any, everything is admitted at once.
        margin: Seconds by which every window is made longer, for the jitter between a permit and
            its bytes on the wire. Default: 0.25 on windows of a minute, 2 % of shorter ones.
        ramp: How fast the traffic may grow, where the provider judges that too.
    """

    def __init__(
        self, limits: Limits, *, margin: float | None = None, ramp: Ramp | None = None
    ) -> None:
        self.limits = limits
        self._core = _core.Limiter(
            **most_of(limits),
            rps=limits.rps,
            sub_windows=limits.sub_windows,
            output_weight=limits.output_weight,
            max_in_flight=limits.max_in_flight,
            is_calendar=limits.time_zone is not None,
            margin=margin,
        )
        self._learning = Learning(self._core, limits, ramp)
        # Guards the step from a ticket to its waiter; the core guards itself.
        self._lock = threading.Lock()
        self._waiters: dict[int, Waiter] = {}
        self._generation = 0
        # The timer's: when it comes back by itself, and whether it was called.
        self.due = float("inf")
        self.is_called = False
        _limiters.add(self)
        self._zone = None if limits.time_zone is None else zoneinfo.ZoneInfo(limits.time_zone)
        if self._zone is not None:
            self._tell_day(self._zone)
            _timer.call(self)

    def __repr__(self) -> str:
        """Show the limits and how many wait."""
        return f"<RateLimiter {self.limits}, {self._core.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._core.waiting

    @property
    def current_limits(self) -> Limits:
        """The limits that hold now: as given, or as the server's answers taught."""
        return self._learning.limits()

    def try_acquire(self, tokens: int = 0, output_tokens: int = 0) -> float:
        """Admit a request of `tokens` now, or say when it could be; never blocks.

        Returns:
            0.0 when admitted, else the seconds until it could be if nothing else were admitted
            before. While others wait it is never admitted, and the answer is a lower bound.

        Raises:
            RequestTooLargeError: The request is more than a whole quota. Nothing was charged.
        """
        return self._core.try_acquire(tokens, output_tokens)

    async def acquire(self, tokens: int = 0, output_tokens: int = 0, *, priority: int = 0) -> None:
        """Wait until a request of `tokens` is admitted; it is not settled.

        Args:
            tokens: Input tokens.
            output_tokens: Output tokens that are expected.
            priority: Who is higher goes first; 10 s of waiting are worth one level.

        Raises:
            RequestTooLargeError: The request is more than a whole quota. Nothing was charged.

        Cancellation: a waiter that is cancelled leaves the queue and charges nothing.
        """
        await self.enter(tokens, output_tokens, priority, None, leased=False)

    def acquire_sync(self, tokens: int = 0, output_tokens: int = 0, *, priority: int = 0) -> None:
        """Wait in this thread until a request of `tokens` is admitted; see `acquire`."""
        self.enter_sync(tokens, output_tokens, priority, None, leased=False)

    def reserve(
        self,
        tokens: int = 0,
        output_tokens: int = 0,
        *,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Reservation:
        """Reserve for one request, which is settled once it is known what it took.

        Used as `async with limiter.reserve(...) as permit` or `with ...`: the wait is at its
        beginning, and to its end it is one of the `max_in_flight` that are under way. A block that
        raises before `permit.sent()` gives back all it took; after that the reservation stands
        until `permit.settle(usage)`, which may also come after the block.

        Args:
            tokens: Input tokens.
            output_tokens: Output tokens that are expected.
            priority: Who is higher goes first; 10 s of waiting are worth one level.
            timeout: Seconds to wait at the most.

        Raises:
            RequestTooLargeError: The request is more than a whole quota. Nothing was charged.
            DeadlineExceededError: It was not admitted within `timeout`. Nothing was charged.

        Cancellation: a waiter that is cancelled leaves the queue and charges nothing.
        """
        return Reservation(self, tokens, output_tokens, priority, timeout)

    def snapshot(self) -> LimiterSnapshot:
        """Return what every window holds, who waits and what the server said."""
        windows, in_flight, waiting, rate_limited, paused_for = self._core.state()
        return LimiterSnapshot(
            windows=tuple(
                WindowSnapshot(name, seconds, limit, configured, used, next_in)
                for name, seconds, configured, limit, used, next_in in windows
                if self._learning.holds(name, limit)
            ),
            in_flight=in_flight,
            waiting=waiting,
            rate_limited=rate_limited,
            paused_for=paused_for,
        )

    # What the server says

    def pause(self, seconds: float, limit: str | None = None) -> None:
        """Admit nothing that counts for `limit` for so many seconds; None: nothing at all.

        A pause that ends later stays.
        """
        self._core.pause(seconds, limit)

    def set_ceiling(self, limit: str, ceiling: int | None) -> None:
        """Hold `limit` lower than configured, from now on; None ends that.

        Whoever waits for more than the new limit is refused. A ceiling on `rpm` lowers its
        sub-windows in proportion.
        """
        self._core.set_ceiling(limit, ceiling)
        if self._core.waiting:
            _timer.call(self)

    def note_rate_limited(self) -> None:
        """Count an answer that said that a limit was exceeded."""
        self._core.note_throttled()

    def learn(
        self,
        feedback: Feedback,
        *,
        outcome: Outcome = "answered",
        took: float = 0.0,
        tokens: int = 0,
    ) -> None:
        """Take in what an answer says about limits; calls with retries do it for each attempt.

        A limit that the server states holds from now on, though never above the configured one. A
        refusal that names a time pauses the limit until then, for everybody; repeated ones shrink
        it, and it recovers slowly. See `tollway.limiter.adaptive`.

        Args:
            feedback: What the answer says.
            outcome: `answered`; `refused` by a limit (429); `overloaded`, which shrinks nothing.
            took: Seconds since the request was sent: of two answers, the later sent counts.
            tokens: How many the request was admitted with.
        """
        changed = self._learning.learn(feedback, outcome=outcome, took=took, tokens=tokens)
        if changed and self._core.waiting:
            _timer.call(self)

    # Waiting

    async def enter(
        self, tokens: int, output_tokens: int, priority: int, timeout: float | None, *, leased: bool
    ) -> int:
        """Wait in this task until admitted; return the stamp of the charge."""
        joined = self._join(
            tokens, output_tokens, priority, asyncio.get_running_loop(), leased=leased
        )
        if isinstance(joined, int):
            return joined
        assert joined.future is not None
        try:
            if timeout is None:
                await joined.future
            else:
                async with asyncio.timeout(timeout):
                    await joined.future
        except TimeoutError as error:
            self._leave(joined)
            if timeout is None:
                raise
            raise _late(timeout) from error
        except BaseException:
            # Cancelled, or collected with a loop that was closed.
            self._leave(joined)
            raise
        assert joined.stamp is not None
        return joined.stamp

    def enter_sync(
        self, tokens: int, output_tokens: int, priority: int, timeout: float | None, *, leased: bool
    ) -> int:
        """Wait in this thread until admitted; return the stamp of the charge."""
        joined = self._join(tokens, output_tokens, priority, None, leased=leased)
        if isinstance(joined, int):
            return joined
        assert joined.gate is not None
        try:
            is_woken = joined.gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        except BaseException:
            self._leave(joined)
            raise
        if not is_woken:
            self._leave(joined)
            assert timeout is not None
            raise _late(timeout)
        if joined.error is not None:
            raise joined.error
        assert joined.stamp is not None
        return joined.stamp

    def permit(self, stamp: int, tokens: int, output_tokens: int) -> Permit:
        """Return the permit of what was admitted with this stamp."""
        permit = Permit(
            self._core, stamp, tokens, output_tokens, cached_free=bool(self.limits.cached_free)
        )
        permit.generation = self._generation
        return permit

    def leave(self, permit: Permit) -> None:
        """End a reservation: another may begin."""
        # A forked child has none of its parent's under way.
        if permit.generation == self._generation:
            self._core.end_lease()
            if self._core.waiting:
                _timer.call(self)

    def _join(
        self,
        tokens: int,
        output_tokens: int,
        priority: int,
        loop: asyncio.AbstractEventLoop | None,
        *,
        leased: bool,
    ) -> Waiter | int:
        """Return the stamp of an admission, or the waiter."""
        with self._lock:
            ticket, stamp, is_near = self._core.enqueue(
                tokens, output_tokens, priority=priority, leased=leased
            )
            if ticket is None:
                return stamp
            waiter = self._waiters[ticket] = Waiter(
                ticket, loop, tokens, output_tokens, leased=leased
            )
        # Only the first in the queue has a time, and only the second may pass it.
        if is_near:
            try:
                _timer.call(self)
            except BaseException:
                self._forget(waiter)
                raise
        return waiter

    def _forget(self, waiter: Waiter) -> bool:
        # Without the lock: a coroutine may be collected at any point of any thread.
        waited = self._core.cancel(waiter.ticket)
        if waited:
            self._waiters.pop(waiter.ticket, None)
        return waited

    def _leave(self, waiter: Waiter) -> None:
        if self._forget(waiter):
            # The next one may be due sooner than the one that left.
            _timer.call(self)
            return
        # Admitted, and perhaps not told yet: whoever sees both gives it back.
        waiter.has_left = True
        if waiter.stamp is not None:
            self._give_back(waiter)

    def _give_back(self, waiter: Waiter) -> None:
        if waiter.stamp is not None and waiter.claim():
            self._core.refund(waiter.stamp, waiter.tokens, waiter.output_tokens)
            if waiter.leased:
                self._core.end_lease()
            _timer.call(self)

    def serve(self) -> float | None:
        """Wake those who are admitted by now; for the timer's thread, which alone wakes.

        Returns:
            Seconds until it is to be called again; None where nobody waits for a time.
        """
        with self._lock:
            admitted, refused, wait = self._core.poll(_BATCH)
            # Not here any more where the process was forked, or the waiter's loop closed.
            woken = [(self._waiters.pop(ticket, None), stamp) for ticket, stamp in admitted]
            failed = [(self._waiters.pop(ticket, None), message) for ticket, message in refused]
        waiters: list[Waiter] = []
        for waiter, stamp in woken:
            if waiter is not None:
                waiter.stamp = stamp
                if waiter.has_left:
                    self._give_back(waiter)
                else:
                    waiters.append(waiter)
        for waiter, message in failed:
            if waiter is not None:
                waiter.error = RequestTooLargeError(message)
                waiters.append(waiter)
        closed = _timer.wake(waiters)
        if closed:
            for waiter in waiters:
                if waiter.loop in closed:
                    self._give_back(waiter)
            for waiter in self._waiters.copy().values():
                if waiter.loop in closed:
                    self._forget(waiter)
            return 0.0
        wait = _PAUSE if wait == 0.0 else wait
        if self._zone is not None:
            left = self._tell_day(self._zone)
            wait = left if wait is None else min(wait, left)
        return wait

    def _tell_day(self, zone: zoneinfo.ZoneInfo) -> float:
        """Tell the core the bounds of this calendar day; return the seconds until the next telling."""
        now = time.time()
        today = datetime.datetime.fromtimestamp(now, zone).date()
        midnight = datetime.time(tzinfo=zone)
        start = datetime.datetime.combine(today, midnight).timestamp()
        end = datetime.datetime.combine(today + datetime.timedelta(days=1), midnight).timestamp()
        self._core.set_day(max(0.0, now - start), max(0.0, end - now))
        return min(max(0.001, end - now), _TELL_DAY)

    def abandon_waiters(self) -> None:
        """Start a forked child without its parent's waiters, whose threads it does not have."""
        self._lock = threading.Lock()
        self._learning.forget_lock()
        self._core.clear_queue()
        self._generation += 1
        self.due, self.is_called = float("inf"), False
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.abandon()
        if self._zone is not None:
            _timer.call(self)


def _late(timeout: float) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"not admitted by the limiter within {timeout:g} s; nothing was charged"
    )


_limiters: weakref.WeakSet[RateLimiter] = weakref.WeakSet()
_timer = Timer()
_shared: weakref.WeakValueDictionary[Hashable, RateLimiter] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_limiter(key: Hashable, limits: Limits) -> RateLimiter:
    """Return the process's limiter for `key`, made with `limits` when it is the first.

    Args:
        key: What shares a quota: provider, base URL, credential's fingerprint, model.
        limits: The limits; the same for all who share the key while one of them lives.

    Raises:
        ConfigurationError: The key's limiter lives and has other limits.
    """
    with _shared_lock:
        limiter = _shared.get(key)
        if limiter is None:
            limiter = _shared[key] = RateLimiter(limits)
        elif limiter.limits != limits:
            raise ConfigurationError(
                f"these calls share one quota that is held with {limiter.limits}, not {limits}; "
                "give the same limits, or one RateLimiter to both"
            )
        return limiter


def _after_fork() -> None:
    global _timer, _shared_lock  # noqa: PLW0603
    _timer = Timer()
    _shared_lock = threading.Lock()
    for limiter in list(_limiters):
        limiter.abandon_waiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
