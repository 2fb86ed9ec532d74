"""Does `LLM.map` with a checkpoint lose anything when it is killed? The sibling of soak_kills.

Run: `python benches/python/soak_map.py --prompts 5000 --kills 10`. A simulator meets each fault of
completions on one answer in a hundred; a process that maps the prompts with a checkpoint is killed
with SIGKILL at random and started again, also where a spent quota or the provider's filter left
prompts without an answer. Then each answer must be that of its prompt, and the ledger must show
that at most the requests in flight at each kill were asked twice. Prints a table; exits with 1 if
anything is not so.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tollway import LLM, Limits
from tollway.simulator import FAULTS, Faults, Simulator, reply
from tollway.simulator.faults import applies

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import commands
from kills import Kill, kill_until_done
from soak_report import conclude, planned

# Only a stream can have an error in its middle.
NAMES = [name for name in FAULTS if applies(name, rows=0) and name != "stream_error"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=5_000)
    parser.add_argument("--kills", type=int, default=10, help="runs that are killed")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at once")
    parser.add_argument("--mode", choices=["asyncio", "threaded"], default="asyncio")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds an answer takes")
    parser.add_argument("--rate", type=float, default=0.01, help="share of answers for each fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", nargs=2, metavar=("URL", "FOLDER"), help="be one run")
    given = parser.parse_args()
    if given.run:
        run(*given.run, given)
        return

    rng = random.Random(given.seed)
    plan = planned(given.kills, given.prompts, rng)
    # What is written at the end of a run is no concern of map's.
    plan = [kill if kill.phase != "writing" else Kill("start") for kill in plan]
    faults = Faults(
        dict.fromkeys(NAMES, given.rate), seed=given.seed, delay=10 * given.latency, retry_after=0.1
    )
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        Simulator(latency=given.latency, faults=faults) as sim,
    ):
        course = kill_until_done(
            sim,
            lambda: subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], "--run", sim.base_url, folder],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=commands.environment(),
            ),
            plan,
            rng,
            stops=("InsufficientQuotaError", "CircuitOpenError", "ContentFilterError"),
        )
        answers = json.loads(Path(folder, "answers.json").read_text(encoding="utf-8"))
    right = [reply(("user", prompt)) for prompt in prompts_of(given)]
    wrong = sum(a != b for a, b in zip(answers, right, strict=False))
    missing = len(right) - len(answers)
    conclude(
        course,
        sim.ledger,
        plan,
        {"prompts": len(right), "answers wrong": wrong, "answers missing": missing},
        [f"{wrong} answers wrong, {missing} missing"] * bool(wrong or missing),
        faults=NAMES,
        in_flight=given.concurrency,
        batch=1,
        seconds=time.monotonic() - started,
    )


def prompts_of(given: argparse.Namespace) -> list[str]:
    return [f"prompt {i} of a soak" for i in range(given.prompts)]


def run(url: str, folder: str, given: argparse.Namespace) -> None:
    """Map the prompts, and write the answers down once each of them has one."""
    llm = LLM(
        "openai/gpt-4o", base_url=url, api_key="any", limits=Limits(max_in_flight=given.concurrency)
    )
    outcomes = llm.map_sync(
        prompts_of(given),
        concurrency=given.concurrency,
        mode=given.mode,
        checkpoint=Path(folder, "answers.jsonl"),
    )
    llm.aclose_sync()
    failed = {type(outcome.error).__name__ for outcome in outcomes if not outcome.ok}
    if failed:
        sys.exit(f"some have no answer: {', '.join(sorted(failed))}")
    texts = [outcome.text for outcome in outcomes]
    Path(folder, "answers.json").write_text(json.dumps(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
