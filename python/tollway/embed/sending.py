"""Requests under way: workers that draw batches, send them, and deliver what became of each."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tollway.embed.rows import Averages, Rows, Sent
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    BudgetExceededError,
    CircuitOpenError,
    InsufficientQuotaError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    RequestTooLargeError,
    TollwayError,
)
from tollway.retry import CallRecord, shared_budget
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.embed.packing import Batch
    from tollway.embed.pool import Lane
    from tollway.providers import EmbeddingAnswer
    from tollway.retry import RetryPolicy

__all__ = ["Sending", "Tally"]

# Every request would fail like this one: what is wrong is not the texts.
_FATAL = (
    AuthenticationError,
    CircuitOpenError,
    InsufficientQuotaError,
    NotFoundError,
    PermissionDeniedError,
)

# Seconds that requests under way get to finish after another one has failed for good: they are
# paid for, and most answers take less.
_GRACE = 60.0

# Requests of searches for refused texts, with nothing embedded yet, after which it is not the texts
# although they may be what is wrong: whole searches of two requests of 128 texts.
_PATIENCE = 512


@dataclass(slots=True)
class Tally:
    """What a call has used so far; seen by progress displays.

    Attributes:
        usage: What the provider counted for the answers that came.
        sent: Requests sent, failed ones included.
        retries: Attempts after the first of a request.
        rate_limited: Attempts refused with 429.
        texts: Distinct texts that have their vector.
        hedges: Second attempts sent beside a slow one.
        budget_wait: Seconds that retries waited for the retry budget, all together.
        retrying: Why the last attempt failed that is made again, in one line; None once another
            has succeeded.
    """

    usage: Usage = field(default_factory=Usage)
    sent: int = 0
    retries: int = 0
    rate_limited: int = 0
    texts: int = 0
    hedges: int = 0
    budget_wait: float = 0.0
    retrying: str | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Texts of a refused batch, by position."""

    texts: list[int]
    # The part below it on the stack is the other half of what was refused.
    is_first_half: bool = False
    # Known without asking: the whole was refused and the other half was not.
    is_refused: bool = False


class _StoppedError(TollwayError):
    """A request was not tried again, because the call has failed meanwhile."""


# What ends the search for a refused text without a word on the texts.
_OF_NO_TEXT = (*_FATAL, BudgetExceededError, _StoppedError)


