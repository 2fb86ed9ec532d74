"""Kills a job again and again and resumes it; the simulator's ledger tells what that cost."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    import subprocess
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tollway.simulator import Ledger, Record, Simulator

PHASES = ("start", "sending", "writing")

# Rows of one answer that a fault spoils; any other fault but the harmless ones spoils all.
_SPOILT_ROWS = {
    "missing_row": 1,
    "null_row": 1,
    "nan_row": 1,
    "short_row": 1,
    # Neither of the two rows that claim one index can be believed.
    "duplicate_index": 2,
}


@dataclass(frozen=True)
class Kill:
    """When a run is killed.

    Attributes:
        phase: While it starts, sends, or writes its output.
        requests: For `sending`: how many the ledger holds by then; None for some more than the run
            found there.
    """

    phase: str
    requests: int | None = None


@dataclass(frozen=True)
class Run:
    """One run of a job: when it was started, and whether it was killed."""

    started: float
    killed: bool


@dataclass
class Course:
    """What became of a job that was killed.

    Attributes:
        runs: In order.
        stops: Runs that ended by an error that was expected.
        out: What the last run printed.
    """

    runs: list[Run] = field(default_factory=list)
    stops: int = 0
    out: str = ""

    @property
    def kills(self) -> int:
        return sum(run.killed for run in self.runs)


def kill_until_done(
    sim: Simulator,
    start: Callable[[], subprocess.Popen[str]],
    plan: Iterable[Kill],
    rng: random.Random,
    *,
    temporary: Path | None = None,
    stops: tuple[str, ...] = (),
) -> Course:
    """Kill a run at each of the planned moments, then let one go to its end.

    Args:
        sim: What the job asks.
        start: Starts a run of the job.
        plan: The kills.
        rng: Draws the moments.
        temporary: The file that is there while the output is written.
        stops: Words of errors at which the job is simply started again.
    """
    course = Course()
    for kill in plan:
        while _run(course, sim, start, lambda it, k=kill: _wait(k, it, sim, temporary, rng), stops):
            pass
    while _run(course, sim, start, None, stops):
        pass
    return course


def _run(course, sim, start, wait, stops) -> bool:
    """Run once; True where it ended by an error that was expected."""
    started = time.monotonic()
    with start() as process:
        if wait is not None:
            wait(process)
            process.kill()
        out, err = process.communicate(timeout=600)
    code = process.returncode
    course.runs.append(Run(started, code == -9))
    course.out = out
    if code == -9:
        _settle(sim.ledger)
    is_expected = code not in {0, -9} and any(words in err for words in stops)
    assert is_expected or code in ({0, -9} if wait else {0}), (code, err)
    course.stops += is_expected
    return is_expected


def _wait(kill, process, sim, temporary, rng) -> None:
    """Return at a random moment of a phase of a run, or when the run is over."""
    if kill.phase == "start":
        time.sleep(rng.uniform(0, 0.6))
        return
    wanted = kill.requests or len(sim.ledger) + rng.randint(1, 8)
    while process.poll() is None:
        if kill.phase == "sending" and len(sim.ledger) >= wanted:
            time.sleep(rng.uniform(0, 0.05))
            return
        if kill.phase == "writing" and temporary.exists():
            time.sleep(rng.uniform(0, 0.01))
            return
        time.sleep(0.0005)


def _settle(ledger) -> None:
    """Wait until nothing comes in any more that a killed run had sent."""
    seen = -1
    while seen != len(ledger):
        seen = len(ledger)
        time.sleep(0.1)


def spoilt(record: Record) -> int:
    """Texts of a request that got no answer of use, and had to be sent again."""
    return 0 if record.answered else _SPOILT_ROWS.get(record.fault or "", record.inputs)


def paid_twice(ledger: Ledger) -> int:
    """Texts that were sent although an answer of use had been sent before, all in all.

    Every sending of a text is either spoilt by a fault, the one that was kept, or one too many.
    """
    sent = sum(record.inputs - spoilt(record) for record in ledger)
    return sent - len({text for record in ledger for text in record.digests})


def check_ledger(ledger: Ledger, course: Course, *, in_flight: int, batch: int) -> None:
    """At most the requests in flight at each kill were asked again, and none but theirs."""
    # A run's requests are those that arrived after it was started and before the next was.
    bounds = [*(run.started for run in course.runs), float("inf")]
    runs = [
        [record for record in ledger if after < record.arrival <= until and record.inputs]
        for after, until in itertools.pairwise(bounds)
    ]
    later: set[str] = set()
    for run, records in reversed(list(zip(course.runs, runs, strict=True))):
        again = [record for record in records if record.answered and later & set(record.digests)]
        assert len(again) <= (in_flight if run.killed else 0)
        later |= {digest for record in records for digest in record.digests}
    answered = Counter(ledger.answered_counts())
    assert sum(times - 1 for times in answered.values()) <= course.kills * in_flight * batch
    assert 0 <= paid_twice(ledger) <= course.kills * in_flight * batch
