"""What does the whole `Embedder.embed` cost beside the bare client, and where does it go?

Client CPU (user and system, all threads of this process) for texts of 1,000 characters, 1,536
dimensions, against the server of `bench_client.py`. In each round, one after the other: the bare
client (send, decode and check, into an array that exists), the whole call, each of its stages by
itself, and baseten-performance-client's whole call. The texts are new objects in each round, so
that no hash is known from the one before. Printed are medians over the rounds: microseconds a text
of each stage, and the ratios of whole calls.

`the rest` is what the whole call takes beyond its stages: tasks, retry and breaker around each
request, what the answer says about limits.

With `--latency`: the wall time of 20,480 texts where every answer takes 20 ms, over latency x
rounds, and how many requests were under way at once.

Run: `make bench-embed`, or `python benches/python/bench_embed_stages.py [--title korean]`
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from bench_client import DIMENSIONS, IN_FLIGHT, MODEL, Baseten, Tollway, server
from tollway import Embedder, Limits, _core
from tollway.types import Usage

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from corpora import corpora

BATCH, COUNT, LENGTH = 128, 8192, 1000


def drawn(text, count):
    """New strings of LENGTH characters, spread over a text, no two of them equal."""
    step = (len(text) - LENGTH) / count
    return [f"{i} {text[int(i * step) : int(i * step) + LENGTH]}"[:LENGTH] for i in range(count)]


def embedder_of(address):
    return Embedder(
        f"openai/{MODEL}",
        base_url=f"{address}/v1",
        api_key="any",
        batch_size=BATCH,
        limits=Limits(rpm=1_000_000, tpm=2_000_000_000, max_in_flight=IN_FLIGHT),
    )


def batches_of(embedder, texts):
    prepared = embedder.prepare(texts)
    packer = embedder.packer()
    return packer.add(range(len(texts)), prepared) + packer.flush()


class Stages:
    """One round's times: CPU seconds of this process, by stage."""

    def __init__(self):
        self.seconds = {}

    def time(self, name, function, *arguments):
        began = time.process_time()
        result = function(*arguments)
        self.seconds[name] = time.process_time() - began
        return result

    async def time_async(self, name, coroutine):
        began = time.process_time()
        result = await coroutine
        self.seconds[name] = time.process_time() - began
        return result


async def limited(embedder, tokens):
    for each in tokens:
        permit = await embedder.limiter.hold(each)
        permit.sent()
        permit.settle(Usage(input_tokens=each))
        permit.release()


async def one_round(embedder, bare, baseten, text, rows):
    stages = Stages()
    made = [drawn(text, COUNT) for _ in range(6)]
    rows.fill(0)
    await stages.time_async("bare", bare.embed(made[0], BATCH, rows))
    expected = (np.arange(BATCH)[:, None] + np.arange(DIMENSIONS)).astype(np.float32) / 997
    assert np.allclose(rows[-BATCH:], expected)
    vectors = await stages.time_async("whole", embedder.embed(made[1]))
    assert np.allclose(vectors[-BATCH:], expected)
    del vectors
    if baseten is not None:
        await stages.time_async("baseten", baseten.embed(made[2], BATCH, rows))
    distinct, _ = stages.time("find equal texts", _core.distinct, made[3])
    counts = stages.time("count", embedder.encoding.count_batch, distinct)
    counted = made[4]
    stages.time("count + cut", embedder.prepare, counted)
    prepared = embedder.prepare(made[5])
    packer = embedder.packer()
    packed = stages.time("pack", packer.add, range(COUNT), prepared)
    tokens = [int(batch.counts.sum()) for batch in packed]
    await stages.time_async("limit", limited(embedder, tokens))
    # What the bare client writes to is there already.
    stages.time("memory of the array", lambda: np.empty(rows.shape, rows.dtype).fill(0))
    assert counts.sum() == sum(tokens) + int(packer.flush()[0].counts.sum())
    return stages.seconds


def show_stages(rounds):
    each = {
        name: 1e6 / COUNT * statistics.median(seconds[name] for seconds in rounds)
        for name in rounds[0]
    }
    each["cut"] = max(0.0, each["count + cut"] - each["count"])
    parts = {
        "send, decode, check (the bare client)": each["bare"],
        **{name: each[name] for name in ("find equal texts", "count", "cut", "pack", "limit")},
        "memory of the array": each["memory of the array"],
    }
    parts["the rest"] = each["whole"] - sum(parts.values())
    for name, microseconds in {**parts, "the whole call": each["whole"]}.items():
        print(f"{name:>40} {microseconds:6.2f} µs {100 * microseconds / each['whole']:6.1f} %")


def show_ratio(title, rounds, over, under):
    ratios = sorted(seconds[over] / seconds[under] for seconds in rounds)
    middle = statistics.median(ratios)
    print(f"{title:>40} {middle:6.2f} x  ({ratios[0]:.2f}-{ratios[-1]:.2f})", flush=True)


async def measure(text, rounds, only):
    with server() as address:
        embedder, bare = embedder_of(address), Tollway(address, None)
        baseten = None if only else Baseten(address, None)
        rows = np.zeros((COUNT, DIMENSIONS), np.float32)
        # The first round loads what the others share.
        times = [await one_round(embedder, bare, baseten, text, rows) for _ in range(rounds + 1)]
        await embedder.aclose()
        await bare.close()
    show_stages(times[1:])
    show_ratio("the whole call over the bare client", times[1:], "whole", "bare")
    if not only:
        show_ratio("baseten's whole call over ours", times[1:], "baseten", "whole")


async def wait(text):
    """Wall time under latency, over the least that the concurrency allows."""
    count, latency = 20_480, 0.02
    with server(latency=20) as address:
        embedder = embedder_of(address)
        send, under_way, most = embedder.provider.embed_into, 0, 0

        async def counted(texts, out):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await send(texts, out)
            finally:
                under_way -= 1

        embedder.provider.embed_into = counted
        took = []
        for _ in range(4):
            texts = drawn(text, count)
            began = time.perf_counter()
            await embedder.embed(texts)
            took.append(time.perf_counter() - began)
        await embedder.aclose()
    least = latency * count / BATCH / IN_FLIGHT
    wall = statistics.median(took[1:])
    title = f"{count:,} texts, 20 ms, {most} at once"
    print(f"{title:>40} {wall / least:6.2f} x latency x rounds ({wall:.2f} s)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--title", default="english", help="which text; see tests/corpora.py")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="store_true", help="leave the peer out")
    parser.add_argument("--latency", action="store_true")
    given = parser.parse_args()
    texts = corpora()
    text = texts.get(given.title) or next(iter(texts.values()))
    asyncio.run(measure(text, given.rounds, given.only))
    if given.latency:
        asyncio.run(wait(text))


if __name__ == "__main__":
    main()
