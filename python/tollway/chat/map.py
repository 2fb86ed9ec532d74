"""Many prompts through one model: in order, each answered or with its error, resumable."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import threading
import time
from collections.abc import AsyncIterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tollway.errors import ConfigurationError, ProviderError, TollwayError
from tollway.types import Completion, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

    from tollway.batch import BatchProgress
    from tollway.chat.checkpoint import MapCheckpoint
    from tollway.chat.request import Prompt
    from tollway.limiter import RateLimiter

__all__ = [
    "MapMode",
    "MapProgress",
    "Outcome",
    "own_error",
    "run_map",
    "run_workers",
    "without_raw",
]

MapMode: TypeAlias = Literal["asyncio", "threaded", "batch"]

# Threads beyond this gain nothing while one interpreter lock is shared by all.
_MOST_THREADS = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one prompt.

    Attributes:
        completion: The answer, or None.
        error: Why there is none, or None. What a provider raised that is no `TollwayError` is the
            cause of a `ProviderError`.
        resumed: Whether the answer is from the checkpoint: it cost nothing this time.
    """

    completion: Completion | None = None
    error: TollwayError | None = None
    resumed: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.completion is not None

    @property
    def text(self) -> str:
        """The answer's text.

        Raises:
            TollwayError: The error, where there is no answer.
        """
        if self.completion is None:
            assert self.error is not None
            raise self.error
        return self.completion.text


@dataclass(slots=True)
class MapProgress:
    """How far a map is.

    Attributes:
        done: Prompts that have their answer or error.
        total: Prompts in all, or None where the source does not tell.
        failed: Those with an error.
        resumed: Those answered from the checkpoint.
        usage: Of the answers of this run.
        cost: Of the answers of this run, US dollars; None where one's is not known.
        batches: How far the batches are, with `mode="batch"`; else None.
    """

    done: int = 0
    total: int | None = None
    failed: int = 0
    resumed: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = 0.0
    batches: BatchProgress | None = None

    def add(self, outcome: Outcome) -> None:
        """Add what became of a prompt."""
        self.done += 1
        self.failed += not outcome.ok
        self.resumed += outcome.resumed
        answer = outcome.completion
        if answer is not None and not outcome.resumed:
            self.usage += answer.usage
            unknown = self.cost is None or answer.cost is None
            self.cost = None if unknown else (self.cost or 0.0) + (answer.cost or 0.0)


class _Run:
    """One map under way: what its workers share, whatever thread they are in."""

    def __init__(
        self,
        answer: Callable[[Prompt], Awaitable[Completion]],
        checkpoint: MapCheckpoint | None,
        told: Callable[[MapProgress], object] | None,
        total: int | None,
        starts: Starts,
    ) -> None:
        self._answer = answer
        self._starts = starts
        self._checkpoint = checkpoint
        self._told = told
        self._lock = threading.Lock()
        self.outcomes: dict[int, Outcome] = {}
        self.progress = MapProgress(total=total)

    async def work(self, prompts: AsyncIterator[tuple[int, Prompt]]) -> None:
        """Answer prompts until there are no more."""
        async for number, prompt in prompts:
            outcome = await self._outcome(prompt)
            with self._lock:
                self.outcomes[number] = outcome
                self.progress.add(outcome)
                if self._told is not None:
                    self._told(self.progress)

    async def _outcome(self, prompt: Prompt) -> Outcome:
        key = None
        try:
            if self._checkpoint is not None:
                key = self._checkpoint.key(prompt)
                known = self._checkpoint.get(key)
                if known is not None:
                    return Outcome(known, resumed=True)
            await self._starts.turn()
            answer = await self._answer(prompt)
        except Exception as error:  # noqa: BLE001 - whatever a provider of the user's own raises
            return Outcome(error=own_error(error))
        if self._checkpoint is not None and key is not None:
            self._checkpoint.add(key, answer)
        return Outcome(answer)


def own_error(error: Exception) -> TollwayError:
    """Return what an error is to a call over many inputs: one of another's is the cause of ours."""
    if isinstance(error, TollwayError):
        return error
    # What it says may hold a key.
    made = ProviderError(f"the provider raised {type(error).__name__}, which is this error's cause")
    made.__cause__ = error
    return made


def without_raw(answer: Completion) -> Completion:
    """Return an answer without what the provider wrote around it."""
    return replace(answer, raw=None, headers={})


