"""Does a job under every fault survive any number of kills? Checks each row and what it cost.

Run: `python benches/python/soak_kills.py --texts 200000 --kills 20`. Starts a simulator that meets
each of its faults on one answer in a hundred, and `tollway embed` beside it; runs are killed with
SIGKILL while they start, send or write, at random, and one that a spent quota stops is started
again. Then every row must be that of its text to the byte, and the simulator's ledger must show
that at most the requests in flight at each kill were asked twice. Prints a table; exits with 1 if
anything is not so.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tollway.simulator import FAULTS, Faults, Simulator, digest
from tollway.simulator.faults import applies
from tollway.simulator.vectors import vectors

# The tests kill ten times with the same code.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import commands
from kills import kill_until_done
from soak_report import conclude, planned

# Rows compared at a time.
_PART = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed")
    parser.add_argument("--batch", type=int, default=50, help="texts a request")
    parser.add_argument("--in-flight", type=int, default=16, help="requests at once")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds an answer takes")
    parser.add_argument("--rate", type=float, default=0.01, help="share of answers for each fault")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    rng = random.Random(given.seed)
    plan = planned(given.kills, given.texts // given.batch, rng)
    names = [name for name in FAULTS if applies(name, rows=2)]
    faults = Faults(
        dict.fromkeys(names, given.rate), seed=given.seed, delay=10 * given.latency, retry_after=0.1
    )
    texts = [f"text {i} of a soak" for i in range(given.texts)]
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        Simulator(latency=given.latency, faults=faults, dimensions=given.dimensions) as sim,
    ):
        docs, output = Path(folder, "docs.txt"), Path(folder, "vectors.npy")
        docs.write_text("\n".join(texts), encoding="utf-8")
        arguments = [docs, output, "--split", "line", "--model", commands.SMALL, "--json"]
        arguments += ["--base-url", sim.base_url, "--batch-size", given.batch]
        arguments += ["--max-in-flight", given.in_flight, "--dimensions", given.dimensions]
        course = kill_until_done(
            sim,
            lambda: commands.start("embed", *arguments),
            plan,
            rng,
            temporary=output.with_name(f".{output.name}.tmp"),
            stops=("InsufficientQuotaError",),
        )
        figures, violations = checked(output, texts, given.dimensions)
    report = json.loads(course.out)
    if report["errors"]:
        violations.append(f"{len(report['errors'])} texts failed, {report['errors'][0]}")
    answered = sim.ledger.answered_counts()
    unasked = set(map(digest, texts)) - {text for record in sim.ledger for text in record.digests}
    if unasked or not answered:
        violations.append(f"{len(unasked)} texts were never sent")
    conclude(
        course,
        sim.ledger,
        plan,
        figures,
        violations,
        faults=names,
        in_flight=given.in_flight,
        batch=given.batch,
        seconds=time.monotonic() - started,
    )


def checked(output: Path, texts: list[str], dimensions: int) -> tuple[dict[str, object], list[str]]:
    """Compare every row and every line of the index with what they must be."""
    rows = np.load(output, mmap_mode="r")
    missing = wrong = 0
    for start in range(0, len(texts), _PART):
        part = np.asarray(rows[start : start + _PART])
        right = vectors(texts[start : start + _PART], dimensions)
        holes = np.isnan(part).all(axis=1)
        missing += int(holes.sum()) + len(right) - len(part)
        differ = (part.view(np.uint32) != right[: len(part)].view(np.uint32)).any(axis=1)
        wrong += int((differ & ~holes).sum())
    lines = output.with_name("vectors.index.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    violations = [f"{wrong} rows wrong"] * bool(wrong) + [f"{missing} rows missing"] * bool(missing)
    if ids != [f"docs.txt#{i + 1}" for i in range(len(texts))]:
        violations.append("the index names other texts")
    if len(rows) != len(texts):
        violations.append(f"{len(rows)} rows for {len(texts)} texts")
    return {"texts": len(texts), "rows wrong": wrong, "rows missing": missing}, violations


if __name__ == "__main__":
    main()
