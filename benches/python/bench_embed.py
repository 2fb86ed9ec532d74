"""What does one embedding cost the client, through Embedder.embed and through the openai SDK?

Client CPU (user and system, all threads of this process) for 2,048 texts, 128 a request, 8
requests at once, 1,536 dimensions; the simulator runs in a process of its own. Both get base64, and
both end with one float32 array. CPU is what pytest-benchmark times here, not the wall clock, in
which the simulator's own work would weigh most.

Run: `pytest benches/python/bench_embed.py`
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import numpy as np
import openai
import pytest

from tollway import Embedder, Limits
from tollway.simulator import vector

MODEL = "text-embedding-3-small"
TEXTS = [f"text {i}: the quick brown fox jumps over the lazy dog" for i in range(2048)]
BATCH, IN_FLIGHT = 128, 8


@pytest.fixture(scope="module")
def base_url():
    command = [sys.executable, "-c", "from tollway.cli import main; main()", "simulate"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        yield simulator.stdout.readline().split()[0]
        simulator.terminate()
        simulator.communicate()


@pytest.fixture(scope="module")
def expected():
    return np.stack([vector(text, 1536) for text in TEXTS]).tobytes()


def with_tollway(base_url):
    embedder = Embedder(
        f"openai/{MODEL}",
        base_url=base_url,
        api_key="any",
        batch_size=BATCH,
        limits=Limits(max_in_flight=IN_FLIGHT),
    )
    return embedder.embed, embedder.aclose


def with_openai(base_url):
    client = openai.AsyncOpenAI(base_url=base_url, api_key="any")

    async def embed(texts):
        free = asyncio.Semaphore(IN_FLIGHT)
        rows = np.empty((len(texts), 1536), np.float32)

        async def send(start):
            async with free:
                part = texts[start : start + BATCH]
                answer = await client.embeddings.create(model=MODEL, input=part)
            for row in answer.data:
                rows[start + row.index] = row.embedding

        await asyncio.gather(*map(send, range(0, len(texts), BATCH)))
        return rows

    return embed, client.close


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("client", [with_tollway, with_openai])
def test_embed_2048_texts(benchmark, base_url, expected, client):
    with asyncio.Runner() as runner:
        embed, close = client(base_url)
        rows = benchmark.pedantic(
            lambda: runner.run(embed(TEXTS)), rounds=10, iterations=1, warmup_rounds=2
        )
        runner.run(close())
    assert rows.tobytes() == expected
