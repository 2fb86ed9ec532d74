"""Do two threads count as fast as two processes?

`python benches/python/bench_tokens_threads.py` counts 20 MB of 1 KB texts with one `count_batch`
in a process of two cores, and the halves in two processes of one core each, in alternation. Every
text comes often and is in both halves, so that each process has as many to remember as each thread.
"""

from __future__ import annotations

import os
import subprocess
import sys

from token_peers import NAMES, TITLES, report

ROUNDS = 7
SCRIPT = """
import os, sys
from pathlib import Path
from time import perf_counter
cores, name, title, half = sys.argv[1:5]
os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
sys.path[:0] = sys.argv[5:]
from corpora import corpora
from tollway.tokens import get_encoding
text = corpora()[title]
per_byte = len(text) / len(text.encode())
width = int(1000 * per_byte)
texts = [text[at : at + width] for at in range(0, len(text), width)]
size = sum(len(text.encode()) for text in texts)
texts = (texts * (20_000_000 // size + 1))[: 20_000_000 * len(texts) // size]
middle = len(texts) // 2
texts = {"-": texts, "0": texts[:middle], "1": texts[middle:]}[half]
encoding = get_encoding(name)
encoding.count_batch(texts)
print("ready", flush=True)
for _ in sys.stdin:
    start = perf_counter()
    encoding.count_batch(texts)
    print(perf_counter() - start, flush=True)
"""


class _Worker:
    def __init__(self, cores: str, name: str, title: str, half: str) -> None:
        tests = os.path.join(os.path.dirname(__file__), "..", "..", "tests")  # noqa: PTH118, PTH120
        command = [sys.executable, "-c", SCRIPT, cores, name, title, half, tests]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.result()

    def start(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")

    def result(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    """Print the comparison: above 1.0, the threads are faster."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("two cores are needed")
        return
    first, second = map(str, cores)
    for name in NAMES:
        for title in TITLES:
            both = _Worker(f"{first},{second}", name, title, "-")
            apart = [_Worker(first, name, title, "0"), _Worker(second, name, title, "1")]
            times: dict[str, list[float]] = {"threads": [], "processes": []}
            for _ in range(ROUNDS):
                both.start()
                times["threads"].append(float(both.result()))
                for worker in apart:
                    worker.start()
                times["processes"].append(max(float(worker.result()) for worker in apart))
            report(f"20 MB {name} {title}", times, 1e3, "ms", {"processes": 0.9})
            for worker in (both, *apart):
                worker.close()


if __name__ == "__main__":
    main()
