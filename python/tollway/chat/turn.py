"""One call through a router: which deployment is asked, and what follows when it fails."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import TYPE_CHECKING, TypeVar, cast

from tollway.errors import (
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    CircuitOpenError,
    ConfigurationError,
    InsufficientQuotaError,
    NotFoundError,
    PermissionDeniedError,
    RequestTooLargeError,
    RetriesExhaustedError,
    TollwayError,
)
from tollway.retry import RetryPolicy
from tollway.retry.around import ahead, attempt_of, give_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tollway.chat.lane import Kind, Lane
    from tollway.chat.path import Build, Prepared
    from tollway.chat.router import Router
    from tollway.limiter import Permit, RateLimiter
    from tollway.limiter.adaptive import Outcome
    from tollway.limiter.feedback import Feedback
    from tollway.types import Attempt

__all__ = ["ONCE", "Turn"]

T = TypeVar("T")

# Errors that say nothing of the request: another deployment may well answer it.
_ELSEWHERE = (
    AuthenticationError,
    CircuitOpenError,
    InsufficientQuotaError,
    NotFoundError,
    PermissionDeniedError,
)

# One attempt at one deployment; what follows a failure is for the turn to say.
ONCE = RetryPolicy(max_retries=0, budget=None, retry_on=())

# Seconds by which a deadline may come early, by the resolution of clocks.
_SLACK = 0.001


class _Granted:
    """Stands for a limiter whose permit is there already."""

    def __init__(self, limiter: RateLimiter, permit: Permit) -> None:
        self._limiter = limiter
        self._permit = permit

    async def hold(self, tokens: int, output_tokens: int, *, priority: int) -> Permit:
        """Return the permit."""
        del tokens, output_tokens, priority
        return self._permit

    def learn(self, feedback: Feedback, *, outcome: Outcome, took: float, tokens: int) -> None:
        """Tell the limiter."""
        self._limiter.learn(feedback, outcome=outcome, took=took, tokens=tokens)


class Turn:
    """One call, in rounds: in each, every deployment that may be asked is asked once.

    A failure is followed at once by the next deployment; only after a round does the policy wait.

    Args:
        router: Whose deployments they are.
        build: Makes the request.
        kind: What is timed.
        priority: Higher ones get their permit first.
        until: Time of `time.monotonic()` by which the call ends.
    """

    def __init__(
        self, router: Router, build: Build, kind: Kind, priority: int, until: float | None
    ) -> None:
        self._router = router
        self._build = build
        self.kind: Kind = kind
        self._priority = priority
        self._began = monotonic()
        own = router.retry.deadline
        self._until = min(
            math.inf if until is None else until,
            math.inf if own is None else self._began + own,
        )
        self._rounds = 0
        self.prepared: dict[Lane, Prepared] = {}
        # Those that cannot take this request at all, and why.
        self._unfit: dict[Lane, TollwayError] = {}
        self.attempts: list[Attempt] = []

    async def round(self, send: Callable[[Lane, Prepared, RateLimiter], Awaitable[T]]) -> T:
        """Ask one deployment after the other until one answers.

        Args:
            send: Makes an attempt at a deployment, with a limiter that has its permit.

        Raises:
            TollwayError: None does: the error of the one that may be asked again the soonest.
            CircuitOpenError: All cool down, and there is a fallback; or all refuse the credential.
        """
        priority = ahead(self._priority) if self._rounds else self._priority
        self._rounds += 1
        failed: dict[Lane, Exception] = {}
        while True:
            taken = await self._admit(failed, priority)
            if taken is None:
                raise self._failure(failed)
            lane, permit = taken
            began = monotonic()
            try:
                granted = cast("RateLimiter", _Granted(lane.path.limiter, permit))
                result = await send(lane, self.prepared[lane], granted)
            except BaseException as raised:
                # Of a request that went out nothing comes back.
                give_back(permit)
                if not isinstance(raised, Exception):
                    self._note_late(lane, began)
                    raise
                error = _reason(raised)
                self._note(lane, error)
                if self._is_rebuilt(lane, error):
                    continue
                if not _goes_elsewhere(error):
                    raise error from error.__cause__
                failed[lane] = error
            else:
                lane.succeeded(self.kind, monotonic() - began)
                return result

    def cost(self, lane: Lane) -> float:
        """Return what the request costs there, US dollars; infinite where that is not known."""
        prepared = self._ready(lane)
        cost = None if prepared is None else lane.path.cost(prepared)
        return math.inf if cost is None else cost

    # Permits

    async def _admit(
        self, failed: dict[Lane, Exception], priority: int
    ) -> tuple[Lane, Permit] | None:
        """Return a deployment and its permit; None where none is left for this round."""
        while True:
            now = monotonic()
            lanes = [lane for lane in self._fit() if lane not in failed]
            able = [lane for lane in lanes if not lane.wait(now)]
            if not able:
                if failed or not lanes:
                    return None
                await self._cool(lanes, now)
                continue
            taken = await self._at_once(self._router.order(able, self, now))
            # To wait for another's permit may be longer than to wait for those that have failed.
            if taken is None and not failed:
                taken = await self._first_of(
                    [lane for lane in lanes if lane in self._fit()], priority
                )
                if taken is None:
                    continue
            if taken is None:
                return None
            lane, permit = taken
            if not lane.wait(monotonic()):
                self._router.choose(lane)
                return taken
            # It began to cool down while the call waited there.
            give_back(permit)

    async def _at_once(self, lanes: Sequence[Lane]) -> tuple[Lane, Permit] | None:
        """Return the first deployment that has room now."""
        for lane in lanes:
            prepared, limiter = self._ready(lane), lane.path.limiter
            # Who waits there is not passed.
            if prepared is None or limiter.waiting:
                continue
            await lane.path.open()
            try:
                permit = limiter.try_hold(int(prepared.counted), prepared.reserved)
            except RequestTooLargeError as error:
                self._unfit[lane] = error
                continue
            if permit is not None:
                return lane, permit
        return None

    async def _first_of(self, lanes: Sequence[Lane], priority: int) -> tuple[Lane, Permit] | None:
        """Wait for all deployments at once; return the first that admits.

        Those that cool down are waited for as soon as they may be asked, lest a call stay in a long
        queue while another is empty.

        Returns:
            None where none of those admits that may be asked now.
        """
        now = monotonic()
        waits = {asyncio.create_task(self._hold(lane, priority)): lane for lane in lanes}
        able = {wait for wait, lane in waits.items() if not lane.wait(now)}
        first: asyncio.Task[Permit | None] | None = None
        pending = set(waits)
        try:
            while pending & able and first is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                first = next((wait for wait in done if wait.result() is not None), None)
        finally:
            # Without waiting for them: the call may be cancelled at every wait.
            for wait in waits:
                if wait is not first:
                    wait.cancel()
                    wait.add_done_callback(_return_permit)
        permit = None if first is None else first.result()
        return None if first is None or permit is None else (waits[first], permit)

    async def _hold(self, lane: Lane, priority: int) -> Permit | None:
        """Wait for a deployment's permit; None where it refuses the request, or everything."""
        while wait := lane.wait(monotonic()):  # noqa: ASYNC110 - further failures make it longer
            await asyncio.sleep(wait)
        prepared, path = self._ready(lane), lane.path
        if prepared is None:
            return None
        await path.open()
        try:
            with path.breaker.watch():
                return await path.limiter.hold(
                    int(prepared.counted), prepared.reserved, priority=priority
                )
        except RequestTooLargeError as error:
            self._unfit[lane] = error
        except CircuitOpenError:
            # Seen by whoever asks whether it may be asked.
            pass
        return None

    async def _cool(self, lanes: Sequence[Lane], now: float) -> None:
        """Wait for the first deployment that may be asked again.

        Raises:
            CircuitOpenError: As `round` says.
        """
        refusals = [lane.refusal() for lane in lanes]
        if not self._router.is_patient:
            raise self._all_cool(lanes, now)
        if all(refusals):
            raise cast("CircuitOpenError", refusals[-1])
        waits = [
            lane.wait(now) for lane, refusal in zip(lanes, refusals, strict=True) if refusal is None
        ]
        await asyncio.sleep(min(waits))

    def _all_cool(self, lanes: Sequence[Lane], now: float) -> CircuitOpenError:
        soonest = min(lanes, key=lambda lane: lane.wait(now))
        wait, reason = soonest.wait(now), soonest.last_error or soonest.refusal()
        why = "" if reason is None else f"; the last: {type(reason).__name__}: {reason}"
        error = CircuitOpenError(
            f"all {len(lanes)} deployments cool down after failures, for another {wait:.1f} s at "
            f"the least{why}",
            retry_in=wait,
        )
        error.__cause__ = reason
        return error

    # Requests

    def _fit(self) -> list[Lane]:
        return [lane for lane in self._router.lanes if lane not in self._unfit]

    def _ready(self, lane: Lane) -> Prepared | None:
        """Return the request as a deployment gets it; None where it cannot take it."""
        prepared = self.prepared.get(lane)
        if prepared is None and lane not in self._unfit:
            try:
                if self.kind == "stream" and not lane.path.streams:
                    raise ConfigurationError(f"{lane.path.model} does not stream; call complete")  # noqa: TRY301 - as if it refused itself
                prepared = self.prepared[lane] = lane.path.prepare(self._build)
            except ConfigurationError as error:
                self._unfit[lane] = error
        return prepared

    def _is_rebuilt(self, lane: Lane, error: Exception) -> bool:
        """Whether a refused request is another one now, to be sent again."""
        changed = (
            lane.path.again(self.prepared[lane]) if isinstance(error, BadRequestError) else None
        )
        if changed is not None:
            self.prepared[lane] = changed
        return changed is not None

    # Failures

    def _note(self, lane: Lane, error: Exception) -> None:
        lane.failed(error)
        number, at = len(self.attempts) + 1, monotonic() - self._began
        self.attempts.append(attempt_of(error, number=number, at=at, model=lane.path.model))

    def _note_late(self, lane: Lane, began: float) -> None:
        """Take an attempt that the deadline cut off for a time-out, if it had most of the time.

        Else one that does not answer any more would be asked for ever.
        """
        now = monotonic()
        if now > self._until - _SLACK and now - began > (now - self._began) / 2:
            lane.failed(APITimeoutError("no answer within what a call's deadline had left for it"))

    def _failure(self, failed: dict[Lane, Exception]) -> Exception:
        """Return what a round raises in which nobody answered."""
        if not failed:
            return next(reversed(self._unfit.values()))
        now, lanes = monotonic(), self._fit()
        if not self._router.is_patient and all(lane.wait(now) for lane in lanes):
            return self._all_cool(lanes, now)
        errors = list(failed.values())
        worth = [error for error in errors if getattr(error, "retryable", False)]
        return min(worth, key=_hint) if worth else errors[-1]


def _goes_elsewhere(error: Exception) -> bool:
    """Whether another deployment may answer what this one did not."""
    return isinstance(error, _ELSEWHERE) or bool(getattr(error, "retryable", False))


def _reason(error: Exception) -> Exception:
    """Return the provider's error where it was the only attempt of a policy."""
    cause = error.__cause__
    return (
        cause
        if isinstance(error, RetriesExhaustedError) and isinstance(cause, Exception)
        else error
    )


def _hint(error: Exception) -> float:
    return getattr(error, "retry_after", None) or 0.0


def _return_permit(wait: asyncio.Task[Permit | None]) -> None:
    """Give back the permit of a wait that nobody needs any more, if it has one."""
    if not wait.cancelled() and wait.exception() is None and (permit := wait.result()) is not None:
        give_back(permit)
