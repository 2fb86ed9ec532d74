"""Calls of every kind and end, and what is open in this process before, between and after them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.chat_providers import ENTRIES
from tollway import RetryPolicy
from tollway.errors import TollwayError
from tollway.limiter.waiting import timer
from tollway.simulator import Faults, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tollway import LLM

# Those whose clients are handled in a way of their own.
PROVIDERS = {
    entry.name: entry
    for entry in ENTRIES
    if entry.name in {"openai", "azure", "anthropic", "gemini", "bedrock", "ollama"}
}
FAULTS = Faults(
    {"500": 0.1, "disconnect": 0.1, "truncated": 0.1, "429": 0.1, "unfinished": 0.1},
    seed=3,
    retry_after=0.001,
)
CONCURRENCY = 10
_WORDS = "say " * 40


@dataclass(frozen=True)
class Census:
    """What is open: tasks of the running loop, files and sockets, threads, permits under way.

    Threads of the loop's default executor do not count: it makes some, keeps them, and has a bound.
    """

    tasks: int
    files: int
    threads: int
    permits: int

    @classmethod
    def take(cls, llm: LLM) -> Census:
        gc.collect()
        folder = Path("/proc/self/fd")
        files = list(folder.iterdir()) if folder.exists() else []
        permits = llm.limiter.snapshot().in_flight
        threads = [it for it in threading.enumerate() if not it.name.startswith("asyncio_")]
        return cls(len(asyncio.all_tasks()), len(files), len(threads), permits)


@contextlib.asynccontextmanager
async def provider(name: str) -> AsyncGenerator[tuple[LLM, Simulator], None]:
    """Give an LLM with failing answers, once what is loaded with the first calls is there."""
    # One thread for all limiters of the process, from the first that needs it on.
    timer().start()
    # What is there by now need not be looked through at every census.
    gc.collect()
    gc.freeze()
    with Simulator(faults=FAULTS, latency=0.002, piece_delay=0.0005) as sim:
        policy = RetryPolicy(max_retries=1, base_delay=0.001, max_delay=0.002)
        llm = PROVIDERS[name].make(sim, retry=policy)
        await calls(llm, 40, seed=1)
        yield llm, sim
        await llm.aclose()


async def calls(llm: LLM, count: int, *, seed: int) -> dict[str, int]:
    """Make calls of all kinds, and return how often each kind of end came."""
    draw = random.Random(seed)
    ends: dict[str, int] = {}
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            kind = (_answer, _cancelled, _stream, _left, _cancelled_stream)[number % 5]
            try:
                end = await kind(llm, draw)
            except TollwayError as error:
                end = type(error).__name__
            ends[end] = ends.get(end, 0) + 1

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return ends


async def _answer(llm: LLM, draw: random.Random) -> str:
    del draw
    await llm.complete(_WORDS)
    return "answered"


async def _stream(llm: LLM, draw: random.Random) -> str:
    del draw
    async with llm.stream(_WORDS) as stream:
        async for _ in stream:
            pass
    return "streamed"


async def _left(llm: LLM, draw: random.Random) -> str:
    async with llm.stream(_WORDS) as stream:
        for _ in range(draw.randint(1, 5)):
            await anext(stream, None)
    return "left"


async def _cancelled(llm: LLM, draw: random.Random) -> str:
    return await _cancel(llm.complete(_WORDS), draw)


async def _cancelled_stream(llm: LLM, draw: random.Random) -> str:
    return await _cancel(_stream(llm, draw), draw)


async def _cancel(call: object, draw: random.Random) -> str:
    task = asyncio.ensure_future(call)
    await asyncio.wait([task], timeout=draw.uniform(0, 0.01))
    if not task.cancel():
        task.result()
        return "too late to cancel"
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return "cancelled"


async def settled(llm: LLM, wanted: Census | None = None, seconds: float = 20.0) -> Census:
    """Return what is open when it is what is wanted, or else stays, or after so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    last, same = Census.take(llm), 0
    # A server sees in its own time that a connection was closed, and a thread of boto3's the end
    # of the answer that it reads.
    while loop.time() < end and last != wanted and (wanted is not None or same < 5):
        await asyncio.sleep(0.05)
        found = Census.take(llm)
        last, same = found, same + 1 if found == last else 0
    return last
