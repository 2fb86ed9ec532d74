"""Does a job survive any number of kills? Kills one at random moments and checks what it cost.

Run: `python benches/python/soak_kills.py --kills 100`. Starts a simulator with latency and faults
in this process and `tollway embed` beside it; each run is killed with SIGKILL while it starts,
sends or writes, and the last goes to its end. Then every row must be that of its text to the byte,
and the simulator's ledger must show that at most the requests in flight at each kill were asked
twice. Prints what happened as JSON; fails with an AssertionError.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tollway.simulator import Faults, Simulator, vector

# The tests kill ten times with the same code.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from commands import SMALL
from kills import PHASES, check_ledger, kill_until_done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="runs that are killed")
    parser.add_argument("--texts", type=int, help="texts of the job; default 100 a kill")
    parser.add_argument("--batch", type=int, default=8, help="texts a request")
    parser.add_argument("--in-flight", type=int, default=4, help="requests at once")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds an answer takes")
    parser.add_argument("--fault-rate", type=float, default=0.05, help="share of slow answers")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    rng = random.Random(given.seed)
    plan = rng.choices(PHASES, weights=(2, 6, 2), k=given.kills)
    # A run that comes to writing has sent everything.
    plan.sort(key=lambda phase: phase == "writing")
    texts = [f"text {i} of a soak" for i in range(given.texts or 100 * given.kills)]
    faults = Faults({"delay": given.fault_rate}, seed=given.seed, delay=4 * given.latency)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        Simulator(latency=given.latency, faults=faults) as sim,
    ):
        docs, output = Path(folder, "docs.txt"), Path(folder, "vectors.npy")
        docs.write_text("\n".join(texts), encoding="utf-8")
        arguments = [docs, output, "--split", "line", "--model", SMALL]
        arguments += ["--base-url", sim.base_url, "--batch-size", given.batch]
        arguments += ["--max-in-flight", given.in_flight]
        course = kill_until_done(sim, output, arguments, plan, rng)
        vectors = np.load(output)
        wrong = [i for i, text in enumerate(texts) if (vectors[i] != vector(text, 1536)).any()]
        assert len(vectors) == len(texts)
        assert wrong == []
        check_ledger(sim.ledger, course, in_flight=given.in_flight, batch=given.batch)
    answered = sim.ledger.answered_counts()
    twice = sum(times - 1 for times in answered.values())
    report = {
        "kills": course.kills,
        "phases": Counter(plan),
        "texts": len(texts),
        "requests": len(sim.ledger),
        "answered twice": twice,
        "allowed": course.kills * given.in_flight * given.batch,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
