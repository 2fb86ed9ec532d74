"""Does a paced job use its whole quota, and never more?

Embeds a text, split by paragraph, through `tollway embed` against `tollway simulate` in a process
of its own that enforces the limits, then reads the simulator's ledger. The exit code is 1 if a
request was refused, the quota was under-used, or a row is wrong.

    .venv/bin/python benches/python/paced_job.py            # about four minutes
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tollway.embed import read_documents
from tollway.simulator import Ledger, vector

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from corpora import corpora

WINDOW = 60.25  # a minute and the limiter's margin


def run(options: argparse.Namespace, folder: Path) -> tuple[Ledger, np.ndarray]:
    tollway = Path(sys.executable).with_name("tollway")
    limits = ["--rpm", str(options.rpm), "--tpm", str(options.tpm)]
    ledger = folder / "ledger.jsonl"
    server = subprocess.Popen(
        [tollway, "simulate", *limits, "--ledger", ledger], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[0]
        output = folder / "vectors.npy"
        command = [tollway, "embed", options.input, output, *limits, "--split", "paragraph"]
        command += ["--model", "openai/text-embedding-3-small", "--base-url", url]
        command += ["--batch-size", str(options.batch_size)]
        subprocess.run(command, check=True, env=os.environ | {"OPENAI_API_KEY": "any"})
    finally:
        server.terminate()
        server.communicate()
    return Ledger.read(ledger), np.load(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--input", type=Path, help="default: the English corpus")
    parser.add_argument("--rpm", type=int, default=600)
    parser.add_argument("--tpm", type=int, default=120_000)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.input is None:
            options.input = Path(folder) / "english.txt"
            options.input.write_text(corpora()["english"], encoding="utf-8")
        ledger, vectors = run(options, Path(folder))
        texts = [document.text for document in read_documents(options.input, split="paragraph")]

    # Saturated from the first request until the end of the last window that was wholly used.
    start, stop = ledger[0].arrival - 1e-6, ledger[-1].arrival
    end = start + int((stop - start) // WINDOW) * WINDOW
    if end == start:
        sys.exit("the whole input took less than a minute: give a larger one, or lower limits")
    wrong = sum(
        not np.array_equal(row, vector(text, 1536))
        for row, text in zip(vectors, texts, strict=True)
    )
    used = ledger.utilisation(start, end, rpm=options.rpm, tpm=options.tpm)
    second, minute = ledger.worst_window(1), ledger.worst_window(60)
    print(f"requests        {len(ledger):,} ({dict(ledger.statuses())})")
    print(f"worst second    {second[0]} requests of {-(-options.rpm // 60)}")
    print(
        f"worst minute    {minute[0]} requests of {options.rpm}, {minute[1]:,} tokens of "
        f"{options.tpm:,}"
    )
    print(f"binding limit   {used:.2%} used over {end - start:.0f} s")
    print(f"rows            {len(texts):,}, {wrong} wrong")
    refused = ledger.statuses()[429]
    return int(bool(refused or wrong or used < 0.97))


if __name__ == "__main__":
    sys.exit(main())
