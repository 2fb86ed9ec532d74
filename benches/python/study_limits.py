"""How much of a provider's limits does each limiter use, and how many 429s does it draw?

Each limiter runs in virtual time against the simulator's enforcement of real limits: buckets that
refill continuously, requests judged by the second or by ten, days that end at midnight. Thirty-two
tasks always have a request to send; a permit takes 0 to 20 ms to the wire; what is refused waits as
long as the server asks, and takes another permit.

Run: `python benches/python/study_limits.py [--plot PATH]`
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import virtual_time
from limiter_peers import PEERS

from tollway import _core
from tollway.simulator.enforcement import Enforcement

RPM, TPM = 600, 66_000
TASKS = 32
MINUTE, HOUR = 60.0, 3_600.0
# Of the day in which the study begins.
LEFT = 6 * HOUR


@dataclass(frozen=True)
class Case:
    """A provider, how its limits are stated to tollway, and what is sent for how long."""

    name: str
    server: dict
    ours: dict
    rpm: int = RPM
    rpd: int | None = None
    big: bool = False
    seconds: float = 600.0


CASES = [
    Case("bucket", {"sub_window": 0}, {}),
    Case("1 of 40 is big", {"sub_window": 0}, {}, big=True, seconds=900.0),
    Case("judged by 10 s", {"sub_window": 10}, {"sub_windows": [10.0]}),
    Case("judged by 1 s", {"sub_window": 1}, {"sub_windows": [1.0]}),
    Case("judged by 60 s", {"sub_window": 60}, {}),
    Case(
        "calendar day",
        {"sub_window": 0, "midnight": LEFT},
        {"is_calendar": True},
        rpm=60,
        rpd=2_000,
        seconds=LEFT + 24 * HOUR,
    ),
]


def tollway(case):
    """The core on the virtual clock; waiting is a timer of the loop instead of the thread."""
    limiter = _core.Limiter(rpm=case.rpm, tpm=TPM, rpd=case.rpd, **case.ours)
    loop = asyncio.get_running_loop()
    waiting = {}
    timer = None
    if case.rpd is not None:
        limiter.set_day(24 * HOUR - LEFT, LEFT, now=0.0)
        loop.call_later(LEFT, lambda: limiter.set_day(0.0, 24 * HOUR, now=virtual_time.now()))

    def serve():
        nonlocal timer
        admitted, _, wait = limiter.poll(256, now=virtual_time.now())
        for ticket, _ in admitted:
            waiting.pop(ticket).set_result(None)
        if wait is not None:
            if timer is not None:
                timer.cancel()
            timer = loop.call_later(wait, serve)

    async def acquire(tokens):
        ticket, _, is_near = limiter.enqueue(tokens, now=virtual_time.now())
        if ticket is not None:
            future = waiting[ticket] = loop.create_future()
            if is_near:
                serve()
            await future

    return acquire


@dataclass
class Outcome:
    """The share used of the limits, what was refused of all requests, and the longest wait."""

    used: float
    refused: float
    waited: float


async def play(case, acquire):
    """Keep the limiter busy, and count from the second minute on; days as a whole."""
    server = Enforcement(rpm=case.rpm, tpm=TPM, rpd=case.rpd, **case.server)
    draw = random.Random(7)
    begins = MINUTE if case.rpd is None else 0.0
    requests = tokens = refusals = 0
    waited = 0.0

    async def work():
        nonlocal requests, tokens, refusals, waited
        while True:
            n = size(case, draw)
            while True:
                asked = virtual_time.now()
                await acquire(n)
                if asked >= begins:
                    waited = max(waited, virtual_time.now() - asked)
                await asyncio.sleep(draw.uniform(0, 0.02))
                now = virtual_time.now()
                denial = server.admit(now, n)
                counts = now >= begins
                if denial is None:
                    requests, tokens = requests + counts, tokens + n * counts
                    break
                refusals += counts
                await asyncio.sleep(denial.retry_after)

    tasks = [asyncio.create_task(work()) for _ in range(TASKS)]
    await asyncio.wait(tasks, timeout=case.seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    minutes = (case.seconds - begins) / 60
    used = max(requests / (case.rpm * minutes), tokens / (TPM * minutes))
    if case.rpd is not None:
        used = requests / (2 * case.rpd)
    return Outcome(used, refusals / max(1, refusals + requests), waited)


def size(case, draw):
    if case.big and draw.random() < 1 / 40:
        return TPM // 5
    return draw.randint(50, 150)


def study():
    """Return what came of each limiter in each case."""
    rows = {}
    for name, peer in {"tollway": None, **PEERS}.items():
        for case in CASES:

            async def main(case=case, peer=peer):
                acquire = tollway(case) if peer is None else peer(case.rpm, TPM, case.rpd)
                return await play(case, acquire)

            began = virtual_time.process_time()
            outcome = rows.setdefault(name, {})[case.name] = virtual_time.run(main())
            took = virtual_time.process_time() - began
            print(
                f"{name:28} {case.name:16} used {outcome.used:7.2%}  429s {outcome.refused:7.2%}"
                f"  longest wait {outcome.waited:6.0f} s  ({took:.1f} s of CPU)",
                flush=True,
            )
    return rows


def plot(rows, path):
    """Draw, for each case, what is used against what is refused."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(11, 6.6), sharex=True, sharey=True)
    for panel, case in zip(panels.flat, CASES, strict=True):
        for i, (name, outcomes) in enumerate(rows.items()):
            outcome, ours = outcomes[case.name], name == "tollway"
            panel.plot(
                100 * outcome.refused,
                100 * outcome.used,
                "*" if ours else "osD^vPX"[i - 1],
                markersize=16 if ours else 8,
                color="#c1121f" if ours else f"C{i - 1}",
                alpha=1 if ours else 0.75,
                clip_on=False,
                zorder=3 if ours else 2,
                label=name,
            )
        panel.set_title(case.name, loc="left", fontsize=11)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_xscale("symlog", linthresh=1)
    panels[0, 0].set_xlim(-0.15, 100)
    panels[0, 0].set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    panels[0, 0].set_ylim(15, 104)
    figure.supxlabel("requests refused with 429, %", fontsize=10)
    figure.supylabel("of the limit used, %", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0.01, 0, 1, 0.91))
    figure.savefig(path, dpi=110)


def table(rows):
    """Print what docs/limits.md shows."""
    print("\n| | " + " | ".join(case.name for case in CASES) + " |")
    print("|---" * (len(CASES) + 1) + "|")
    for name, outcomes in rows.items():
        cells = [
            f"{outcome.used:.1%}" + (f", {outcome.refused:.1%}" if outcome.refused else "")
            for outcome in outcomes.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    # Libraries tell of every refusal otherwise.
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", metavar="PATH")
    given = parser.parse_args()
    studied = study()
    table(studied)
    if given.plot:
        Path(given.plot).parent.mkdir(exist_ok=True)
        plot(studied, given.plot)
