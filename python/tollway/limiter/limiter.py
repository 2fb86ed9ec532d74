"""The limiter as callers see it."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from typing import TYPE_CHECKING, cast

from tollway.errors import DeadlineExceededError, RequestTooLargeError
from tollway.limiter.calendar import Calendar
from tollway.limiter.learning import Learning
from tollway.limiter.permit import Permit, Reservation
from tollway.limiter.shared import CLOSED, ClosedCore, UnopenedCore, open_core, snapshot_of
from tollway.limiter.waiting import Waiter, timer

if TYPE_CHECKING:
    from tollway import _core
    from tollway.limiter.adaptive import Outcome, Ramp
    from tollway.limiter.feedback import Feedback
    from tollway.limiter.limits import Limits
    from tollway.limiter.snapshot import LimiterSnapshot

__all__ = ["RateLimiter"]

# Admissions of one visit of the timer. Where there are more, the next comes when the loops have run
# the tasks of this one, so that no permit is older than a turn of its loop when its request is
# sent; or after the seconds that follow, where a loop is busy or the tasks are threads'.
_BATCH = 32
_PAUSE = 0.001
_LONGEST_TURN = 0.02


class RateLimiter:
    """Admits requests as `limits` allow, by priority, then first come first served.

    For every t, what was admitted in (t - window, t] is at most the quota, for all limits jointly.
    One limiter may be used from several event loops and threads at once.

    Args:
        limits: What to hold; without any, everything is admitted at once.
        shared: A name: every process of this user on this host that gives it takes from one quota,
            each limiter in the order of its own waiters. 1 to 64 letters, digits and `. _ -`. Any
            of them may be killed or stopped at any moment.
        margin: Seconds by which every window is made longer, for the jitter between a permit and
            its bytes on the wire. Default: 0.25 on windows of a minute, 2 % of shorter ones.
        ramp: How fast the traffic may grow, where the provider judges that too.

    Raises:
        ConfigurationError: With `shared`: others hold the name with other limits, its file is not
            this user's alone or no limiter's, there is no room for it, or the system (Windows)
            shares no limiters. Nothing was changed.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        shared: str | None = None,
        margin: float | None = None,
        ramp: Ramp | None = None,
    ) -> None:
        self.limits = limits
        self.shared = shared
        self._margin = margin
        self._core = open_core(limits, margin, shared)
        self._is_closed = False
        self._learning = Learning(limits, ramp)
        self._learning.begin(self._core)
        # Guards the step from a ticket to its waiter; the core guards itself.
        self._lock = threading.Lock()
        self._waiters: dict[int, Waiter] = {}
        # Counts forks: of the process that this is.
        self.generation = 0
        # The timer's: when it comes back by itself, and whether it was called.
        self.due = float("inf")
        self.is_called = False
        _limiters.add(self)
        self._calendar = None if limits.time_zone is None else Calendar(limits.time_zone)
        self._begin_day(self._core)

    def __repr__(self) -> str:
        """Show the limits and how many wait."""
        shared = "" if self.shared is None else f" shared as {self.shared!r}"
        state = "closed" if self._is_closed else f"{self._core.waiting} waiting"
        return f"<RateLimiter {self.limits}{shared}, {state}>"

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._core.waiting

    @property
    def current_limits(self) -> Limits:
        """The limits that hold now: as given, or as the server's answers taught."""
        return self._learning.limits(self._core)

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
        # Most callers need not wait: this costs a fifth of what joining the queue does.
        if priority or self._core.try_acquire(tokens, output_tokens):
            await self._enter(tokens, output_tokens, priority, None, leased=False)

    def acquire_sync(self, tokens: int = 0, output_tokens: int = 0, *, priority: int = 0) -> None:
        """Wait in this thread until a request of `tokens` is admitted; see `acquire`."""
        if priority or self._core.try_acquire(tokens, output_tokens):
            self._enter_sync(tokens, output_tokens, priority, None, leased=False)

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
            RuntimeError: The same reservation is under way. It goes on; nothing was charged.

        Cancellation: a waiter that is cancelled leaves the queue and charges nothing.
        """
        return Reservation(self, tokens, output_tokens, priority, timeout)

    async def hold(
        self,
        tokens: int = 0,
        output_tokens: int = 0,
        *,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Permit:
        """Wait for the permit that `reserve` gives, without a block that ends it.

        The caller says what becomes of it: `sent` or `cancel`, then `settle`, and in any case
        `release`. Arguments, errors and cancellation are those of `reserve`.
        """
        core, stamp = await self._enter(tokens, output_tokens, priority, timeout, leased=True)
        return Permit(self, core, stamp, tokens, output_tokens)

    def hold_sync(
        self,
        tokens: int = 0,
        output_tokens: int = 0,
        *,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Permit:
        """Wait as `hold` does, in this thread; with `timeout` 0 for no time at all."""
        core, stamp = self._enter_sync(tokens, output_tokens, priority, timeout, leased=True)
        return Permit(self, core, stamp, tokens, output_tokens)

    def try_hold(self, tokens: int = 0, output_tokens: int = 0) -> Permit | None:
        """Return the permit that `hold` waits for, if there is one at once; never blocks.

        Raises:
            RequestTooLargeError: The request is more than a whole quota. Nothing was charged.
        """
        try:
            return self.hold_sync(tokens, output_tokens, timeout=0.0)
        except DeadlineExceededError:
            return None

    def snapshot(self) -> LimiterSnapshot:
        """Return what every window holds, who waits and what the server said."""
        return snapshot_of(self._core, self.limits)

    def close(self) -> None:
        """Leave: who waits here gets a RuntimeError, as does whoever comes later.

        A shared limiter's place is given up when the last permit is settled or forgotten. The end
        of the process does the same.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            core, self._core = self._core, cast("_core.Limiter", ClosedCore())
        core.clear_queue()
        timer().call(self)

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
        self.serve_soon()

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
        # Answers may come after the limiter was closed.
        core = self._core
        if self._is_closed:
            return
        changed = self._learning.learn(core, feedback, outcome=outcome, took=took, tokens=tokens)
        if changed and core.waiting:
            timer().call(self)

    # Waiting

    async def _enter(
        self, tokens: int, output_tokens: int, priority: int, timeout: float | None, *, leased: bool
    ) -> tuple[_core.Limiter, int]:
        """Wait in this task until admitted; return who charged, and the stamp."""
        joined = self._join(
            tokens, output_tokens, priority, asyncio.get_running_loop(), leased=leased
        )
        if isinstance(joined, tuple):
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
        return joined.admission

    def _enter_sync(
        self, tokens: int, output_tokens: int, priority: int, timeout: float | None, *, leased: bool
    ) -> tuple[_core.Limiter, int]:
        """Wait in this thread until admitted; return who charged, and the stamp."""
        joined = self._join(tokens, output_tokens, priority, None, leased=leased)
        if isinstance(joined, tuple):
            return joined
        assert joined.gate is not None
        try:
            # More than a lock can wait for is as long as it takes.
            most = threading.TIMEOUT_MAX
            wait = -1 if timeout is None or timeout > most else max(0.0, timeout)
            is_woken = joined.gate.acquire(timeout=wait)
        except BaseException:
            self._leave(joined)
            raise
        if not is_woken:
            self._leave(joined)
            assert timeout is not None
            raise _late(timeout)
        if joined.error is not None:
            raise joined.error
        return joined.admission

    def end_lease(self, core: _core.Limiter) -> None:
        """One of those under way is so no more; see `Permit.release`."""
        core.end_lease()
        self.serve_soon()

    def serve_soon(self) -> None:
        """Have those who wait looked at: something came back, or a limit changed."""
        if not self._is_closed and self._core.waiting:
            timer().call(self)

    def _join(
        self,
        tokens: int,
        output_tokens: int,
        priority: int,
        loop: asyncio.AbstractEventLoop | None,
        *,
        leased: bool,
    ) -> Waiter | tuple[_core.Limiter, int]:
        """Return who admitted and the stamp, or the waiter."""
        with self._lock:
            ticket, stamp, is_near = self._core.enqueue(
                tokens, output_tokens, priority=priority, leased=leased
            )
            # Only now: in a forked child it may have been opened for this.
            core = self._core
            if ticket is None:
                return core, stamp
            waiter = self._waiters[ticket] = Waiter(
                core, ticket, loop, tokens, output_tokens, leased=leased
            )
        # Only the first in the queue has a time, and only the second may pass it.
        if is_near:
            try:
                timer().call(self)
            except BaseException:
                self._forget(waiter)
                raise
        return waiter

    def _forget(self, waiter: Waiter) -> bool:
        # Without the lock: a coroutine may be collected at any point of any thread.
        core = waiter.core
        waited = core is not None and core.cancel(waiter.ticket)
        if waited:
            self._waiters.pop(waiter.ticket, None)
        return waited

    def _leave(self, waiter: Waiter) -> None:
        if self._forget(waiter):
            # The next one may be due sooner than the one that left.
            timer().call(self)
            return
        # Admitted, and perhaps not told yet: whoever sees both gives it back.
        waiter.has_left = True
        if waiter.stamp is not None:
            self._give_back(waiter)

    def _give_back(self, waiter: Waiter) -> None:
        if waiter.stamp is not None and waiter.claim():
            core, stamp = waiter.admission
            core.refund(stamp, waiter.tokens, waiter.output_tokens)
            if waiter.leased:
                core.end_lease()
            timer().call(self)

    def serve(self) -> float | None:
        """Wake those who are admitted by now; for the timer's thread, which alone wakes.

        Returns:
            Seconds until it is to be called again; None where nobody waits for a time.
        """
        core = self._core
        if self._is_closed:
            self._refuse_all()
            return None
        # First, so that nobody is judged by a day that ended while the machine slept.
        left = None if self._calendar is None else self._calendar.tell(core)
        waiters, wait = self._poll(core)
        again = functools.partial(timer().call, self) if wait == 0.0 else None
        closed = timer().wake(waiters, again)
        if closed:
            for waiter in waiters:
                if waiter.loop in closed:
                    self._give_back(waiter)
            for waiter in self._waiters.copy().values():
                if waiter.loop in closed:
                    self._forget(waiter)
            return 0.0
        if wait == 0.0:
            is_in_loops = any(waiter.loop is not None for waiter in waiters)
            wait = _LONGEST_TURN if is_in_loops else _PAUSE
        if left is not None:
            wait = left if wait is None else min(wait, left)
        return wait

    def _poll(self, core: _core.Limiter) -> tuple[list[Waiter], float | None]:
        """Return those to be woken, with their stamp or error, and the wait for the next."""
        with self._lock:
            admitted, refused, wait = core.poll(_BATCH)
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
                waiter.fail(RequestTooLargeError(message))
                waiters.append(waiter)
        return waiters, wait

    def _refuse_all(self) -> None:
        waiters = list(self._waiters.values())
        self._waiters.clear()
        for waiter in waiters:
            waiter.fail(RuntimeError(CLOSED))
        timer().wake(waiters)

    def abandon_waiters(self) -> None:
        """Start a forked child without its parent's waiters, whose threads it does not have."""
        self._lock = threading.Lock()
        self._learning.forget_lock()
        if not isinstance(cast("object", self._core), (ClosedCore, UnopenedCore)):
            self._core.clear_queue()
            if self.shared is not None:
                # The memory is the parent's as well: the child takes a place of its own.
                self._core.disown()
                self._core = cast("_core.Limiter", UnopenedCore(self._reopen))
        self.generation += 1
        self.due, self.is_called = float("inf"), False
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.abandon()
        if self._calendar is not None and self.shared is None:
            timer().call(self)

    def _reopen(self, unopened: UnopenedCore) -> _core.Limiter:
        if cast("object", self._core) is unopened:
            core = open_core(self.limits, self._margin, self.shared)
            self._begin_day(core)
            self._core = core
        return self._core

    def _begin_day(self, core: _core.Limiter) -> None:
        if self._calendar is not None:
            self._calendar.tell(core)
            # From now on the timer does.
            timer().call(self)


def _late(timeout: float) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"not admitted by the limiter within {timeout:g} s; nothing was charged"
    )


_limiters: weakref.WeakSet[RateLimiter] = weakref.WeakSet()


def _after_fork() -> None:
    for limiter in list(_limiters):
        limiter.abandon_waiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
