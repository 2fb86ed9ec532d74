"""One run: requests cut into batches, handed over, waited for, and settled one by one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import random
import re
from typing import TYPE_CHECKING, Protocol

from tollway.batch.cutting import Cutter
from tollway.batch.options import BatchProgress
from tollway.batch.submission import Submission
from tollway.errors import (
    APITimeoutError,
    BadResponseError,
    BudgetExceededError,
    ProviderError,
    RateLimitError,
    RequestTooLargeError,
    RetriesExhaustedError,
    TollwayError,
)
from tollway.retry.hint import hint_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from tollway.batch.cutting import Item
    from tollway.batch.journal import Entry, Journal
    from tollway.batch.options import BatchOptions, BatchStage
    from tollway.providers.batches import BatchAPI, BatchResult, BatchState
    from tollway.retry import RetryPolicy

__all__ = ["BatchRun", "Work"]

_logger = logging.getLogger("tollway.batch")

# Results that are handed over together.
_GROUP = 256
# Of each wait, drawn: many runs do not ask at once.
_JITTER = 0.1
_GROWTH = 1.5
# Seconds that cancelling batches may take when the run is interrupted.
_GRACE = 10.0
_LIMIT = re.compile(r"limit: ([\d,]+) enqueued tokens", re.IGNORECASE)


class Work(Protocol):
    """What the requests are for."""

    async def take(self, results: Sequence[tuple[str, BatchResult]]) -> Mapping[str, ProviderError]:
        """Keep what results hold, for good; return, by name, why some are of no use.

        A result may come twice, and one of a request that this run did not ask for.
        """
        ...

    async def fail(self, name: str, error: TollwayError) -> None:
        """Learn that a request has no answer."""
        ...

    def again(self, name: str) -> bytes | None:
        """Return the body with which a request is tried again; None for the one it had."""
        ...

    def allow(self, tokens: int) -> None:
        """Raise where `tokens` under way are more than may be paid for."""
        ...

    def show(self, progress: BatchProgress) -> None:
        """Learn how far the batches are."""
        ...


class BatchRun:
    """One run.

    Args:
        api: The provider's.
        journal: What was submitted; closed at the end.
        retry: When to try a request to the provider again, and how often those in a batch.
        options: How to wait.
        work: What the requests are for.
    """

    def __init__(
        self,
        api: BatchAPI,
        journal: Journal,
        retry: RetryPolicy,
        options: BatchOptions,
        work: Work,
    ) -> None:
        self._api = api
        self._journal = journal
        # A second submission beside a slow one would be a second batch, to be paid for.
        self._retry = dataclasses.replace(retry, hedge=None)
        self._options = options
        self._work = work
        self._cutter = Cutter(api, journal, options)
        self._submission = Submission(api, journal, options)
        # By number: to be submitted; submitted; and perhaps submitted.
        self._ready: dict[int, Entry] = {}
        self._running: dict[int, tuple[Entry, BatchState]] = {}
        self._lost: dict[int, Entry] = {}
        # Requests of batches that an earlier run submitted, and which of them are still wanted.
        self._resumed: set[str] = set()
        self._wanted: set[str] = set()
        self._tries: dict[str, int] = {}
        self._submitted = self._finished = self._failed = 0
        self._stage: BatchStage = "submitting"
        self._cancelled: set[int] = set()
        self._over: BudgetExceededError | None = None

    async def run(self, items: AsyncGenerator[Item]) -> None:
        """Hand over every item and settle it.

        Raises:
            BudgetExceededError: `work` does not allow the next batch; the others are collected.
            ProviderError: A batch was refused as a whole, or the provider refuses to be asked.
                Other batches go on; the next run with the same journal collects them.
            RetriesExhaustedError: A submission failed in every attempt. (To look at what was
                submitted is tried for as long as it takes.)
            CheckpointError: The journal cannot be written, or names a batch that is not there.

        Cancellation: batches under way go on at the provider, or are cancelled there, as the
        options say. Then, and after any of these errors, a warning of the logger `tollway.batch`
        names those that go on.
        """
        try:
            await self._api.open()
            self._resume()
            await self._draw(items)
            self._stage = "waiting"
            # What an earlier run has left may be done by now.
            pause = 0.0 if self._resumed else self._options.poll
            while self._ready or self._running or self._lost:
                self._show()
                await asyncio.sleep(pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
                moved = await self._look()
                pause = max(pause * _GROWTH, self._options.poll)
                pause = self._options.poll if moved else min(pause, self._options.longest_poll)
            self._show()
        except asyncio.CancelledError:
            await self._interrupted()
            raise
        except Exception:
            self._warn("stopped")
            raise
        finally:
            self._cutter.drop()
            self._journal.close()
        if self._over is not None:
            raise self._over

    # Cutting

    def _resume(self) -> None:
        for entry in self._journal.entries:
            self._resumed.update(name for name, *_ in self._journal.requests(entry))
            self._submitted += entry.requests
            self._lost[entry.number] = entry

    async def _draw(self, items: AsyncGenerator[Item]) -> None:
        async with contextlib.aclosing(items):
            async for item in items:
                if item.name in self._resumed:
                    self._wanted.add(item.name)
                    continue
                if self._over is not None:
                    continue
                try:
                    await self._offer(self._cutter.add(item))
                except RequestTooLargeError as error:
                    await self._work.fail(item.name, error)
        if self._over is None:
            await self._offer(self._cutter.end())

    async def _offer(self, entry: Entry | None) -> None:
        if entry is not None:
            self._ready[entry.number] = entry
            await self._submit_ready()

    # Submitting

    async def _submit_ready(self) -> bool:
        """Submit what there is room for; whether there was any."""
        moved = False
        for entry in list(self._ready.values()):
            if entry.not_before > asyncio.get_running_loop().time() or not self._has_room(entry):
                continue
            try:
                self._work.allow(self._tokens_under_way() + entry.tokens)
            except BudgetExceededError as error:
                # What is under way is paid for: it is collected first.
                self._over = error
                self._ready.clear()
                return moved
            del self._ready[entry.number]
            try:
                await self._submit(entry)
            except RetriesExhaustedError as error:
                # A full queue empties as our own batches end.
                if not (isinstance(error.__cause__, RateLimitError) and self._running):
                    raise
                self._put_off(entry)
            moved = True
        return moved

    def _has_room(self, entry: Entry) -> bool:
        under_way, limit = self._tokens_under_way(), self._cutter.limit
        return limit is None or not under_way or under_way + entry.tokens <= limit

    def _tokens_under_way(self) -> int:
        running = sum(entry.tokens for entry, _ in self._running.values())
        return running + sum(entry.tokens for entry in self._lost.values())

    async def _submit(self, entry: Entry) -> None:
        """Submit a batch, or find it where it was submitted."""
        is_new = entry.batch is None and not entry.is_resumed
        known = {other.batch for other, _ in self._running.values()}
        attempt = functools.partial(self._submission.attempt, entry, known)
        # Should it be interrupted now, it may have arrived.
        self._lost[entry.number] = entry
        state = await self._retry.call(attempt)
        if state is None:
            return
        del self._lost[entry.number]
        entry.batch = state.id
        self._journal.save(entry)
        self._running[entry.number] = entry, state
        if is_new:
            self._submitted += entry.requests
        self._show()

    # Waiting

    async def _look(self) -> bool:
        """Look at every batch under way, and submit what waits; whether something has changed."""
        moved = False
        # Nothing is lost by waiting for a batch that is there: a run of a day outlives an outage of
        # an hour.
        later = "%s; looking for batch %s again later"
        for entry in list(self._lost.values()):
            try:
                await self._submit(entry)
            except RetriesExhaustedError as error:
                if entry.batch is None:
                    raise
                _logger.warning(later, error, entry.batch)
        for entry, _ in list(self._running.values()):
            try:
                moved = await self._look_at(entry) or moved
            except RetriesExhaustedError as error:
                _logger.warning(later, error, entry.batch)
        return await self._submit_ready() or moved

    async def _look_at(self, entry: Entry) -> bool:
        state = await self._retry.call(functools.partial(self._submission.state, entry))
        self._running[entry.number] = entry, state
        if state.status == "refused":
            await self._refused(entry, state)
        elif state.status == "ended":
            await self._collect(entry, state)
        return state.status != "running"

    async def _refused(self, entry: Entry, state: BatchState) -> None:
        """Put off a batch that there was no room for; raise any other refusal."""
        error = state.error
        assert error is not None
        del self._running[entry.number]
        if not error.retryable:
            self._journal.remove(entry)
            raise error
        self._journal.forget(entry)
        self._submitted -= entry.requests
        named = _LIMIT.search(str(error))
        if named is not None:
            self._cutter.limit = int(named[1].replace(",", ""))
        _logger.warning("%s; trying again when there is room", error)
        limit = self._cutter.limit
        if limit is None or entry.tokens <= limit:
            self._put_off(entry)
        elif entry.requests > 1:
            self._ready.update((part.number, part) for part in self._cutter.cut_again(entry))
        else:
            name = next(self._journal.requests(entry))[0]
            if not entry.is_resumed or name in self._wanted:
                await self._work.fail(name, RequestTooLargeError(str(error)))
            self._journal.remove(entry)

    def _put_off(self, entry: Entry) -> None:
        pause = self._options.poll if self._running else self._options.longest_poll
        self._lost.pop(entry.number, None)
        entry.not_before = asyncio.get_running_loop().time() + pause
        # It may be another batch for the provider's list, and is a new one for ours.
        entry.is_resumed = False
        self._ready[entry.number] = entry

    # Settling

    async def _collect(self, entry: Entry, state: BatchState) -> None:
        """Settle every request of a batch that has ended."""
        self._stage = "collecting"
        self._show()
        open_ = {name for name, *_ in self._journal.requests(entry)}
        failed: dict[str, ProviderError] = {}

        async def attempt() -> None:
            group: list[tuple[str, BatchResult]] = []
            async with contextlib.aclosing(self._api.results(state)) as results:
                async for result in results:
                    name = result.custom_id.removeprefix(f"{entry.nonce}-")
                    if name in open_:
                        group.append((name, result))
                    if len(group) == _GROUP:
                        failed.update(await self._take(group, open_))
                        group = []
                failed.update(await self._take(group, open_))

        await self._retry.call(attempt)
        for name in open_:
            failed[name] = state.error or BadResponseError(
                f"batch {state.id} has no result for this request", code="no_result"
            )
        await self._try_again(entry, failed)
        self._journal.remove(entry)
        del self._running[entry.number]
        self._finished += entry.requests
        self._stage = "waiting"
        self._show()

    async def _take(
        self, group: list[tuple[str, BatchResult]], open_: set[str]
    ) -> Mapping[str, ProviderError]:
        failed = await self._work.take(group)
        open_.difference_update(name for name, _ in group)
        return failed

    async def _try_again(self, entry: Entry, failed: Mapping[str, ProviderError]) -> None:
        """Put what may be tried again into a further batch, and let the rest fail."""
        again: set[str] = set()
        longest = 0.0
        for name, error in failed.items():
            if entry.is_resumed and name not in self._wanted:
                continue
            if entry.is_cancelled and error.code == "batch_cancelled":
                # Its user wants it after all, or there would be no run.
                again.add(name)
                continue
            wait = self._wait_after(name, error)
            if isinstance(wait, TollwayError):
                self._failed += 1
                await self._work.fail(name, wait)
            else:
                again.add(name)
                longest = max(longest, wait)
        if not again:
            return
        writing = self._journal.begin()
        for name, tokens, body in self._journal.requests(entry):
            if name in again:
                writing.add(name, self._work.again(name) or body, tokens)
        further = writing.end()
        further.not_before = asyncio.get_running_loop().time() + longest
        self._ready[further.number] = further

    def _wait_after(self, name: str, error: ProviderError) -> float | TollwayError:
        """Return the seconds after which to try a request again, or the error it ends with."""
        policy = self._retry
        asked = tuple(kind for kind in policy.retry_on if issubclass(kind, TollwayError))
        is_retryable = error.retryable or isinstance(error, asked)
        if isinstance(error, policy.give_up_on) or not is_retryable:
            return error
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        rule = policy.rule(type(error))
        if tries <= rule.max_retries:
            wait = policy.decide(
                rule,
                tries,
                previous=None,
                hint=hint_of(error),
                timed_out=isinstance(error, APITimeoutError),
                remaining=None,
            )
            if not isinstance(wait, str):
                return wait
        exhausted = RetriesExhaustedError(f"failed in {tries} batches; the last: {error}")
        exhausted.__cause__ = error
        return exhausted

    def _show(self) -> None:
        states = [state for _, state in self._running.values()]
        self._work.show(
            BatchProgress(
                self._stage,
                len(self._running) + len(self._lost),
                len(self._ready),
                self._submitted,
                self._finished + sum(state.finished for state in states),
                self._failed + sum(state.failed for state in states),
            )
        )

    # The end before the end

    async def _interrupted(self) -> None:
        known = self._known()
        if self._options.on_interrupt == "cancel" and known:
            # The task is being cancelled: what it awaits from here on is not.
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(_GRACE):
                    await asyncio.gather(*map(self._cancel, known), return_exceptions=True)
        self._warn("interrupted")

    def _known(self) -> list[Entry]:
        known = [entry for entry, _ in self._running.values()]
        return known + [entry for entry in self._lost.values() if entry.batch is not None]

    def _warn(self, what: str) -> None:
        """Tell which batches go on, and which were cancelled."""
        left = [str(e.batch) for e in self._known() if e.number not in self._cancelled]
        left += [
            f"perhaps one more of {entry.requests:,} requests"
            for entry in self._lost.values()
            if entry.batch is None and entry.attempted is not None
        ]
        if left:
            then = "Run the same again to collect them"
            if self._journal.is_temporary:
                then = "Without a checkpoint no other run collects them"
            _logger.warning(
                "%s; at %s these batches go on and are charged: %s. %s",
                what,
                self._api.address,
                ", ".join(left),
                then,
            )
        if self._cancelled:
            _logger.warning(
                "%s; %d batches were cancelled at %s. What was answered by then is "
                "collected by the same run",
                what,
                len(self._cancelled),
                self._api.address,
            )

    async def _cancel(self, entry: Entry) -> None:
        assert entry.batch is not None
        # Known before it is so: what the next run finds cancelled is then not taken for a failure.
        entry.is_cancelled = True
        self._journal.save(entry)
        await self._api.cancel(entry.batch)
        self._cancelled.add(entry.number)
