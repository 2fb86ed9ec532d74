"""The simulator fails in every way at once: each row is right all the same, and none is missing."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
import pytest

from polling import until
from tollway import Embedder, Limits, RetryPolicy, embed_job
from tollway.embed.job import embed_job_async
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    CircuitOpenError,
    InsufficientQuotaError,
    RetriesExhaustedError,
)
from tollway.simulator import FAULTS, Faults, Simulator, vector
from tollway.simulator.faults import applies
from tollway.transport import HttpxTransport, Response

MODEL = "openai/text-embedding-3-small"
# Without a budget, which would delay so many retries for seconds.
QUICK = RetryPolicy(base_delay=0.001, max_delay=0.01, seed=3, budget=None)
# All but the one that no retry cures.
EVERY = {name: 0.02 for name in FAULTS if name != "insufficient_quota" and applies(name, rows=2)}


def texts_of(count, prefix="text"):
    return [f"{prefix} {i} of a job with faults" for i in range(count)]


def right(texts, dimensions=1536):
    return np.stack([vector(text, dimensions) for text in texts]).tobytes()


def embedder_of(sim, **options):
    given = {"retry": QUICK, "batch_size": 4, "api_key": "any", **options}
    return Embedder(MODEL, base_url=sim.base_url, **given)


async def requests_of(sim):
    """The requests that arrived, once those in flight when a caller gave up are written down."""
    seen = -1
    while seen != len(sim.ledger):
        seen = len(sim.ledger)
        await asyncio.sleep(0.3)
    return seen


def faulty(**rates):
    return Faults(rates or EVERY, seed=11, delay=0.02, retry_after=0.01)


def assert_each_fault_happened(ledger):
    assert {record.fault for record in ledger} == {None, *EVERY}
    share = sum(record.fault is not None for record in ledger) / len(ledger)
    assert 0.15 < share < 0.3


@pytest.mark.parametrize("batch_size", [1, 4, None])
async def test_embed_under_every_fault(batch_size):
    texts = texts_of({1: 300, 4: 1200, None: 20_000}[batch_size])
    with Simulator(faults=faulty(), dimensions=16) as sim:
        async with embedder_of(sim, batch_size=batch_size, dimensions=16) as embedder:
            vectors = await embedder.embed(texts)
    assert vectors.tobytes() == right(texts, 16)
    if batch_size == 4:
        assert_each_fault_happened(sim.ledger)


def test_a_job_under_every_fault(tmp_path):
    texts = texts_of(1200)
    with Simulator(faults=faulty()) as sim:
        embedder = embedder_of(sim)
        report = embed_job(texts, tmp_path / "vectors.npy", embedder)
        embedder.aclose_sync()
    assert np.load(tmp_path / "vectors.npy").tobytes() == right(texts)
    assert report.errors == []
    assert (report.texts, report.distinct, report.reused) == (1200, 1200, 0)
    assert_each_fault_happened(sim.ledger)
    refused = sum(record.status == 429 for record in sim.ledger)
    assert report.requests == len(sim.ledger)
    assert (report.rate_limited, report.retries) == (refused, len(sim.ledger) - 300)
    # No text is asked for again once it had a right answer.
    assert set(sim.ledger.answered_counts().values()) == {1}


class Spoiled(HttpxTransport):
    """The simulator, but for one text whose embedding is always null, and those it refuses."""

    def __init__(self, null=(), refused=()):
        super().__init__()
        self.null, self.refused = null, refused
        self.asked = []

    async def send(self, request):
        texts = json.loads(request.body)["input"]
        self.asked.append(texts)
        if set(texts) & set(self.refused):
            return Response(400, {}, b'{"error": {"message": "I do not like this text"}}')
        answer = await super().send(request)
        body = json.loads(answer.body)
        for row in body.get("data", ()):
            if texts[row["index"]] in self.null:
                row["embedding"] = None
        return Response(answer.status, answer.headers, json.dumps(body).encode())


async def test_a_text_that_never_gets_its_row(tmp_path):
    texts = texts_of(40)
    bad, output = texts[17], tmp_path / "vectors.npy"
    policy = RetryPolicy(max_retries=2, base_delay=0, budget=None)
    with Simulator() as sim:
        for run in range(3):
            transport = Spoiled(null=[bad] if run < 2 else [])
            async with embedder_of(sim, transport=transport, retry=policy) as embedder:
                report = await embed_job_async(texts, output, embedder)
            vectors = np.load(output)
            good = [text for text in texts if text != bad]
            assert np.delete(vectors, 17, axis=0).tobytes() == right(good)
            if run == 2:
                break
            assert np.isnan(vectors[17]).all()
            (error,) = report.errors
            assert error.id == "17"
            assert "RetriesExhaustedError: 3 attempts failed" in error.error
            assert "null" in error.error
            # The others of its request are not asked for again.
            alone = [asked for asked in transport.asked if bad in asked]
            assert alone[-2:] == [[bad], [bad]]
            if run == 1:
                assert transport.asked == [[bad]] * 3
                assert report.reused == 39
    assert transport.asked == [[bad]]
    assert vectors.tobytes() == right(texts)
    assert (report.errors, report.reused) == ([], 39)


async def test_embed_raises_with_the_finished_rows_or_fills_in_nan():
    texts = texts_of(10)
    policy = RetryPolicy(max_retries=1, base_delay=0)
    with Simulator() as sim:
        transport = Spoiled(null=[texts[6]])
        async with embedder_of(sim, transport=transport, retry=policy) as embedder:
            with pytest.raises(RetriesExhaustedError) as caught:
                await embedder.embed([*texts, texts[0], texts[6]])
            filled = await embedder.embed([*texts, texts[0], texts[6]], on_error="nan")
            alone = await embedder.embed([texts[6]], on_error="nan")
    assert isinstance(caught.value.__cause__, BadResponseError)
    for rows in (caught.value.finished, filled):
        assert rows.shape == (12, 1536)
        assert np.isnan(rows[[6, 11]]).all()
        assert np.delete(rows, [6, 11], axis=0).tobytes() == right(
            [*texts[:6], *texts[7:], texts[0]]
        )
    assert alone.shape == (1, 1536)
    assert np.isnan(alone).all()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 128])
@pytest.mark.parametrize("where", [0, 0.5, 1])
async def test_a_text_that_the_provider_refuses_is_found(tmp_path, count, where):
    """By halving its request: at most 2·log2 n requests more, and the others are embedded."""
    texts = texts_of(count + 1)
    bad = texts[1 + int(where * (count - 1))]
    output = tmp_path / "vectors.npy"
    with Simulator() as sim:
        transport = Spoiled(refused=[bad])
        limits = Limits(max_in_flight=1)
        options = {"dimensions": 8, "transport": transport, "limits": limits, "batch_size": count}
        async with embedder_of(sim, **options) as embedder:
            # Something works, so that a refusal is about the text.
            await embed_job_async(texts[:1], output, embedder)
            report = await embed_job_async(texts, output, embedder)
            assert [error.id for error in report.errors] == [str(texts.index(bad))]
            assert "BadRequestError: 400: I do not like this text" in report.errors[0].error
            good = [text for text in texts if text != bad]
            rows = np.load(output)
            assert rows[[text != bad for text in texts]].tobytes() == right(good, 8)
            assert np.isnan(rows[texts.index(bad)]).all()
            assert len(transport.asked) - 2 <= 2 * math.ceil(math.log2(count))
            assert report.requests == len(transport.asked) - 1
            # Only the refused text is asked for again.
            report = await embed_job_async(texts, output, embedder)
            assert transport.asked[-1] == [bad]
            assert (report.requests, len(report.errors)) == (1, 1)


async def test_a_refused_text_is_found_in_the_first_request_of_all(tmp_path):
    texts = texts_of(24)
    with Simulator() as sim:
        transport = Spoiled(refused=[texts[2], texts[5], texts[21]])
        async with embedder_of(sim, transport=transport, batch_size=8) as embedder:
            with pytest.raises(BadRequestError) as caught:
                await embedder.embed(texts)
            finished = caught.value.finished
            output = tmp_path / "vectors.npy"
            report = await embed_job_async(texts, output, embedder)
            assert [error.id for error in report.errors] == ["2", "5", "21"]
            assert np.load(output).tobytes() == finished.tobytes()
            assert np.isnan(finished).any(axis=1).nonzero()[0].tolist() == [2, 5, 21]
            # Where it is all of them, the error is raised before each has been asked for alone.
            transport.refused, transport.asked = set(texts), []
            with pytest.raises(BadRequestError):
                await embed_job_async(texts, tmp_path / "other.npy", embedder)
    assert len(transport.asked) <= 3 + 2 * 3
    assert not (tmp_path / "other.npy").exists()


class Slow(HttpxTransport):
    """The simulator, but the first request is refused for good while others are on the wire."""

    def __init__(self, others):
        super().__init__()
        self.others = others
        self.is_refused = lambda: False
        self.count = self.answered = 0

    async def send(self, request):
        self.count += 1
        if self.count == 1:
            await until(lambda: self.answered == self.others)
            return Response(401, {}, b'{"error": {"message": "no such key"}}')
        answer = await super().send(request)
        self.answered += 1
        await until(self.is_refused)
        # What the refusal ends has ended by then.
        await asyncio.sleep(0.1)
        return answer


async def test_what_is_on_the_wire_when_a_job_fails_is_kept(tmp_path):
    texts = texts_of(40)
    output = tmp_path / "vectors.npy"
    with Simulator() as sim:
        transport, limits = Slow(others=4), Limits(max_in_flight=5)
        async with embedder_of(sim, transport=transport, limits=limits) as embedder:
            transport.is_refused = lambda: embedder.breaker.state == "open"
            with pytest.raises(AuthenticationError, match="no such key"):
                await embed_job_async(texts, output, embedder)
            assert len(sim.ledger) == 4
            embedder.breaker.reset()
            transport.count = transport.answered = 0
            with pytest.raises(AuthenticationError) as caught:
                await embedder.embed(texts)
            assert np.isfinite(caught.value.finished).all(axis=1).sum() == 16
            embedder.breaker.reset()
            transport.is_refused = lambda: True
            report = await embed_job_async(texts, output, embedder)
    assert report.reused == 16
    assert np.load(output).tobytes() == right(texts)


async def test_a_spent_quota_stops_a_job_at_once_and_the_next_goes_on(tmp_path):
    texts = texts_of(400)
    output = tmp_path / "vectors.npy"
    with Simulator(credit_requests=20, latency=0.01) as sim:
        limits = Limits(max_in_flight=5)
        async with embedder_of(sim, limits=limits) as embedder:
            with pytest.raises(InsufficientQuotaError):
                await embed_job_async(texts, output, embedder)
            # One request learnt of it; no more than those in flight were on their way.
            sent = await requests_of(sim)
            assert 20 < sent <= 20 + 5
            with pytest.raises(CircuitOpenError) as refused:
                await embedder.embed(texts)
            assert isinstance(refused.value.__cause__, InsufficientQuotaError)
            assert refused.value.finished.shape == (400, 1536)
            assert await requests_of(sim) == sent
            embedder.breaker.reset()
            with pytest.raises(InsufficientQuotaError) as caught:
                await embedder.embed(texts)
            assert caught.value.finished.shape == (400, 1536)
            assert await requests_of(sim) <= sent + 5
    assert not output.exists()
    paid = sim.ledger.answered_counts()
    assert len(paid) == 80
    with Simulator() as sim:
        async with embedder_of(sim) as embedder:
            report = await embed_job_async(texts, output, embedder)
    assert np.load(output).tobytes() == right(texts)
    # What was on the wire when the quota was found spent was finished: nothing is paid for twice.
    assert report.reused == 80
    assert not set(sim.ledger.answered_counts()) & set(paid)


async def test_a_server_that_is_down_is_an_error_even_after_rows_from_before(tmp_path):
    texts = texts_of(8)
    output = tmp_path / "vectors.npy"
    policy = RetryPolicy(max_retries=1, base_delay=0)
    with Simulator() as sim:
        async with embedder_of(sim) as embedder:
            await embed_job_async(texts[:4], output, embedder)
        before, address = output.read_bytes(), sim.base_url
    # The simulator has stopped: nobody listens at its address any more.
    async with Embedder(MODEL, base_url=address, api_key="any", retry=policy) as embedder:
        with pytest.raises(RetriesExhaustedError, match="could not be reached"):
            await embed_job_async(texts, output, embedder)
    assert output.read_bytes() == before
