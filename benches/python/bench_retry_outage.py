"""What does a total outage cost with the retry budget, and without it?

Run: `python benches/python/bench_retry_outage.py --seconds 120`. A job of one text a request runs
against the simulator, which answers everything with 503 for that time. Prints requests sent, needed
and allowed (1.1 times those needed, and one a second) for each policy; fails if the budget's is
over.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from tollway import Embedder, Limits, RetryPolicy
from tollway.embed import embed_job_async
from tollway.simulator import Simulator
from tollway.transport import HttpxTransport


class Failing(HttpxTransport):
    is_down = False
    sent = 0

    async def send(self, request):
        self.sent += 1
        if self.is_down:
            headers = {**request.headers, "x-simulator-fault": "503"}
            request = dataclasses.replace(request, headers=headers)
        return await super().send(request)


async def run(budget, seconds, texts):
    transport = Failing()
    policy = RetryPolicy(max_retries=1_000, max_delay=10.0, budget=budget)
    with Simulator(latency=0.05) as sim, tempfile.TemporaryDirectory() as folder:
        async with Embedder(
            "openai/text-embedding-3-small",
            api_key="any",
            base_url=sim.base_url,
            transport=transport,
            retry=policy,
            batch_size=1,
            dimensions=8,
            limits=Limits(max_in_flight=25),
        ) as embedder:
            began = time.monotonic()
            job = asyncio.create_task(
                embed_job_async(
                    [f"text {i}" for i in range(texts)], Path(folder, "v.npy"), embedder
                )
            )
            await asyncio.sleep(1)
            before, transport.is_down = transport.sent, True
            await asyncio.sleep(seconds)
            during, transport.is_down = transport.sent - before, False
            ended = time.monotonic()
            report = await job
    assert report.errors == []
    return {
        "needed": texts,
        "sent": transport.sent,
        "allowed": round(1.1 * texts + time.monotonic() - began + 1),
        "sent_in_outage": during,
        "seconds_to_recover": round(time.monotonic() - ended, 2),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--texts", type=int, default=2_000)
    options = parser.parse_args()
    for name, budget in (("with the budget", "auto"), ("without", None)):
        result = await run(budget, options.seconds, options.texts)
        print(name, json.dumps(result), flush=True)
        assert budget is None or result["sent"] <= result["allowed"]


if __name__ == "__main__":
    asyncio.run(main())
