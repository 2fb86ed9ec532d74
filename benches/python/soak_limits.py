"""Does a shared limiter survive any number of kills and stops? Checks every admission it made.

Run: `python benches/python/soak_limits.py --kills 200 --stops 200`. Four processes take from one
limiter as fast as it lets them; every moment one is killed with SIGKILL and another started, or one
is stopped and goes on later. Meanwhile this process reads the limiter's log from outside. Then no
window of it may hold more than its quota, at least 98 % must have been used, every process that
runs must have gone on taking, and what the processes wrote down must be in the log. Again with
reservations: never too many under way, and all of the dead back. At last a request of a fifth of
the quota must be admitted within two windows beside three processes that always want more. Prints
what happened as lines of JSON; fails with an AssertionError.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

# The tests do the same for a few seconds.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from swarm import Swarm, course_of, wait_until

# Reservations under way at once, in the course with reservations.
IN_FLIGHT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=200.0, help="between first and last")
    parser.add_argument("--rps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    started = time.monotonic()
    rng = random.Random(given.seed)
    course = {
        "processes": given.processes,
        "kills": given.kills,
        "stops": given.stops,
        "seconds": given.seconds,
    }
    # Windows of a second, turned 200 times.
    limits: dict[str, float] = {"rpm": 60 * given.rps, "sub_window": 1.0}
    with tempfile.TemporaryDirectory() as folder:
        swarm = Swarm(Path(folder), "soak", limits, sizes=[1, 10, 100])
        seen = course_of(swarm, rng, **course)
        tell("killed and stopped", seen)
        assert max(seen["worst window"].values()) <= 1.0, seen
        assert seen["used"] >= 0.98, seen
    with tempfile.TemporaryDirectory() as folder:
        limits = {**limits, "max_in_flight": IN_FLIGHT}
        swarm = Swarm(Path(folder), "soak", limits, sizes=[1, 10, 100], hold=0.02, threads=3)
        seen = course_of(swarm, rng, **course)
        assert max(seen["worst window"].values()) <= 1.0, seen
        seen["most in flight"] = swarm.most_under_way()
        tell("with reservations", seen)
        assert seen["most in flight"] <= IN_FLIGHT, seen
        with swarm:
            last = swarm.start(hold=3600.0, threads=IN_FLIGHT)
            wait_until(lambda: len(last.taken()) == IN_FLIGHT)
    with tempfile.TemporaryDirectory() as folder:
        swarm = Swarm(Path(folder), "soak", {"tpm": 60_000}, sizes=[100])
        tell("a fifth of the quota against 3 greedy processes", waits_of_the_big(swarm))
    tell("seconds", round(time.monotonic() - started, 1))


def tell(what: str, seen: object) -> None:
    print(json.dumps({what: seen}), flush=True)


def waits_of_the_big(swarm: Swarm) -> dict[str, object]:
    """How long a request of 20 % of the quota waits while three processes always want more."""
    with swarm:
        for _ in range(3):
            swarm.start()
        # The first of them has taken the whole window by then.
        wait_until(lambda: len(swarm.taken()) == 600)
        big = swarm.start(sizes=[12_000])
        wait_until(lambda: len(big.taken()) >= 2, seconds=300.0)
    waits = [round(given - asked, 1) for asked, given, _ in big.taken()]
    assert max(waits) <= 2 * 60.0, waits
    return {"seconds waited": waits}


if __name__ == "__main__":
    main()
