"""How much of its quota does a limiter give out when everybody wants it, and is it ever too much?

In virtual time, for ten minutes: 64 tasks that always wait for a permit, of 600 requests and
60,000 tokens a minute. *Worst window* is the fullest (t - 60 s, t] of all, of requests or tokens.
*First come* is an exact log of every admission that lets nobody pass the first who waits.

Run: `python benches/python/saturation.py`
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque

import virtual_time
from limiter_peers import PEERS

from tollway import _core

RPM, TPM = 600, 60_000
TASKS = 64
MINUTE, SECONDS = 60.0, 600.0


def equal(draw):
    return TPM // RPM


def some_big(draw):
    return TPM // 5 if draw.random() < 1 / 40 else draw.randint(500, 1_500)


def tollway(rpm, tpm, rpd=None):
    """The core on the virtual clock; waiting is a timer of the loop instead of the thread."""
    core = _core.Limiter(rpm=rpm, tpm=tpm, margin=0)
    loop = asyncio.get_running_loop()
    waiting = {}
    timer = None

    def serve():
        nonlocal timer
        now = virtual_time.now()
        admitted, _, wait = core.poll(256, now=now)
        for ticket, _ in admitted:
            waiting.pop(ticket).set_result(now)
        if wait is not None:
            if timer is not None:
                timer.cancel()
            timer = loop.call_later(wait, serve)

    async def acquire(n):
        now = virtual_time.now()
        ticket, _, is_near = core.enqueue(n, now=now)
        if ticket is None:
            return now
        future = waiting[ticket] = loop.create_future()
        if is_near:
            serve()
        return await future

    return acquire


def worst_window(admitted):
    """The fullest window of what was admitted, as a share of the quotas."""
    # In whole nanoseconds, as the core reads them: what is a minute old is not in the window. In
    # order of admission: tasks that were admitted at once may run in another.
    admitted = sorted((round(at * 1e9), n) for at, n in admitted)
    window, tokens, worst = deque(), 0, 0.0
    for at, n in admitted:
        window.append((at, n))
        tokens += n
        while window[0][0] <= at - round(MINUTE * 1e9):
            tokens -= window.popleft()[1]
        worst = max(worst, len(window) / RPM, tokens / TPM)
    return worst


def used_share(admitted):
    """The share of the binding quota that was given out after the first minute."""
    counted = [n for at, n in admitted if MINUTE <= at < SECONDS]
    minutes = (SECONDS - MINUTE) / 60
    return max(len(counted) / (RPM * minutes), sum(counted) / (TPM * minutes))


async def saturate(make, sizes):
    acquire = make(RPM, TPM)
    draw = random.Random(3)
    admitted, longest = [], 0.0

    async def work():
        nonlocal longest
        while True:
            n, asked = sizes(draw), virtual_time.now()
            # Windows are of the times of admission, which tollway's core is given: without a margin
            # for what comes between them and the task.
            now = await acquire(n) or virtual_time.now()
            admitted.append((now, n))
            if n == TPM // 5:
                longest = max(longest, now - asked)

    tasks = [asyncio.create_task(work()) for _ in range(TASKS)]
    await asyncio.sleep(SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return used_share(admitted), worst_window(admitted), longest


def first_come(sizes):
    """Admit one after the other, each as early as both windows allow."""
    draw = random.Random(3)
    admitted, window, held, now = [], deque(), 0, 0.0
    for _ in itertools.count():
        n = sizes(draw)
        while window and window[0][0] <= now - MINUTE:
            held -= window.popleft()[1]
        while len(window) + 1 > RPM or held + n > TPM:
            now = window[0][0] + MINUTE
            held -= window.popleft()[1]
        if now >= SECONDS:
            return used_share(admitted), worst_window(admitted), 0.0
        window.append((now, n))
        held += n
        admitted.append((now, n))


def line(name, workload, result):
    used, worst, longest = result
    wait = f"  longest wait of a big one {longest:5.0f} s" if longest else ""
    print(f"{name:28} {workload:16} used {used:7.2%}  worst window {worst:7.2%}{wait}", flush=True)


def main():
    print("target for tollway: worst window <= 100 %; used >= 99.5 % (equal), >= 97 % (some big)")
    for workload, sizes in {"equal": equal, "1 of 40 is big": some_big}.items():
        line("first come, exact log", workload, first_come(sizes))
        for name, make in {"tollway": tollway, **PEERS}.items():
            line(name, workload, virtual_time.run(saturate(make, sizes)))


if __name__ == "__main__":
    main()