async def run_map(
    answer: Callable[[Prompt], Awaitable[Completion]],
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
    *,
    concurrency: int,
    mode: MapMode,
    checkpoint: MapCheckpoint | None,
    progress: Callable[[MapProgress], object] | None,
    limiter: RateLimiter,
    open_: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
) -> list[Outcome]:
    """Answer every prompt; see `LLM.map`.

    Args:
        answer: Answers one.
        prompts: What to answer; drawn when there is a worker for it.
        concurrency: Prompts under way at once.
        mode: Where the workers are: in this event loop, or in those of several threads.
        checkpoint: Where answers are kept and looked up, or None.
        progress: Called after each prompt.
        limiter: Paces the requests.
        open_: Makes an event loop ready before its first request.
        close: Closes the connections of a thread's event loop when it ends.
    """
    if not isinstance(concurrency, int) or concurrency < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"concurrency is a whole number from 1, not {concurrency!r}")
    if mode not in {"asyncio", "threaded"}:
        raise ConfigurationError(f"mode is asyncio, threaded or batch, not {mode!r}")
    total = len(prompts) if hasattr(prompts, "__len__") else None  # type: ignore[arg-type]
    run = _Run(answer, checkpoint, progress, total, Starts(limiter, total))
    if mode == "threaded":
        if isinstance(prompts, AsyncIterable):
            raise ConfigurationError("the threaded mode takes an iterable, not an async one")
        await _in_threads(run, prompts, concurrency, open_, close)
    else:
        await open_()
        shared = _Shared(_numbered(prompts))
        await run_workers(lambda: run.work(shared), min(concurrency, total or concurrency))
    return [run.outcomes[number] for number in range(len(run.outcomes))]


async def _numbered(
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
) -> AsyncIterator[tuple[int, Prompt]]:
    if isinstance(prompts, AsyncIterable):
        number = 0
        async for prompt in prompts:
            yield number, prompt
            number += 1
    else:
        for number, prompt in enumerate(prompts):
            yield number, prompt


class _Shared:
    """An async iterator that many workers of one loop draw from."""

    def __init__(self, source: AsyncIterator[tuple[int, Any]]) -> None:
        self._source = source
        self._lock = asyncio.Lock()

    def __aiter__(self) -> _Shared:
        return self

    async def __anext__(self) -> tuple[int, Any]:
        async with self._lock:
            return await anext(self._source)


class _Locked:
    """An iterator that the loops of several threads draw from."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self._source = enumerate(prompts)
        self._lock = threading.Lock()
        self.stopped = False

    def __aiter__(self) -> _Locked:
        return self

    async def __anext__(self) -> tuple[int, Any]:
        with self._lock:
            drawn = None if self.stopped else next(self._source, None)
        if drawn is None:
            raise StopAsyncIteration
        return drawn


class Starts:
    """Sends the first requests apart where they are judged over less than a minute.

    All at once, they open their connections and are written at once: the last bytes are late by the
    time that all of it takes, while the next requests are not. Two sub-windows come so near to each
    other that the provider refuses. Requests that begin apart stay apart, since each makes room for
    one more a sub-window later.

    Attributes:
        gap: Seconds from one of them to the next; 0.0 where a run is too short for it to matter.
        count: How many there are: as many as one sub-window takes.
    """

    def __init__(self, limiter: RateLimiter, total: int | None) -> None:
        limits = limiter.current_limits
        lengths = [length for length in limits.sub_windows if length]
        self.gap, self.count = 0.0, 0
        if limits.rpm is not None and lengths:
            quota = math.ceil(limits.rpm * min(lengths) / 60)
            if total is None or total > quota:
                self.gap, self.count = min(lengths) / quota, quota
        self._turns = itertools.count()
        self._began: float | None = None

    async def turn(self) -> None:
        """Wait until the next request may begin."""
        if not self.count:
            return
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        # Those after the first do not go before them.
        wait = self._began + min(next(self._turns), self.count) * self.gap - now
        if wait > 0:
            await asyncio.sleep(wait)


async def run_workers(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run `count` workers to their end."""
    workers = [asyncio.create_task(work()) for _ in range(count)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _in_threads(
    run: _Run,
    prompts: Iterable[Prompt],
    concurrency: int,
    open_: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
) -> None:
    source = _Locked(prompts)
    threads = min(_MOST_THREADS, os.cpu_count() or 1, concurrency)
    shares = [len(range(start, concurrency, threads)) for start in range(threads)]
    mains: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main(share: int) -> None:
        current = asyncio.current_task()
        assert current is not None
        mains.append((asyncio.get_running_loop(), current))
        try:
            await open_()
            await run_workers(lambda: run.work(source), share)
        finally:
            await close()

    def thread(share: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(main(share))

    ended = [asyncio.create_task(asyncio.to_thread(thread, share)) for share in shares]
    try:
        # Cancelled itself, gather would give the threads up, who write to the checkpoint.
        await asyncio.shield(asyncio.gather(*ended))
    except BaseException:
        source.stopped = True
        for loop, task in mains:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(task.cancel)
        await asyncio.gather(*ended, return_exceptions=True)
        raise
