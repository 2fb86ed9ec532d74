"""Is counting cheaper than tiktoken's encoding, and by how much, on each kind of text?

`python benches/python/bench_tokens.py` prints ns a byte and the ratio to tiktoken, both measured in
alternation on one thread (pin it: `taskset -c 0`); `pytest benches/python/bench_tokens.py` runs
the same cases under pytest-benchmark. Text: `TOLLWAY_CORPORA`, or what the interpreter brings.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from corpora import corpora
from oracle import oracle
from tollway.tokens import get_encoding

NAMES = ("o200k_base", "cl100k_base")
TITLES = tuple(corpora())
ROUNDS = 7
BYTES = 500_000


def kilobyte_texts(title: str) -> list[str]:
    """The first half megabyte of a corpus in texts of about 1 KB."""
    text = corpora()[title]
    per_byte = len(text) / len(text.encode())
    width, end = int(1000 * per_byte), int(BYTES * per_byte)
    return [text[at : at + width] for at in range(0, min(end, len(text)), width)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", TITLES)
def test_count_batch(benchmark, name: str, title: str) -> None:
    texts = kilobyte_texts(title)[:60]  # below 64 KB: one thread
    encoding = get_encoding(name)
    assert benchmark(encoding.count_batch, texts).sum() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", TITLES)
def test_tiktoken_encode_ordinary(benchmark, name: str, title: str) -> None:
    texts = kilobyte_texts(title)[:60]
    encoding = oracle(name)
    assert benchmark(lambda: sum(len(encoding.encode_ordinary(text)) for text in texts)) > 0


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _compare(name: str, title: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    texts = kilobyte_texts(title)
    size = sum(len(text.encode()) for text in texts)
    batches = [texts[at : at + 60] for at in range(0, len(texts), 60)]
    mine: list[float] = []
    peer: list[float] = []
    for _ in range(ROUNDS):
        mine.append(_seconds(lambda: [ours.count_batch(batch) for batch in batches]))
        peer.append(_seconds(lambda: [theirs.encode_ordinary(text) for text in texts]))
    ratios = sorted(b / a for a, b in zip(mine, peer, strict=True))
    print(
        f"{name + ' ' + title:24}{statistics.median(mine) / size * 1e9:10.1f}"
        f"{statistics.median(peer) / size * 1e9:10.1f}{statistics.median(ratios):8.1f}"
        f"   ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )


def main() -> None:
    """Print the comparison."""
    print(f"{'':24}{'ns/byte':>10}{'tiktoken':>10}{'ratio':>8}   (spread of {ROUNDS} rounds)")
    for name in NAMES:
        for title in TITLES:
            _compare(name, title)


if __name__ == "__main__":
    main()