class Sending:
    """One call's requests.

    Args:
        lanes: Where requests may go; each has up to `max_in_flight` workers, as there is work for
            them, so that the faster takes more.
        retry: When to try again.
        deliver: Awaited with what became of each batch, in order of completion.
        tally: Added to.
        allow: Called with all tokens paid for if the next request is sent; raises where that is too
            much.
        check: Called with the dimension of each answer; raises where it is not the one before.
        place: Returns the rows of an array that those of a batch may be decoded into, or None.
        lenient: Deliver as failed too what the provider answers but does not embed, though nothing
            has succeeded yet: the texts are known or allowed to be what is wrong.
        budgeted: Bound retries by the budget of the credential and model, unless the policy says
            otherwise.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        retry: RetryPolicy,
        deliver: Callable[[Sent], Awaitable[None]],
        tally: Tally,
        *,
        allow: Callable[[int], None],
        check: Callable[[int], None],
        place: Callable[[Batch], NDArray[np.float32] | None] | None,
        lenient: bool,
        budgeted: bool,
    ) -> None:
        self._lanes = list(lanes)
        self._retry = retry
        self._deliver = deliver
        self.tally = tally
        self.allow = allow
        self.check = check
        # Of two attempts that run side by side, only one could have the place.
        self._place = place if retry.hedge is None else None
        # Tokens of requests on the wire.
        self.pending_tokens = 0
        self._lenient = lenient
        self._budgeted = budgeted
        self.averages = Averages()
        self._source: AsyncGenerator[Batch] | None = None
        self._drawing = asyncio.Lock()
        # Batches of a lane that has failed, for the others; how many batches have no end yet.
        self._returned: deque[Batch] = deque()
        self._open = 0
        self._changed = asyncio.Condition()
        # Those who draw batches and send them, and how many of each lane have not ended.
        self._workers: list[asyncio.Task[None]] = []
        self._working = dict.fromkeys(self._lanes, 0)
        self._ended: asyncio.Future[None] | None = None
        # Workers whose request is on the wire, or whose answer is being delivered: paid for.
        self.on_wire: set[asyncio.Task[None] | None] = set()
        self.failure: BaseException | None = None
        self._dead: set[Lane] = set()
        # While nothing has succeeded, one refused batch at a time is taken apart.
        self._doubt = asyncio.Lock()
        self._is_fruitless = False
        self._has_succeeded = False
        # What a job goes on with may be what an earlier run could not embed.
        self._patience = _PATIENCE if lenient else 0

    async def run(self, batches: AsyncGenerator[Batch]) -> None:
        """Send every batch and deliver what became of each.

        Batches are drawn when there is room for one, so that memory is bounded by what is in
        flight. One that fails is delivered as failed and the others go on, unless nothing has
        succeeded yet, or nothing could: that error is raised.

        Raises:
            TollwayError: As above. Requests on the wire are finished and delivered before, within
                a minute.

        Cancellation: requests under way are closed, what was delivered stays.
        """
        self._source = batches
        ended = self._ended = asyncio.get_running_loop().create_future()
        try:
            for lane in self._lanes:
                await lane.provider.open()
            for lane in self._lanes:
                self._begin(lane)
            await ended
            if self.failure is not None:
                for worker in self._workers:
                    if worker not in self.on_wire:
                        worker.cancel()
                await asyncio.wait(self._workers, timeout=_GRACE)
                raise self.failure
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            await batches.aclose()
            # The traceback of what is raised leads here, and back to it by these: the limiter would
            # live on until it is collected.
            self._workers.clear()
            self.failure = self._ended = None

    def _begin(self, lane: Lane) -> None:
        """Start a worker; one that draws a batch starts the next, up to as many as there may be."""
        self._working[lane] += 1
        self._workers.append(asyncio.create_task(self._work(lane)))

    async def _work(self, lane: Lane) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        try:
            while self.failure is None and lane not in self._dead:
                batch = await self._draw()
                if batch is None:
                    return
                if self._working[lane] < lane.max_in_flight:
                    self._begin(lane)
                try:
                    sent = await self._whole(lane, batch)
                    self.on_wire.add(worker)
                    if isinstance(sent.error, (*_FATAL, BudgetExceededError)):
                        await self._give_back(lane, batch, sent, sent.error)
                    else:
                        await self._hand_over(batch, sent)
                finally:
                    self.on_wire.discard(worker)
                    self._open -= 1
                    async with self._changed:
                        self._changed.notify_all()
        except BaseException as error:
            if self.failure is None and not isinstance(error, asyncio.CancelledError):
                self.failure = error
            raise
        finally:
            self._working[lane] -= 1
            is_over = self.failure is not None or not any(self._working.values())
            if is_over and self._ended is not None and not self._ended.done():
                self._ended.set_result(None)
            # As in `run`.
            del worker

    async def _draw(self) -> Batch | None:
        """Return the next batch, or None when there will be no more."""
        while True:
            async with self._drawing:
                if not self._returned and self._source is not None:
                    batch = await anext(self._source, None)
                    if batch is not None:
                        self._open += 1
                        return batch
                    self._source = None
            async with self._changed:
                if len(self._lanes) > 1:
                    # What another lane cannot do any more comes back.
                    await self._changed.wait_for(lambda: self._returned or not self._open)
                if not self._returned:
                    return None
                self._open += 1
                return self._returned.popleft()

    async def _give_back(self, lane: Lane, batch: Batch, sent: Sent, error: TollwayError) -> None:
        """Leave to the other lanes what this one cannot do any more; without any, raise."""
        failed = list(sent.failed)
        if sent.vectors is not None:
            done = sorted(set(range(len(batch.keys))).difference(failed))
            part = batch.part(done)
            await self._hand_over(part, Sent(part.keys, sent.vectors[done], (), None))
        self._dead.update(self._lanes if isinstance(error, BudgetExceededError) else [lane])
        if len(self._dead) == len(self._lanes):
            raise error
        self._returned.append(batch.part(failed))

    async def _hand_over(self, batch: Batch, sent: Sent) -> None:
        error = sent.error
        if error is not None and self.tally.texts == 0 and sent.vectors is None:
            answered = isinstance(error.__cause__ or error, (BadRequestError, BadResponseError))
            if not (self._lenient and answered):
                raise error
        joined = self.averages.join(batch, sent)
        self.tally.texts += len(joined.keys) - len(joined.failed)
        if joined.keys:
            await self._deliver(joined)

    # One batch

    async def _whole(self, lane: Lane, batch: Batch) -> Sent:
        """Send a batch, taken apart where the provider refuses some of it."""
        sent = await self._request(lane, batch)
        if len(sent.failed) <= 1:
            # It stood alone in the last request.
            return sent
        if isinstance(sent.error, RequestTooLargeError):
            # Packed for the limits that were assumed: the account turned out to have less.
            return await self._apart(lane, batch, sent)
        if not isinstance(sent.error, BadRequestError):
            return sent
        # A provider that has just said how many texts it takes is not in doubt.
        if not self._is_proven() and len(batch.texts) <= lane.provider.rules.max_texts:
            async with self._doubt:
                if not self._is_proven():
                    if self._is_fruitless:
                        return sent
                    sent = await self._apart(lane, batch, sent)
                    self._has_succeeded = sent.vectors is not None
                    # A lane that fails for good halfway has said nothing about the texts.
                    has_ended = isinstance(sent.error, _OF_NO_TEXT)
                    is_over = not (self._has_succeeded or has_ended)
                    self._is_fruitless = is_over and not self._patience
                    return sent
        return await self._apart(lane, batch, sent)

    def _is_proven(self) -> bool:
        """Whether something has succeeded, so that a refusal is about the texts."""
        return self._has_succeeded or self.tally.texts > 0

    async def _apart(self, lane: Lane, batch: Batch, refused: Sent) -> Sent:
        """Halve a refused batch until what the provider does not take stands alone.

        Or, where a batch is more than the whole quota, until its parts are not. One text among n is
        found with at most 2·log₂ n requests, each with its permit. While nothing at all succeeds,
        so many are sent and no more: then it is not the texts. Where they may well be it
        (`lenient`), the search is whole.
        """
        rows = Rows(batch)
        rows.vectors = refused.vectors
        enough = max(2 * math.ceil(math.log2(len(batch.texts))), self._patience)
        requests = 0
        error, failed = refused.error, list[int]()
        errors: dict[int, TollwayError] = {}
        parts = self._parts(
            lane, list(refused.failed), is_refused=isinstance(error, BadRequestError)
        )
        while parts:
            part = parts.pop()
            texts = part.texts
            if rows.vectors is None and not self._is_proven() and requests >= enough:
                failed += texts
                continue
            if part.is_refused and len(texts) > 1:
                parts += self._parts(lane, texts, is_refused=True)
                continue
            sent = await self._request(lane, batch.part(texts))
            requests += 1
            if not self._is_proven():
                self._patience = max(0, self._patience - 1)
            missing = rows.take(texts, sent)
            if sent.error is None:
                # What was refused is in the other half.
                if part.is_first_half:
                    parts[-1] = dataclasses.replace(parts[-1], is_refused=True)
                continue
            error = sent.error
            is_refused = isinstance(error, BadRequestError)
            if len(missing) > 1 and (is_refused or isinstance(error, RequestTooLargeError)):
                parts += self._parts(lane, missing, is_refused=is_refused)
            else:
                failed += missing
                errors.update(dict.fromkeys(missing, error))
                if isinstance(error, _OF_NO_TEXT):
                    failed += [i for rest in parts for i in rest.texts]
                    break
        rows.missing = sorted(failed)
        return rows.sent(error if failed else None, errors)

    def _parts(self, lane: Lane, texts: list[int], *, is_refused: bool) -> list[_Part]:
        """Halves, last first; or as many as the provider has just said that it takes at once.

        Args:
            lane: Whose rules hold.
            texts: By position.
            is_refused: Whether it is known that the provider does not take one of them.
        """
        most = lane.provider.rules.max_texts
        if len(texts) > most:
            starts = range(0, len(texts), most)
            return [_Part(texts[start : start + most]) for start in reversed(starts)]
        middle = -(-len(texts) // 2)
        return [_Part(texts[middle:]), _Part(texts[:middle], is_first_half=is_refused)]

    async def _request(self, lane: Lane, batch: Batch) -> Sent:
        """Send one batch until each of its texts has a vector or no attempt is left."""
        rows = Rows(batch, None if self._place is None else self._place(batch))
        record = CallRecord()
        attempt = _Attempt(self, lane, rows, record)
        budget = shared_budget(lane.provider.quota_key) if self._budgeted else None
        try:
            await self._retry.call(
                attempt,
                limiter=lane.limiter,
                tokens=lambda: rows.pending()[2],
                breaker=lane.breaker,
                budget=budget,
                record=record,
            )
        except TollwayError as error:
            return rows.sent(error)
        except asyncio.CancelledError:
            if self.failure is None:
                raise
            # Cancelled by `run`: what other requests of this batch brought is kept.
            return rows.sent(_StoppedError("not sent: another request failed for good"))
        finally:
            self.tally.budget_wait += record.budget_wait
            attempt.end()
        return rows.sent()


class _Attempt:
    """One attempt at a request, each time it is called."""

    def __init__(self, sending: Sending, lane: Lane, rows: Rows, record: CallRecord) -> None:
        self._sending = sending
        self._lane = lane
        self._rows = rows
        self._record = record
        self._hedges = 0
        self._worker: asyncio.Task[None] | None = asyncio.current_task()

    def end(self) -> None:
        """Let go of the worker, to which the traceback of what it raises leads back."""
        self._worker = None

    async def __call__(self) -> EmbeddingAnswer:
        sending, rows = self._sending, self._rows
        if sending.failure is not None:
            raise _StoppedError("another request failed for good") from sending.failure
        asked, texts, tokens = rows.pending()
        sending.allow(sending.tally.usage.input_tokens + sending.pending_tokens + tokens)
        self._count()
        sending.on_wire.add(self._worker)
        sending.pending_tokens += tokens
        try:
            in_place = self._lane.in_place
            if rows.into is None or in_place is None or len(texts) < len(rows.into):
                answer = await self._lane.provider.embed(texts)
            else:
                answer = await in_place.embed_into(texts, rows.into)
            usage = answer.usage
            if usage.estimated:
                usage = dataclasses.replace(usage, input_tokens=tokens)
            sending.tally.usage += usage
            if len(answer.bad_rows) < len(texts):
                sending.check(answer.vectors.shape[1])
            rows.place(asked, answer)
        except ProviderError as error:
            sending.tally.rate_limited += isinstance(error, RateLimitError)
            if error.retryable:
                sending.tally.retrying = f"{type(error).__name__}: {error}"
            if sending.failure is not None:
                raise _StoppedError(str(error)) from error
            raise
        finally:
            sending.pending_tokens -= tokens
            if rows.missing:
                sending.on_wire.discard(self._worker)
        sending.tally.retrying = None
        return answer

    def _count(self) -> None:
        tally, record = self._sending.tally, self._record
        is_hedge, self._hedges = record.hedges > self._hedges, record.hedges
        tally.sent += 1
        tally.hedges += is_hedge
        tally.retries += not is_hedge and record.sent > 1
