"""Retries against the simulator: they finish what can be finished, and burn no money."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections import Counter

import numpy as np
import pytest

from tollway import Embedder, Limits, RateLimiter, RetryPolicy
from tollway.embed import embed_job_async
from tollway.providers import embedding_provider
from tollway.retry import CallRecord, CircuitBreaker, Hedge, RetryBudget
from tollway.simulator import Faults, Simulator, vector
from tollway.transport import HttpxTransport

MODEL = "openai/text-embedding-3-small"
QUICK = {"base_delay": 0.001, "max_delay": 0.01, "seed": 3}
# One in five goes wrong, in every way that a retry cures.
MIXED = dict.fromkeys(
    ["500", "503", "429", "disconnect", "truncated", "missing_row", "null_row", "nan_row"], 0.025
)


class Watched(HttpxTransport):
    """Counts what is asked, and can have the simulator fail, refuse, or delay a first answer."""

    def __init__(self, refused=(), delayed=()):
        super().__init__()
        self.refused, self.delayed = set(refused), set(delayed)
        self.asked = Counter()
        self.is_down = False
        self.spent = False
        self.sent_when_spent = 0

    async def send(self, request):
        (text,) = json.loads(request.body)["input"]
        self.asked[text] += 1
        self.sent_when_spent += self.spent
        if text in self.refused:
            request = dataclasses.replace(
                request, body=b'{"model": "' + MODEL[7:].encode() + b'", "input": []}'
            )
        fault = "503" if self.is_down else None
        if text in self.delayed and self.asked[text] == 1:
            fault = "delay"
        if fault is not None:
            headers = {**request.headers, "x-simulator-fault": fault}
            request = dataclasses.replace(request, headers=headers)
        response = await super().send(request)
        self.spent = self.spent or b"insufficient_quota" in response.body
        return response


async def test_five_thousand_requests_with_a_fifth_of_faults():
    texts = [f"text {i}" for i in range(5_000)]
    # One in a hundred can never succeed.
    refused = set(texts[50::100])
    transport = Watched(refused)
    policy = RetryPolicy(**QUICK)
    faults = Faults(MIXED, seed=7, retry_after=0.01)
    with Simulator(faults=faults) as sim:
        async with Embedder(
            MODEL,
            api_key="any",
            base_url=sim.base_url,
            transport=transport,
            retry=policy,
            batch_size=1,
            dimensions=8,
            limits=Limits(max_in_flight=50),
        ) as embedder:
            vectors = await embedder.embed(texts, on_error="nan")
    for i, text in enumerate(texts):
        if text in refused:
            assert np.isnan(vectors[i]).all()
        else:
            assert vectors[i].tobytes() == vector(text, 8).tobytes()
    assert {transport.asked[text] for text in refused} == {1}
    share = sum(record.fault is not None for record in sim.ledger) / len(sim.ledger)
    assert 0.18 < share < 0.22
    assert len(sim.ledger) / 5_000 <= 1.3
    assert len(sim.ledger) == transport.asked.total()


@pytest.mark.parametrize("seconds", [3.0])
async def test_a_total_outage_costs_one_request_a_second(tmp_path, seconds):
    texts = [f"text {i}" for i in range(300)]
    transport = Watched()
    policy = RetryPolicy(base_delay=0.05, max_delay=0.5, max_retries=1_000)
    sent = []

    async def fail_for_a_while():
        await asyncio.sleep(0.2)
        transport.is_down = True
        sent.append(transport.asked.total())
        began = time.monotonic()
        await asyncio.sleep(seconds)
        sent.append(transport.asked.total())
        sent.append(time.monotonic() - began)
        transport.is_down = False

    with Simulator(latency=0.02) as sim:
        outage = asyncio.create_task(fail_for_a_while())
        async with Embedder(
            MODEL,
            api_key="any",
            base_url=sim.base_url,
            transport=transport,
            retry=policy,
            batch_size=1,
            limits=Limits(max_in_flight=10),
        ) as embedder:
            began = time.monotonic()
            report = await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
            took = time.monotonic() - began
        await outage
    assert report.errors == []
    before, after, lasted = sent
    assert after > before, "the outage was met"
    assert len(sim.ledger) <= 1.1 * len(texts) + took + 1
    # Those in flight when it began, what the successes before had paid for, and one a second.
    assert after - before <= 10 + 0.1 * before + lasted + 1


async def test_without_the_budget_an_outage_costs_far_more(tmp_path):
    texts = [f"text {i}" for i in range(50)]
    transport = Watched()
    transport.is_down = True
    policy = RetryPolicy(base_delay=0.05, max_delay=0.1, max_retries=1_000, budget=None)

    async def recover():
        began = time.monotonic()
        while transport.asked.total() < 120:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        transport.is_down = False
        return time.monotonic() - began

    with Simulator() as sim:
        recovery = asyncio.create_task(recover())
        async with Embedder(
            MODEL,
            api_key="any",
            base_url=sim.base_url,
            transport=transport,
            retry=policy,
            batch_size=1,
            limits=Limits(max_in_flight=10),
        ) as embedder:
            await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
        lasted = await recovery
    # What the test before would let pass in as much time.
    assert 4 * (10 + lasted + 1) < 120


async def test_a_spent_quota_in_the_middle_of_five_thousand_queued_requests():
    transport, breaker = Watched(), CircuitBreaker(MODEL)
    limiter = RateLimiter(Limits(rps=40), margin=0)
    policy = RetryPolicy(**QUICK)
    with Simulator(credit_requests=80, latency=0.01) as sim:
        provider = embedding_provider(
            MODEL, api_key="any", base_url=sim.base_url, transport=transport
        )
        await provider.open()
        calls = [
            policy.call(lambda i=i: provider.embed([f"text {i}"]), limiter=limiter, breaker=breaker)
            for i in range(5_000)
        ]
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
        await provider.aclose()
    kinds = Counter(type(end).__name__ for end in ends)
    assert kinds["EmbeddingAnswer"] == 80
    assert kinds["CircuitOpenError"] > 4_800
    assert kinds["InsufficientQuotaError"] == len(sim.ledger) - 80
    assert set(kinds) == {"EmbeddingAnswer", "CircuitOpenError", "InsufficientQuotaError"}
    # Those that were on the wire when the first refusal came, and not one after it.
    assert transport.sent_when_spent == 0
    assert max(transport.asked.values()) == 1


async def test_hedges_cut_the_slowest_answers_and_are_counted():
    """Without hedges every twentieth answer would take an hour."""
    texts = [f"text {i}" for i in range(300)]
    transport = Watched(delayed=texts[7::20])
    # Each success pays for one: also where a busy machine is slow by itself, none has to wait.
    policy = RetryPolicy(hedge=Hedge(0.1), budget=RetryBudget(ratio=1.0))
    record = CallRecord()
    with Simulator(faults=Faults(delay=3600.0)) as sim:
        provider = embedding_provider(
            MODEL, api_key="any", base_url=sim.base_url, transport=transport
        )
        await provider.open()
        async with asyncio.timeout(300):
            for text in texts:
                answer = await policy.call(lambda text=text: provider.embed([text]), record=record)
                assert answer.vectors[0].tobytes() == vector(text, 1536).tobytes()
        await provider.aclose()
    assert record.hedges >= record.hedges_won >= len(transport.delayed) == 15
    assert record.sent == 300 + record.hedges == transport.asked.total()


async def test_a_job_reports_its_hedges_and_waits_for_the_budget(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    budget = RetryBudget(ratio=1.0, rate=20.0)
    policy = RetryPolicy(**QUICK, hedge=Hedge(0.05), budget=budget)
    # Nothing is paid for when the first requests fail: they wait a twentieth of a second each.
    faults = Faults({"503": 0.3, "delay": 0.2}, seed=5, delay=0.3, retry_after=0.001)
    with Simulator(faults=faults) as sim:
        async with Embedder(
            MODEL,
            api_key="any",
            base_url=sim.base_url,
            retry=policy,
            batch_size=1,
            limits=Limits(max_in_flight=10),
        ) as embedder:
            report = await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
    assert report.errors == []
    assert report.hedges > 0
    assert report.budget_wait > 0
    assert report.requests == 40 + report.retries + report.hedges == len(sim.ledger)
