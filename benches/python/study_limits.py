"""How much of a provider's limits does each limiter use, and how many 429s does it draw?

Each limiter runs in virtual time against the simulator's enforcement of real limits: buckets that
refill continuously, requests judged by the second or by ten, days that end at midnight. Thirty-two
tasks always have a request to send; a permit takes 0 to 20 ms to the wire; what is refused waits as
long as the server asks, and takes another permit.

Run: `python benches/python/study_limits.py [--plot docs/limits.png]`
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from dataclasses import dataclass

import virtual_time
from limiter_peers import PEERS

from tollway import _core
from tollway.simulator.enforcement import Enforcement

RPM, TPM, RPD = 600, 66_000, 4_000
TASKS = 32
MINUTE = 60.0


@dataclass(frozen=True)
class Case:
    """A provider, what is sent to it, and how the user of tollway would state its limits."""

    name: str
    server: dict
    ours: dict
    seconds: float = 600.0
    big: bool = False
    rpm: int = RPM
    rpd: int | None = None


CASES = [
    Case("bucket", {"sub_window": 0}, {}),
    Case("bucket, some big", {"sub_window": 0}, {}, big=True, seconds=1_800.0),
    Case("judged by 10 s", {"sub_window": 10}, {"sub_window": 10.0}),
    Case("judged by 1 s", {"sub_window": 1}, {"sub_window": 1.0}),
]


def tollway(case):
    """The core on the virtual clock; waiting is a timer of the loop instead of the thread."""
    limiter = _core.Limiter(rpm=case.rpm, tpm=TPM, **case.ours)
    waiting = {}
    timer = None

    def serve():
        nonlocal timer
        admitted, wait = limiter.poll(256, now=virtual_time.now())
        for ticket in admitted:
            waiting.pop(ticket).set_result(None)
        if wait is not None:
            if timer is not None:
                timer.cancel()
            timer = asyncio.get_running_loop().call_later(wait, serve)

    async def acquire(tokens):
        ticket = limiter.enqueue(tokens, now=virtual_time.now())
        if ticket is not None:
            waiting[ticket] = asyncio.get_running_loop().create_future()
            if len(waiting) == 1:
                serve()
            await waiting[ticket]

    return acquire


@dataclass
class Outcome:
    """What a server saw after its first minute."""

    used: float
    refused: float


async def play(case, acquire):
    """Keep the limiter busy for the case's time."""
    server = Enforcement(rpm=case.rpm, tpm=TPM, rpd=case.rpd, **case.server)
    draw = random.Random(7)
    sizes = iter(lambda: size(case, draw), None)
    requests = tokens = refusals = 0

    async def work():
        nonlocal requests, tokens, refusals
        while True:
            n = next(sizes)
            while True:
                await acquire(n)
                await asyncio.sleep(draw.uniform(0, 0.02))
                now = virtual_time.now()
                denial = server.admit(now, n)
                counts = now >= MINUTE
                if denial is None:
                    requests, tokens = requests + counts, tokens + n * counts
                    break
                refusals += counts
                await asyncio.sleep(denial.retry_after)

    tasks = [asyncio.create_task(work()) for _ in range(TASKS)]
    await asyncio.sleep(case.seconds)
    for task in tasks:
        task.cancel()
    failed = [
        end
        for end in await asyncio.gather(*tasks, return_exceptions=True)
        if not isinstance(end, asyncio.CancelledError)
    ]
    if failed:
        raise failed[0]
    minutes = (case.seconds - MINUTE) / 60
    used = max(requests / (case.rpm * minutes), tokens / (TPM * minutes))
    return Outcome(used, refusals / max(1, refusals + requests))


def size(case, draw):
    if case.big and draw.random() < 1 / 40:
        return TPM // 5
    return draw.randint(50, 150)


def study():
    rows = {}
    limiters = {"tollway": None, **PEERS}
    for name, peer in limiters.items():
        for case in CASES:

            async def main(case=case, peer=peer):
                acquire = tollway(case) if peer is None else peer(case.rpm, TPM, case.rpd)
                return await play(case, acquire)

            outcome = virtual_time.run(main())
            rows.setdefault(name, {})[case.name] = outcome
            print(name, case.name, outcome, flush=True)
    return rows


if __name__ == "__main__":
    study()
