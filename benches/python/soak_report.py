"""What the soaks print at their end, and the exit code that follows."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

# The tests kill and count with the same code.
from kills import PHASES, Kill, check_ledger, paid_twice

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from kills import Course
    from tollway.simulator import Ledger


def planned(kills: int, requests: int, rng: random.Random) -> list[Kill]:
    """Return kills at random moments: a tenth at the start and at the end, the others between.

    Args:
        kills: How many.
        requests: How many the job takes without any fault: some more will come.
        rng: Draws the moments.
    """
    few = kills // 10
    moments = sorted(rng.sample(range(1, requests), kills - 2 * few))
    plan = [Kill("sending", moment) for moment in moments]
    for _ in range(few):
        plan.insert(rng.randrange(len(plan) + 1), Kill("start"))
    # A run that comes to writing has sent everything.
    return plan + [Kill("writing")] * few


def conclude(
    course: Course,
    ledger: Ledger,
    plan: Sequence[Kill],
    figures: Mapping[str, object],
    violations: Iterable[str],
    *,
    faults: Iterable[str],
    in_flight: int,
    batch: int,
    seconds: float,
) -> None:
    """Print the table, and exit with 1 where something is not as it must be.

    Args:
        course: The runs.
        ledger: What they asked.
        plan: The kills that were to be.
        figures: What was checked of the output, by name.
        violations: What was wrong there, in words.
        faults: Names of those that were to happen.
        in_flight: Requests at once.
        batch: Texts a request.
        seconds: How long it all took.
    """
    wrong = list(violations)
    met = Counter(record.fault for record in ledger if record.fault is not None)
    twice, bound = paid_twice(ledger), course.kills * in_flight * batch
    phases = Counter(kill.phase for kill in plan)
    rows: list[tuple[str, str]] = [
        (
            "kills",
            f"{course.kills} of {len(plan)} ("
            + ", ".join(f"{phases[phase]} in {phase}" for phase in PHASES if phases[phase])
            + ")",
        ),
        ("stopped by a spent quota", f"{course.stops}, and started again"),
        *(
            (name, f"{value:,}" if isinstance(value, int) else str(value))
            for name, value in figures.items()
        ),
        ("requests sent", f"{len(ledger):,}"),
        ("of them with a fault", f"{met.total():,}"),
        *((f"  {name}", f"{met[name]:,}") for name in faults),
        ("texts paid twice", f"{twice:,}; at most {bound:,} were in flight at the kills"),
        ("seconds", f"{seconds:,.1f}"),
    ]
    if course.kills < len(plan):
        wrong.append(f"only {course.kills} runs were killed")
    wrong += [f"the fault {name} never happened" for name in faults if not met[name]]
    try:
        check_ledger(ledger, course, in_flight=in_flight, batch=batch)
    except AssertionError as error:
        wrong.append(f"more was asked twice than was in flight: {error}")
    rows.append(("violations", "; ".join(wrong) or "none"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    sys.exit(1 if wrong else 0)
