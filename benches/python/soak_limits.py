"""Does a shared limiter survive any number of kills and stops? Checks every admission it made.

Run: `python benches/python/soak_limits.py --kills 200 --stops 200`. Four processes take from one
limiter as fast as it lets them; every moment one is killed with SIGKILL and another started, or one
is stopped and goes on later. Meanwhile this process reads the limiter's log from outside. Then no
window of it may hold more than its quota, at least 98 % must have been used, every process that
runs must have gone on taking, what the processes wrote down must be in the log, and all
reservations of the dead must be back. Prints what happened as JSON; fails with an AssertionError.
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

from swarm import Swarm, course_of, fairness_of_the_big


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=200.0, help="between first and last")
    parser.add_argument("--rps", type=int, default=500)
    parser.add_argument("--in-flight", type=int, help="hold reservations, so many at once")
    parser.add_argument("--windows", type=int, default=3, help="minutes against greedy processes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        limits = {"rps": given.rps, "rpm": 60 * given.rps}
        swarm = Swarm(Path(folder), "soak", limits, sizes=[1, 10, 100])
        report = {"killed and stopped": course_of(swarm, random.Random(given.seed), given)}
    with tempfile.TemporaryDirectory() as folder:
        limits = {"rps": given.rps, "rpm": 60 * given.rps, "max_in_flight": 8}
        swarm = Swarm(Path(folder), "soak", limits, sizes=[1, 10, 100], hold=0.02, threads=3)
        report["with reservations"] = course_of(swarm, random.Random(given.seed), given)
    report["big against greedy"] = fairness_of_the_big(given.windows)
    report["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
