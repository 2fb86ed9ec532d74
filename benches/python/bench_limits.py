"""What do a permit and 10,000 waiting tasks cost, beside other limiters?

Uncontended permits are timed in rounds, one of each limiter after the other, and medians compared;
each limiter is new in each round, and its quota is not used up. Then, one after the other, 10,000
tasks wait for a limiter of 100 a second.

Run: `python benches/python/bench_limits.py [seconds of waiting]`
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

from limiter_peers import PEERS

from tollway import Limits, RateLimiter, TokenBucket

ROUNDS = 15
CALLS, CALLS_OF_SLOW = 5_000, 250
SLOW = ("limits", "pyrate", "throttled")
WAITERS, RATE = 10_000, 100
# A quota of tokens that no round uses up.
MUCH = 50_000_000


def ours():
    return RateLimiter(Limits(rpm=60_000, tpm=MUCH))


def awaiting(runner, make):
    """A limiter made in the loop, and a loop around its call."""

    async def build():
        return make()

    acquire = runner.run(build())

    async def work(calls):
        for _ in range(calls):
            await acquire(100)

    return lambda calls: runner.run(work(calls))


def repeating(call):
    def work(calls):
        for _ in range(calls):
            call(100)

    return work


def one_bucket():
    """The fastest path of aiolimiter: requests alone."""
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(60_000, 60)

    async def acquire(_):
        await limiter.acquire()

    return acquire


def contestants(runner):
    yield "tollway try_acquire, rpm + tpm", repeating(ours().try_acquire)
    yield "tollway await acquire, rpm + tpm", awaiting(runner, lambda: ours().acquire)
    yield "tollway TokenBucket.acquire", repeating(TokenBucket(1e6, MUCH).acquire)
    yield "aiolimiter, requests alone", awaiting(runner, one_bucket)
    for name, make in PEERS.items():
        yield name, awaiting(runner, lambda make=make: make(60_000, MUCH))


def uncontended():
    """Print nanoseconds a permit, and how many times as many tollway gives."""
    taken = {}
    with asyncio.Runner() as runner:
        for _ in range(ROUNDS):
            for name, work in contestants(runner):
                # LangChain's bucket is empty at the start: only its polling could be timed.
                if name == "LangChain":
                    continue
                calls = CALLS_OF_SLOW if name.startswith(SLOW) else CALLS
                began = time.perf_counter()
                work(calls)
                taken.setdefault(name, []).append((time.perf_counter() - began) / calls)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    best = medians["tollway try_acquire, rpm + tpm"]
    print(f"uncontended permits from Python, medians of {ROUNDS} interleaved rounds")
    for name, median in medians.items():
        spread = statistics.quantiles(taken[name], n=4)
        print(
            f"  {name:34} {median * 1e9:9,.0f} ns (quartiles {spread[0] * 1e9:,.0f} to "
            f"{spread[2] * 1e9:,.0f}), {1e-6 / median:7.3f} M/s, {median / best:8.1f} x tollway's"
        )
    ratio = medians["aiolimiter, requests alone"] / best
    print(f"  try_acquire: {1e-6 / best:.2f} M/s (target 2), {ratio:.1f} x aiolimiter (target 3)")


def per_second():
    """Limiters of RATE a second by name, each as a function without arguments."""

    def aiolimiter():
        from aiolimiter import AsyncLimiter

        return AsyncLimiter(RATE, 1).acquire

    def pyrate_limiter():
        from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate

        limiter = Limiter(InMemoryBucket([Rate(RATE, Duration.SECOND)]))
        return lambda: limiter.try_acquire_async("requests")

    def throttled():
        from throttled.asyncio import MemoryStore, Throttled, per_sec

        limiter = Throttled(using="gcra", quota=per_sec(RATE), store=MemoryStore(), timeout=1e9)
        return lambda: limiter.limit("requests")

    def langchain():
        from langchain_core.rate_limiters import InMemoryRateLimiter

        return InMemoryRateLimiter(requests_per_second=RATE, max_bucket_size=RATE).aacquire

    return {
        "tollway": lambda: RateLimiter(Limits(rpm=60 * RATE, sub_window=0.1), margin=0).acquire,
        "aiolimiter": aiolimiter,
        "pyrate-limiter": pyrate_limiter,
        "throttled-py, GCRA": throttled,
        "LangChain": langchain,
    }


async def wait_together(make, seconds):
    """Return the share used, of a core, and the inversions of the order, per cent."""
    acquire = make()
    order = []

    async def wait(i):
        await acquire()
        order.append(i)

    tasks = [asyncio.create_task(wait(i)) for i in range(WAITERS)]
    await asyncio.sleep(2)
    first, busy, start = len(order), time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - start
    busy, served = time.process_time() - busy, order[first:]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    passed = sum(after < before for before, after in itertools.pairwise(served))
    return len(served) / (RATE * took), busy / took, passed / max(1, len(served) - 1)


# Nanoseconds an admission, as `cargo bench --bench limiter` measures it.
RUST_TARGETS = {
    "admit/rpm+tpm": 150,
    "admit/all": 400,
    "admit, 8 threads/rpm+tpm": 125,
}


def rust():
    """Print what criterion measured last, beside its targets."""
    folder = Path(__file__).parents[2] / "target" / "criterion"
    found = sorted(folder.glob("admit*/*/new/estimates.json"))
    print("admissions in Rust, medians of criterion" if found else "no results of criterion")
    for path in found:
        name = "/".join(path.parts[-4:-2])
        median = json.loads(path.read_text())["median"]["point_estimate"]
        target = RUST_TARGETS.get(name)
        print(f"  {name:34} {median:9,.0f} ns", "" if target is None else f"(target {target})")


def main():
    rust()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    uncontended()
    print(f"{WAITERS:,} tasks waiting for {RATE} a second, {seconds:.0f} s")
    print("  targets for tollway: all used, at most 3 % of a core, nobody passed")
    for name, make in per_second().items():
        used, busy, passed = asyncio.run(wait_together(make, seconds))
        print(
            f"  {name:34} used {used:7.1%}, {busy:7.2%} of a core, passed by a later one "
            f"{passed:6.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
