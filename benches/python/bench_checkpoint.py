"""What does the checkpoint of a job cost: to keep a row, to open again, and in memory?

1,536 dimensions, 128 texts an answer. Prints

- how much longer a job takes than the same texts without a checkpoint, where the provider answers
  10,000 texts a second: from the start to the last answer kept, interleaved; the median of seven
  pairs, and the least of each beside the other, which a busy machine disturbs less;
- what it takes to keep the answers of ten seconds at that rate, a text: CPU of the thread that
  keeps them, and wall time;
- the time to open a job folder of N rows and to learn which text has which row;
- with `--memory`, what a whole job of N texts holds in anonymous memory, with a provider in this
  process that answers right: at the start, at the most, and a distinct text.

Run: `python benches/python/bench_checkpoint.py [--rows 1000000] [--memory] [--folder DIR]`; a
million rows take 6 GB in the folder, with `--memory` 12 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tollway import Embedder, embed_job, embed_stream_sync
from tollway.embed.checkpoint import Checkpoint
from tollway.embed.job import _Job
from tollway.limiter import Limits
from tollway.providers import EmbeddingAnswer, EmbeddingRules
from tollway.types import Usage

BATCH, DIMENSIONS = 128, 1536
RATE = 10_000


class Provider:
    """Answers in this process: row i is text i's number, in every value."""

    name, model, priced_as = "bench", "in-process", "in-process"
    rules = EmbeddingRules(max_texts=2048, dimensions=DIMENSIONS, price="free")
    limits = Limits(max_in_flight=8)
    quota_key = ("bench",)

    def for_queries(self):
        return self

    async def open(self):
        pass

    def __init__(self, latency=0.0):
        self.latency = latency

    async def embed(self, texts):
        if self.latency:
            await asyncio.sleep(self.latency)
        numbers = np.array([int(text.rpartition(" ")[2]) for text in texts], np.float32)
        vectors = np.repeat(numbers[:, None], DIMENSIONS, axis=1)
        return EmbeddingAnswer(vectors, (), Usage(requests=1, estimated=True))

    async def aclose(self):
        pass


def keep(folder, count, paced):
    """Keep `count` rows, the first `paced` at RATE; return what those took: CPU, wall, seconds."""
    vectors = np.random.default_rng(1).standard_normal((BATCH, DIMENSIONS), np.float32)
    checkpoint = Checkpoint(folder, "bench/in-process", DIMENSIONS)
    cpu = wall = 0.0
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        names = (b"%d" % i for i in range(start, start + BATCH))
        digests = [hashlib.blake2b(name, digest_size=16).digest() for name in names]
        if start < paced:
            time.sleep(max(0.0, began + start / RATE - time.perf_counter()))
        before = time.thread_time(), time.perf_counter()
        checkpoint.append(digests, vectors)
        if start < paced:
            cpu += time.thread_time() - before[0]
            wall += time.perf_counter() - before[1]
    checkpoint.close()
    return cpu, wall


def compare(folder, count):
    """Seconds of streams without a checkpoint, and of as many jobs up to their last answers."""
    # As many requests under way as are answered in one latency.
    in_flight = 16
    embedder = Embedder(Provider(in_flight * BATCH / RATE), limits=Limits(max_in_flight=in_flight))
    texts = [f"a text of a job at a pace, number {i}" for i in range(count)]
    took = ([], [])
    for turn in range(8):
        began = time.perf_counter()
        embed_stream_sync(texts, lambda *_: None, embedder)
        streamed = time.perf_counter() - began
        ended = []
        began = time.perf_counter()

        def note(progress, began=began, ended=ended):
            if progress.texts == count:
                ended.append(time.perf_counter() - began)

        embed_job(texts, folder / f"paced{turn}.npy", embedder, on_progress=note)
        # The first turn loads what the others share.
        if turn:
            took[0].append(streamed)
            took[1].append(ended[0])
    return took


def reopen(folder):
    began = time.perf_counter()
    checkpoint = Checkpoint(folder, "bench/in-process", DIMENSIONS)
    job = _Job(Embedder(Provider()), checkpoint, None, None, None, batch=None)
    job.load()
    took = time.perf_counter() - began
    checkpoint.close()
    return took, len(job.rows)


def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def memory(folder, count):
    """Run a job and print what it holds, a line for each tenth of it."""
    embedder = Embedder(Provider())
    embed_job(["warm 1"], folder / "warm.npy", embedder)
    base, most, done = anonymous(), 0, threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.05):
            most = max(most, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    marks = []

    def note(progress):
        while len(marks) < 10 * progress.texts // count:
            marks.append((progress.texts, anonymous()))

    began = time.perf_counter()
    texts = (f"a text of a job that is watched, number {i}" for i in range(count))
    report = embed_job(texts, folder / "vectors.npy", embedder, on_progress=note)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    rows = np.load(folder / "vectors.npy", mmap_mode="r")
    picked = random.Random(2).sample(range(count), 1000)
    assert report.texts == count
    assert all((rows[i] == np.float32(i)).all() for i in picked)
    slope = np.polyfit(*np.array(marks[1:], dtype=float).T, 1)[0] if len(marks) > 2 else 0
    for texts_done, held in marks:
        print(f"  {texts_done:>9,} texts  {held / 1e6:6.1f} MB")
    print(
        f"memory: {base / 1e6:.0f} MB before, {most / 1e6:.0f} MB at the most, "
        f"{slope:.1f} bytes a text by the slope; {seconds:.0f} s"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=given.folder))
    try:
        if given.memory:
            memory(folder, given.rows)
            return
        streamed, kept = compare(folder, 3 * RATE)
        for name, one in (("median", statistics.median), ("least", min)):
            with_it, without = one(kept), one(streamed)
            print(
                f"job    {with_it:.2f} s, without a checkpoint {without:.2f} s: "
                f"{100 * (with_it / without - 1):+.1f} % ({name})"
            )
        paced = min(given.rows, 10 * RATE)
        took = keep(folder / "job", given.rows, paced)
        for name, seconds in zip(("CPU", "wall"), took, strict=True):
            each = seconds / paced
            print(f"keep   {name:>4}: {each * 1e6:5.2f} µs a text")
        times = sorted(reopen(folder / "job") for _ in range(3))
        print(f"reopen {times[1][1]:,} rows: {times[1][0]:.2f} s (median of 3)")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
