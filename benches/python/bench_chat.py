"""What does a completion cost beside the OpenAI SDK alone, and how much of a quota is used?

    python benches/python/bench_chat.py              # CPU a call, delay of the first token
    python benches/python/bench_chat.py --quota      # 20,000 prompts at 10,000 requests a minute
    python benches/python/bench_chat.py --quota --freeze  # without long collections of garbage
    python benches/python/bench_chat.py --quota --margin 0.01  # half of the default margin

The server runs in a process of its own, on the last core of the machine, and the clients on the
first. CPU is a client's process's, all threads; the clients take turns in one run, and the median
of the rounds and their spread are printed. LiteLLM's router takes part where `--litellm` names a
directory that it is installed in (`make bench-chat`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai

from tollway import LLM, Limits, RateLimiter
from tollway.simulator import Ledger, Simulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MODEL = "gpt-4o"
CONCURRENCY = 25


def cores() -> list[int]:
    """Return the cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(core: list[int]) -> None:
    if core:
        os.sched_setaffinity(0, core)


def serve(pipe: Any, core: list[int], options: dict[str, Any]) -> None:
    pin(core)
    # What stops the server stops its clock: requests would seem to arrive together that did not.
    gc.disable()
    with Simulator(**options) as sim:
        pipe.send(sim.base_url)
        pipe.recv()


class Server:
    """A simulator in another process, which leaves this one the first core."""

    def __init__(self, **options: Any) -> None:
        self._pipe, end = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(end, cores()[-1:], options))

    def __enter__(self) -> str:
        self._process.start()
        pin(cores()[:1])
        return self._pipe.recv()

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()


class LiteLLM:
    """LiteLLM's router in another process, from the directory that it is installed in."""

    def __init__(self, directory: str, base_url: str) -> None:
        peer = Path(__file__).with_name("litellm_peer.py")
        self._process = subprocess.Popen(
            [sys.executable, peer, base_url, MODEL, str(CONCURRENCY)],
            env={**os.environ, "PYTHONPATH": directory},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, calls: int) -> float:
        """Make calls; return the seconds of CPU that one took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(calls, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


async def in_turns(calls: int, concurrency: int, call: Callable[[], Awaitable[object]]) -> None:
    numbers = iter(range(calls))

    async def work() -> None:
        for _ in numbers:
            await call()

    await asyncio.gather(*(work() for _ in range(concurrency)))


async def compare(base_url: str, rounds: int, calls: int, litellm: LiteLLM | None) -> None:
    limiter = RateLimiter(Limits(rpm=1_000_000, tpm=100_000_000))
    llm = LLM(f"openai/{MODEL}", base_url=base_url, api_key="k", limits=limiter)
    client = openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0)
    messages: Any = [{"role": "user", "content": "What is the capital of France?"}]

    async def ours() -> None:
        await llm.complete(messages)

    async def sdk() -> None:
        await client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0.0, max_tokens=4000
        )

    async def mapped() -> None:
        await llm.map(itertools.repeat(messages, calls), concurrency=CONCURRENCY)

    async def alone() -> None:
        await in_turns(calls, CONCURRENCY, sdk)

    async def called() -> None:
        await in_turns(calls, CONCURRENCY, ours)

    spent: dict[str, list[float]] = {"sdk": [], "complete": [], "map": []}
    for _ in range(rounds + 1):
        for name, run in (("sdk", alone), ("complete", called), ("map", mapped)):
            began = time.process_time()
            await run()
            spent[name].append((time.process_time() - began) / calls)
        if litellm is not None:
            spent.setdefault("LiteLLM", []).append(litellm.run(calls))
    for name, times in spent.items():
        warm = times[1:]
        ratios = [mine / theirs for mine, theirs in zip(warm, spent["sdk"][1:], strict=True)]
        print(
            f"{name:10} {statistics.median(warm) * 1e6:7.0f} us CPU a call   "
            f"{statistics.median(ratios):.3f} of the SDK ({min(ratios):.3f}-{max(ratios):.3f})"
        )
    await first_tokens(llm, client, messages, rounds * 100)
    await llm.aclose()
    await client.close()


async def first_tokens(llm: LLM, client: openai.AsyncOpenAI, messages: Any, count: int) -> None:
    """Print by how much the first token is late, on the clock and in CPU of this process."""

    async def ours() -> tuple[float, float]:
        began, cpu = time.perf_counter(), time.process_time()
        async with llm.stream(messages) as stream:
            await anext(stream)
            return time.perf_counter() - began, time.process_time() - cpu

    async def sdk() -> tuple[float, float]:
        began, cpu = time.perf_counter(), time.process_time()
        async with await client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, max_tokens=4000
        ) as stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            return time.perf_counter() - began, time.process_time() - cpu

    pairs = [(await ours(), await sdk()) for _ in range(count)][10:]
    for number, what in enumerate(("on the clock", "of CPU")):
        delays = [mine[number] - theirs[number] for mine, theirs in pairs]
        low, middle, high = (f"{1e3 * delay:+.3f}" for delay in statistics.quantiles(delays, n=4))
        print(f"first token {middle} ms {what} beside the SDK (quartiles {low}, {high})")


async def fill_quota(
    prompts: int,
    rpm: int,
    window: float,
    margin: float | None,
    latency: float,
    concurrency: int,
    path: str,
) -> None:
    with Server(rpm=rpm, sub_window=window, latency=latency, ledger=path) as base_url:
        limits = Limits(rpm=rpm, sub_window=window, max_in_flight=concurrency)
        limiter = RateLimiter(limits, margin=margin)
        llm = LLM(f"openai/{MODEL}", base_url=base_url, api_key="k", limits=limiter)
        began, cpu = time.perf_counter(), time.process_time()
        outcomes = await llm.map([f"prompt {i}" for i in range(prompts)], concurrency=concurrency)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        await llm.aclose()
    ledger = Ledger.read(path)
    arrivals = sorted(record.arrival for record in ledger)
    statuses = [record.status for record in ledger]
    # From the first to the last arrival the quota allows rpm / 60 a second.
    admitted = sum(record.admitted for record in ledger)
    used = (admitted - 1) / ((arrivals[-1] - arrivals[0]) * rpm / 60)
    print(
        f"{prompts} prompts in {took:.1f} s: {sum(o.ok for o in outcomes)} answered, "
        f"{statuses.count(429)} refused with 429, {used:.2%} of the quota used, "
        f"{cpu / prompts * 1e6:.0f} us CPU a call"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--quota", action="store_true")
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--rpm", type=int, default=10_000)
    parser.add_argument("--sub-window", type=float, default=1.0)
    parser.add_argument("--margin", type=float, help="of the limiter, seconds; its default if none")
    parser.add_argument("--latency", type=float, default=0.0, help="of an answer, seconds")
    parser.add_argument("--concurrency", type=int, default=500, help="of the map, with --quota")
    parser.add_argument("--freeze", action="store_true", help="gc.freeze() before it")
    parser.add_argument("--litellm", metavar="DIRECTORY")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.quota:
            pin(cores()[:1])
            if given.freeze:
                gc.collect()
                gc.freeze()
            asyncio.run(
                fill_quota(
                    given.prompts,
                    given.rpm,
                    given.sub_window,
                    given.margin,
                    given.latency,
                    given.concurrency,
                    f"{folder}/ledger.jsonl",
                )
            )
            return
    with Server() as base_url:
        litellm = None if given.litellm is None else LiteLLM(given.litellm, base_url)
        asyncio.run(compare(base_url, given.rounds, given.calls, litellm))
        if litellm is not None:
            litellm.close()


if __name__ == "__main__":
    main()
