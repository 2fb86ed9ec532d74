"""What does one embedding cost the client alone: send, decode, check?

Client CPU (user and system, all threads of this process) of `NativeTransport.embed`, of
baseten-performance-client and of the openai SDK, against a server in a process of its own that
has its answers ready (`benches/rust/canned.rs`): 1,536 dimensions, 8 requests at once, every client
ending with one float32 array: the caller's, but for baseten, which makes its own. Each asks for
what it makes an array of: base64, but for baseten, whose `numpy()` takes lists of numbers only.
The clients take turns within each round; what is printed is the median over the rounds of each
client's rate and of its ratio to ours.

Run: `make bench-embed`, or `python benches/python/bench_client.py --rows 1 16 128 512 --rounds 7`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import openai
import trustme
from baseten_performance_client import PerformanceClient, RequestProcessingPreference

from tollway.transport import NativeTransport

MODEL = "text-embedding-3-small"
DIMENSIONS = 1536
IN_FLIGHT = 8
CANNED = Path(__file__).parents[2] / "target/release/examples/canned"
# Enough for a time of some tenths of a second at each.
EMBEDDINGS = {1: 2048, 16: 8192, 128: 16_384, 512: 16_384}


@contextlib.contextmanager
def server(latency=0, certificates=()):
    command = [CANNED, str(latency), *certificates]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


class Tollway:
    name = "tollway"

    def __init__(self, base_url, ca_bundle):
        self.url = f"{base_url}/v1/embeddings"
        self.transport = NativeTransport(ca_bundle=ca_bundle)
        self.headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "authorization": "Bearer any",
        }

    async def embed(self, texts, batch, rows):
        starts = iter(range(0, len(texts), batch))

        async def work():
            for start in starts:
                part = slice(start, start + batch)
                answer = await self.transport.embed(
                    self.url, self.headers, MODEL, texts[part], out=rows[part]
                )
                assert answer.embeddings.bad_rows == []

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return rows

    async def close(self):
        await self.transport.aclose()


class Baseten:
    name = "baseten"

    def __init__(self, base_url, ca_bundle):
        self.client = PerformanceClient(base_url=base_url, api_key="any")

    async def embed(self, texts, batch, rows):
        preference = RequestProcessingPreference(
            max_concurrent_requests=IN_FLIGHT,
            batch_size=batch,
            max_chars_per_request=200_000,
        )
        answer = await self.client.async_embed(input=texts, model=MODEL, preference=preference)
        return answer.numpy()

    async def close(self):
        pass


class OpenAI:
    name = "openai"

    def __init__(self, base_url, ca_bundle):
        self.client = openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any")

    async def embed(self, texts, batch, rows):
        starts = iter(range(0, len(texts), batch))

        async def work():
            for start in starts:
                part = texts[start : start + batch]
                answer = await self.client.embeddings.create(model=MODEL, input=part)
                for row in answer.data:
                    rows[start + row.index] = row.embedding

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return rows

    async def close(self):
        await self.client.close()


async def measure(address, batch, rounds, kinds, ca_bundle=None):
    """Embeddings per CPU-second and wall seconds of each client in each round."""
    texts = [
        f"text {i}: the quick brown fox jumps over the lazy dog" for i in range(EMBEDDINGS[batch])
    ]
    expected = (np.arange(batch)[:, None] + np.arange(DIMENSIONS)).astype(np.float32) / 997
    place = np.zeros((len(texts), DIMENSIONS), np.float32)
    clients = [kind(address, ca_bundle) for kind in kinds]
    rates = {client.name: [] for client in clients}
    walls = {client.name: [] for client in clients}
    for turn in range(rounds + 1):
        for client in clients:
            # The SDK is so slow that a part of the texts tells as much.
            part = texts[: max(batch, len(texts) // 8)] if client.name == "openai" else texts
            # The caller's array is there before; what it held must not pass for an answer.
            rows = place[: len(part)]
            rows.fill(0)
            wall, cpu = time.perf_counter(), time.process_time()
            rows = await client.embed(part, batch, rows)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            assert np.allclose(rows[:batch], expected)
            assert np.allclose(rows[-batch:], expected)
            if turn:
                rates[client.name].append(len(part) / cpu)
                walls[client.name].append(wall)
    for client in clients:
        await client.close()
    return rates, walls


def show(title, rates):
    ours = rates["tollway"]
    line = [f"{title:>16}"]
    for name, values in rates.items():
        line.append(f"{name} {statistics.median(values):>8,.0f}/s")
        if name != "tollway":
            ratios = sorted(a / b for a, b in zip(ours, values, strict=True))
            middle = statistics.median(ratios)
            line.append(f"{middle:5.1f}x ({ratios[0]:.1f}-{ratios[-1]:.1f})")
    print("  ".join(line), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16, 128, 512])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="store_true", help="measure tollway alone")
    given = parser.parse_args()
    every = [Tollway] if given.only else [Tollway, Baseten, OpenAI]
    with server() as address:
        for batch in given.rows:
            rates, _ = asyncio.run(measure(address, batch, given.rounds, every))
            show(f"batch {batch}", rates)
    with server(latency=20) as address:
        EMBEDDINGS[128] = 20_480
        rates, walls = asyncio.run(measure(address, 128, 3, every[:2]))
        show("20 ms, batch 128", rates)
        least = 20_480 / 128 / IN_FLIGHT * 0.02
        for name, values in walls.items():
            wall = statistics.median(values)
            print(f"{name:>27} {wall:.2f} s, {wall / least:.2f} x latency x rounds")
        EMBEDDINGS[128] = 16_384
    with tempfile.TemporaryDirectory() as folder:
        authority, files = trustme.CA(), [f"{folder}/{name}.pem" for name in ("ca", "cert", "key")]
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(files[0])
        certificate.cert_chain_pems[0].write_to_path(files[1])
        certificate.private_key_pem.write_to_path(files[2])
        # The peers have no option for it.
        os.environ["SSL_CERT_FILE"] = files[0]
        with server(certificates=files[1:]) as address:
            rates, _ = asyncio.run(measure(address, 128, given.rounds, every[:2], files[0]))
            show("TLS, batch 128", rates)


if __name__ == "__main__":
    main()
