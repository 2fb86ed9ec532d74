"""One call: its attempts, what it waits for before each, and what follows a failure.

Waiting is async code only. A sync call that has to wait for more than time runs that wait in the
background loop, so that a deadline, a breaker and Ctrl-C end it as they end a task's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, TypeVar

from tollway.bridge import run_sync
from tollway.errors import (
    APITimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    RetriesExhaustedError,
    TollwayError,
)
from tollway.limiter.feedback import Feedback
from tollway.retry.around import (
    LATER,
    CallRecord,
    ahead,
    attempt_of,
    describe,
    give_back,
    refuse_later,
    times,
)
from tollway.retry.hedge import race
from tollway.retry.hint import LONGEST_HINT, hint_of
from tollway.retry.interrupt import Deadline, failure_of
from tollway.types import Usage
from tollway.wire import on_written

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Any

    from tollway.limiter import Permit
    from tollway.limiter.adaptive import Outcome
    from tollway.retry.around import Around
    from tollway.retry.breaker import CircuitBreaker
    from tollway.retry.policy import Clock, RetryPolicy
    from tollway.types import Attempt

__all__ = ["Call"]

T = TypeVar("T")

_logger = logging.getLogger("tollway.retry")


class Call:
    """A call under way."""

    __slots__ = (
        "_attempts",
        "_breaker",
        "_budget",
        "_clock",
        "_delay",
        "_is_sending",
        "_keep_permit",
        "_last",
        "_limiter",
        "_output_tokens",
        "_pass",
        "_policy",
        "_priority",
        "_record",
        "_started",
        "_tokens",
        "_tries",
        "_until",
    )

    def __init__(self, policy: RetryPolicy, clock: Clock, started: float, around: Around) -> None:
        self._policy = policy
        self._clock = clock
        self._started = started
        self._limiter = around.get("limiter")
        self._tokens = around.get("tokens", 0)
        self._output_tokens = around.get("output_tokens", 0)
        self._priority = around.get("priority", 0)
        self._keep_permit = around.get("keep_permit", False)
        self._breaker = around.get("breaker")
        self._budget = around.get("budget") if policy.budget == "auto" else policy.budget
        until = around.get("until")
        if policy.deadline is not None:
            own = started + policy.deadline
            until = own if until is None else min(own, until)
        self._until = until
        self._record = around.get("record") or CallRecord()
        self._attempts: list[Attempt] = []
        # Failed attempts that were not hedges, and the seconds from the last of them to the next.
        self._tries = 0
        self._delay: float | None = None
        # The breaker's, for the attempt that is under way.
        self._pass = 0
        self._is_sending = False
        # Kept where a deadline may need it as its cause.
        self._last: Exception | None = None

    # What follows a failure

    def _is_followed(self, error: Exception) -> bool:
        """Settle the delay to the next attempt; False where the error is to be raised as it is."""
        policy, attempts = self._policy, self._attempts
        if not _is_retryable(error, policy):
            return False
        now = self._clock.now()
        took = now - self._started
        self._tries += 1
        rule = policy.rule(type(error))
        if self._tries > rule.max_retries:
            self._note(error, 0.0)
            raise RetriesExhaustedError(
                f"{times(attempts)} failed in {took:.1f} s; the last: {describe(error)}", attempts
            ) from error
        hint = hint_of(error)
        decision = policy.decide(
            rule,
            self._tries,
            previous=self._delay,
            hint=hint,
            timed_out=isinstance(error, (TimeoutError, APITimeoutError)),
            remaining=None if self._until is None else self._until - now,
        )
        if decision == "deadline":
            self._note(error, 0.0)
            self._last = error
            raise self._late("no time for another attempt before the deadline") from error
        if decision == "hint":
            self._note(error, 0.0)
            raise RetriesExhaustedError(
                f"given up after {times(attempts)}: the server asks to wait {hint:g} s, "
                f"more than {LONGEST_HINT:g} s; the last: {describe(error)}",
                attempts,
            ) from error
        attempt = self._note(error, decision)
        self._delay = decision
        self._last = None if self._until is None else error
        _logger.warning(
            "attempt %d/%d failed: %s; next in %.2f s",
            self._tries,
            rule.max_retries + 1,
            attempt.error,
            decision,
        )
        if policy.on_retry is not None:
            policy.on_retry(attempt, error, decision)
        return True

    def _note(self, error: BaseException, wait: float) -> Attempt:
        number, at = len(self._attempts) + 1, self._clock.now() - self._started
        attempt = attempt_of(error, number=number, at=at, wait=wait)
        self._attempts.append(attempt)
        self._record.attempts.append(attempt)
        return attempt

    def _late(self, what: str) -> DeadlineExceededError:
        attempts = self._attempts
        told = f"{times(attempts)} failed" if attempts else "nothing was tried to its end"
        last = f"; the last: {describe(self._last)}" if self._last is not None else ""
        return DeadlineExceededError(f"{what}{self._limit()}; {told}{last}", attempts)

    def _limit(self) -> str:
        """Say when the deadline was: of one that is shared, what it left to this call."""
        own, left = self._policy.deadline, (self._until or 0.0) - self._started
        if own is not None and self._until == self._started + own:
            return f" of {own:g} s"
        return f", {left:.3g} s after the call began" if left >= 0.001 else ""

    # What comes before an attempt

    async def _wait(self) -> Permit | None:
        """Before a retry sleep and wait for the budget; then wait for a permit."""
        record, now = self._record, self._clock.now
        if self._delay is not None:
            began = now()
            try:
                await self._clock.sleep(self._delay)
            finally:
                record.backoff += now() - began
            if self._budget is not None:
                began = now()
                try:
                    await self._budget.acquire()
                finally:
                    record.budget_wait += now() - began
        priority = self._priority
        return await self._reserve(priority if self._delay is None else ahead(priority))

    async def _reserve(self, priority: int) -> Permit | None:
        if self._limiter is None:
            return None
        began = self._clock.now()
        try:
            return await self._limiter.hold(self._count(), self._output_tokens, priority=priority)
        finally:
            self._record.queue_wait += self._clock.now() - began

    def _count(self) -> int:
        return self._tokens if isinstance(self._tokens, int) else self._tokens()

    async def _admit(self) -> Permit | None:
        """Wait for all that an attempt needs, unless the breaker opens."""
        breaker = self._breaker
        if breaker is None:
            return await self._wait()
        try:
            # Watched first and asked then: what opens it in between is not missed.
            with breaker.watch():
                breaker.check()
                permit = await self._wait()
            self._enter(breaker, permit)
        except CircuitOpenError as error:
            error.attempts = tuple(self._attempts)
            raise
        return permit

    def _enter(self, breaker: CircuitBreaker, permit: Permit | None) -> None:
        try:
            self._pass = breaker.enter()
        except BaseException:
            give_back(permit)
            raise

    def _admit_sync(self) -> Permit | None:
        limiter, breaker, wait = self._limiter, self._breaker, self._delay
        if limiter is None and breaker is None and self._budget is None:
            if wait is not None:
                self._clock.sleep_sync(wait)
                self._record.backoff += wait
            return None
        if wait is None:
            # Most first attempts need no wait, and another thread need not be asked.
            if breaker is not None:
                breaker.check()
            permit = None
            if limiter is not None:
                permit = limiter.try_hold(self._count(), self._output_tokens)
            if limiter is None or permit is not None:
                if breaker is not None:
                    self._enter(breaker, permit)
                return permit
        return self._wait_sync()

    def _wait_sync(self) -> Permit | None:
        admitted: list[Permit | None] = []

        async def admit() -> None:
            admitted.append(await self._admit())

        async def wait() -> None:
            await self._within_deadline(admit())

        try:
            run_sync(wait())
        except BaseException:
            # Ctrl-C may come when all is there, and nobody will send.
            for permit in admitted:
                give_back(permit)
                if self._breaker is not None:
                    self._breaker.released(self._pass)
            raise
        return admitted[0]

    # Attempts

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Attempt until one succeeds; where one was judged already, as its next."""
        try:
            return await self._within_deadline(self._repeat(function))
        finally:
            self._end()

    def _end(self) -> None:
        self._record.seconds += self._clock.now() - self._started
        # Its traceback leads back here, and to the request.
        self._last = None

    async def _repeat(self, function: Callable[[], Awaitable[T]]) -> T:
        attempt = self._send if self._policy.hedge is None else self._hedged
        while True:
            permit = await self._admit()
            with self:
                return await attempt(function, permit)

    async def _send(self, function: Callable[[], Awaitable[T]], permit: Permit | None) -> T:
        """Make one attempt; the limiter learns from its end."""
        if permit is None:
            return await function()
        began = self._clock.now()
        is_kept = False
        outer = on_written.set(permit.sent)
        try:
            permit.sent()
            result = await function()
            self._learn(result, began, permit)
            is_kept = self._keep_permit
        except ProviderError as error:
            self._learn(error, began, permit)
            raise
        finally:
            if not is_kept:
                permit.release()
            # One that is left behind with its loop is closed in the context of somebody else.
            with contextlib.suppress(ValueError):
                on_written.reset(outer)
        if is_kept:
            if self._record.permit is not None:
                # Of a hedged attempt that ended in the same moment.
                self._record.permit.release()
            self._record.permit = permit
        return result

    def _learn(self, end: object, began: float, permit: Permit) -> None:
        """Tell the limiter what the end of an attempt, a result or an error, says."""
        limiter = self._limiter
        assert limiter is not None
        feedback: object = getattr(end, "feedback", None)
        outcome: Outcome = "answered"
        if isinstance(end, (RateLimitError, OverloadedError)):
            feedback = feedback or Feedback(retry_after=end.retry_after)
            outcome = "refused" if isinstance(end, RateLimitError) else "overloaded"
        if isinstance(feedback, Feedback):
            took = self._clock.now() - began
            limiter.learn(feedback, outcome=outcome, took=took, tokens=permit.tokens)
        usage: object = getattr(end, "usage", None)
        if isinstance(usage, Usage) and not usage.estimated and not self._keep_permit:
            permit.settle(usage)

    def run_sync(self, function: Callable[[], T]) -> T:
        """Attempt as `run` does, in this thread."""
        try:
            if self._until is not None and self._until <= self._clock.now():
                raise self._late("nothing is begun after the deadline")
            while True:
                permit = self._admit_sync()
                with self:
                    return self._send_sync(function, permit)
        finally:
            self._end()

    def _send_sync(self, function: Callable[[], T], permit: Permit | None) -> T:
        began = self._clock.now()
        try:
            if permit is not None:
                permit.sent()
            result = function()
            if type(result) in LATER:
                refuse_later(result)
            if permit is not None:
                self._learn(result, began, permit)
        except ProviderError as error:
            if permit is not None:
                self._learn(error, began, permit)
            raise
        finally:
            if permit is not None:
                permit.release()
        return result

    def __enter__(self) -> None:
        """Begin an attempt, hedges included."""
        self._record.sent += 1
        self._is_sending = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End it, and swallow its error where another attempt follows."""
        if error is not None:
            return self.judge(error)
        self._is_sending = False
        if self._breaker is not None:
            self._breaker.succeeded(self._pass)
        if self._budget is not None:
            self._budget.deposit()
        if self._policy.hedge is not None:
            self._policy.hedge.budget.deposit()
        return False

    def judge(self, error: BaseException) -> bool:
        """Return whether another attempt follows one that failed.

        Raises:
            APIConnectionError: The attempt was cancelled from within, and none follows.
            RetriesExhaustedError: As `RetryPolicy.call` says.
            DeadlineExceededError: As `RetryPolicy.call` says.
        """
        failure = failure_of(error)
        if self._breaker is not None:
            self._breaker.failed(self._pass, failure)
        if not isinstance(failure, Exception):
            return False
        self._is_sending = False
        if self._is_followed(failure):
            return True
        if failure is not error:
            raise failure
        return False

    async def _hedged(self, function: Callable[[], Awaitable[T]], permit: Permit | None) -> T:
        hedge, record = self._policy.hedge, self._record
        assert hedge is not None
        began = self._clock.now()
        delay = hedge.delay
        if delay is None:
            result = await self._send(function, permit)
        else:
            budget = self._budget or hedge.budget
            lost: list[Exception] = []

            async def first() -> T:
                try:
                    return await self._send(function, permit)
                except Exception as error:
                    self._trip(error)
                    lost.append(error)
                    raise

            def second() -> Coroutine[Any, Any, T] | None:
                return self._second(function) if budget.take_paid() else None

            result, is_second = await race(first(), second, delay, self._is_final)
            for error in lost:
                self._note(error, 0.0)
            record.hedges_won += is_second
        hedge.note(self._clock.now() - began)
        return result

    async def _second(self, function: Callable[[], Awaitable[T]]) -> T:
        # As late as a retry, and as urgent.
        priority = ahead(self._priority)
        if self._breaker is None:
            permit = await self._reserve(priority)
        else:
            with self._breaker.watch():
                self._breaker.check_pass(self._pass)
                permit = await self._reserve(priority)
        self._record.sent += 1
        self._record.hedges += 1
        try:
            return await self._send(function, permit)
        except Exception as error:
            self._trip(error)
            self._note(error, 0.0)
            raise

    def _trip(self, error: Exception) -> None:
        if self._breaker is not None:
            self._breaker.trip(self._pass, error)

    def _is_final(self, error: BaseException) -> bool:
        """Whether what one of two attempts met ends both."""
        if isinstance(error, CircuitOpenError):
            # Of a hedge that was not sent: the first is on the wire and goes on.
            return False
        return not (isinstance(error, Exception) and _is_retryable(error, self._policy))

    async def _within_deadline(self, work: Coroutine[Any, Any, T]) -> T:
        if self._until is None:
            return await work
        remaining = self._until - self._clock.now()
        if remaining <= 0:
            work.close()
            raise self._late("nothing is begun after the deadline")
        with Deadline(remaining, self._interrupted):
            return await work
        raise AssertionError  # the deadline's context swallows nothing

    def _interrupted(self) -> DeadlineExceededError:
        if self._is_sending:
            self._note(asyncio.CancelledError(), 0.0)
        error = self._late("interrupted at the deadline")
        error.__cause__ = self._last
        return error


def _is_retryable(error: Exception, policy: RetryPolicy) -> bool:
    if isinstance(error, policy.give_up_on):
        return False
    if getattr(error, "retryable", False):
        return True
    if isinstance(error, TollwayError):
        # A DeadlineExceededError is a TimeoutError: only by a name of our own is it asked for,
        # lest one call's given-up deadline be retried by a policy around it.
        own = tuple(kind for kind in policy.retry_on if issubclass(kind, TollwayError))
        return isinstance(error, own)
    return isinstance(error, policy.retry_on)
