"""Kills a job again and again and resumes it; the simulator's ledger tells what that cost."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import commands

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tollway.simulator import Ledger, Simulator

PHASES = ("start", "sending", "writing")


@dataclass
class Course:
    """What became of a job that was killed.

    Attributes:
        killed: When each run was killed, seconds of the monotonic clock; None where it ended
            before that.
        phases: In which phase each was to be killed.
    """

    killed: list[float | None] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(moment is not None for moment in self.killed)


def kill_until_done(
    sim: Simulator, output: Path, arguments: list[object], plan: list[str], rng: random.Random
) -> Course:
    """Kill a run in each of the planned phases, then let one go to its end."""
    course = Course()
    for phase in plan:
        with commands.start("embed", *arguments) as process:
            _wait_for(phase, process, sim, output, rng)
            process.kill()
            moment = time.monotonic()
            _, err = process.communicate(timeout=30)
        assert process.returncode in {-9, 0}, (phase, err)
        course.phases.append(phase)
        course.killed.append(moment if process.returncode == -9 else None)
    code, _, err = commands.run("embed", *arguments)
    assert code == 0, err
    return course


def _wait_for(phase, process, sim, output, rng) -> None:
    """Return at a random moment of a phase of a run, or when the run is over."""
    if phase == "start":
        time.sleep(rng.uniform(0, 0.6))
        return
    seen, wanted = len(sim.ledger), rng.randint(1, 8)
    temporary = output.with_name(f".{output.name}.tmp")
    while process.poll() is None:
        if phase == "sending" and len(sim.ledger) - seen >= wanted:
            time.sleep(rng.uniform(0, 0.05))
            return
        if phase == "writing" and temporary.exists():
            time.sleep(rng.uniform(0, 0.01))
            return
        time.sleep(0.0005)


def check_ledger(ledger: Ledger, course: Course, *, in_flight: int, batch: int) -> None:
    """At most the requests in flight at each kill were asked again, and none but theirs."""
    # A run's requests are those that arrived before it was killed and after the one before.
    ends = [moment for moment in course.killed if moment is not None]
    bounds = [float("-inf"), *ends, float("inf")]
    runs = [
        [record for record in ledger if after < record.arrival <= until and record.inputs]
        for after, until in itertools.pairwise(bounds)
    ]
    later: set[str] = set()
    for number, run in reversed(list(enumerate(runs))):
        again = [record for record in run if record.answered and later & set(record.digests)]
        assert len(again) <= (in_flight if number < len(ends) else 0)
        later |= {digest for record in run for digest in record.digests}
    answered = Counter(ledger.answered_counts())
    assert sum(times - 1 for times in answered.values()) <= course.kills * in_flight * batch
