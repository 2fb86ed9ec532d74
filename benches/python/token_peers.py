"""The libraries that token counting is compared with, under one signature, and their clock."""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import gigatoken
import toktok

from corpora import corpora
from oracle import oracle
from tollway.tokens import get_encoding

NAMES = ("o200k_base", "cl100k_base")
TITLES = tuple(title for title in corpora() if title != "soup")
ROUNDS = 7


def pin() -> None:
    """Stay on one core: one thread is compared with one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@functools.cache
def gigatoken_encoding(name: str) -> gigatoken.Tokenizer:
    """gigatoken's tokenizer, read from a rank file that our tables write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.tiktoken"
        path.write_bytes(get_encoding(name).rank_file())
        return gigatoken.Tokenizer.from_tiktoken(path)


def counters(name: str) -> dict[str, Callable[[list[str]], object]]:
    """What counts the tokens of a list of texts in each library, on this thread.

    gigatoken has no count: its fastest call leaves the ids of all texts in one array.
    """
    ours, giga, theirs = get_encoding(name), gigatoken_encoding(name), oracle(name)
    return {
        "tollway": ours.count_batch,
        "gigatoken": lambda texts: giga.encode_batch(texts, parallel=False),
        "toktok": lambda texts: toktok.batch_count(texts, name, threads=1),
        "tiktoken": lambda texts: [len(theirs.encode_ordinary(text)) for text in texts],
    }


def kilobyte_texts(title: str, size: int = 500_000) -> list[str]:
    """The first `size` bytes of a corpus in texts of about 1 KB."""
    text = corpora()[title]
    per_byte = len(text) / len(text.encode())
    width, end = int(1000 * per_byte), int(size * per_byte)
    return [text[at : at + width] for at in range(0, min(end, len(text)), width)]


def seconds(work: Callable[[], object]) -> float:
    """How much processor time one call takes: what else the machine does is not in it."""
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of each case in each round, warm: two calls sweep out what ran before it."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, work in cases.items():
            work()
            work()
            times[name].append(seconds(work))
    return times


def verdict(ratio: float, least: float, what: str = "") -> str:
    """A ratio beside the least that it should be."""
    return f"[{'reached' if ratio >= least else 'SHORT'}: {ratio:.2f} of {what}{least:g}]"


def report(
    label: str,
    times: Mapping[str, list[float]],
    scale: float,
    unit: str,
    goals: Mapping[str, float] | None = None,
) -> None:
    """Print medians in `unit`s, and of each peer the ratio to the first with its spread.

    Args:
        label: What was measured.
        times: Seconds by library, ours first.
        scale: Units in a second.
        unit: Their name.
        goals: The least ratio to each of these peers.
    """
    own, *peers = times
    line = f"{label:27} {own} {statistics.median(times[own]) * scale:8.2f} {unit}"
    for peer in peers:
        ratios = sorted(b / a for a, b in zip(times[own], times[peer], strict=True))
        median = statistics.median(ratios)
        line += (
            f" | {peer} {statistics.median(times[peer]) * scale:8.2f}"
            f" = {median:6.2f}x ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )
        if goals and peer in goals:
            line += " " + verdict(median, goals[peer])
    print(line, flush=True)
