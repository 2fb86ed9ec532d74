"""What do 100,000 calls cost that wait for their retry at once, in CPU and memory?

Run: `python benches/python/bench_retry_pending.py`. Each contender has a fresh interpreter: 100,000
coroutines fail once, wait 5 s plus a random second, and succeed. `bare` fails and sleeps with
`asyncio.sleep`, without any library: what is above it is the library. Prints a row each: CPU
seconds, peak memory over the interpreter's, medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import resource
import statistics
import subprocess
import sys
import time


def bare():
    async def call(attempt):
        try:
            return await attempt()
        except ConnectionError:
            await asyncio.sleep(5 + random.random())
        return await attempt()

    return call


def tollway_():
    from tollway.retry import RetryPolicy

    policy = RetryPolicy(strategy="random", base_delay=5.0, max_delay=6.0)
    return policy.call


def tenacity_():
    import tenacity

    wait = tenacity.wait_fixed(5) + tenacity.wait_random(0, 1)

    async def call(attempt):
        return await tenacity.retry(wait=wait, stop=tenacity.stop_after_attempt(11))(attempt)()

    return call


def stamina_():
    import stamina

    # It logs each retry, as tollway does; nobody pays for printing.
    logging.getLogger("stamina").addHandler(logging.NullHandler())
    return stamina.AsyncRetryingCaller(
        attempts=11, wait_initial=5.0, wait_max=6.0, wait_jitter=1.0, timeout=None
    ).on(ConnectionError)


def backoff_():
    import backoff

    def decorate(attempt):
        return backoff.on_exception(
            backoff.constant,
            ConnectionError,
            interval=5,
            max_tries=11,
            jitter=backoff.random_jitter,
        )(attempt)

    async def call(attempt):
        return await decorate(attempt)()

    return call


CONTENDERS = {
    "bare": bare,
    "tollway": tollway_,
    "tenacity": tenacity_,
    "stamina": stamina_,
    "backoff": backoff_,
}


def attempt_that_fails_once():
    has_failed = False

    async def attempt():
        nonlocal has_failed
        if not has_failed:
            has_failed = True
            raise ConnectionError
        return 1

    return attempt


async def run(name, count):
    call = CONTENDERS[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.monotonic(), time.process_time()
    done = await asyncio.gather(*(call(attempt_that_fails_once()) for _ in range(count)))
    assert sum(done) == count
    return {
        "cpu": time.process_time() - cpu,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "wall": time.monotonic() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CONTENDERS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(asyncio.run(run(options.only, options.count))))
        return
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--only", name, "--count", str(options.count)]
        rounds = []
        for _ in range(options.rounds):
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            rounds.append(json.loads(ran.stdout))
        shown = (f"{key} {statistics.median(r[key] for r in rounds):8.2f}" for key in rounds[0])
        print(f"{name:<10}", *shown, flush=True)


if __name__ == "__main__":
    main()
