"""Embeddings in batches: the same rows, checks and job folder, at half the price."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
import time

import numpy as np
import pytest

import commands
from chat_fakes import Submitted
from tollway import BatchOptions, Embedder, RetryPolicy
from tollway.embed import embed_job_async
from tollway.embed.plan import plan_async
from tollway.errors import (
    BudgetExceededError,
    CheckpointError,
    ConfigurationError,
    RequestTooLargeError,
    RetriesExhaustedError,
)
from tollway.simulator import BatchBehaviour, Faults, Simulator, digest, vector

D = 8
TEXTS = [f"text {i}" for i in range(20)]
SOON = BatchOptions(poll=0.01, longest_poll=0.05, settling=0.2)
FAST = RetryPolicy(max_retries=10, base_delay=0.001, max_delay=0.01)


def of(sim, **options):
    given = {"base_url": sim.base_url, "api_key": "k", "dimensions": D, "retry": FAST}
    return Embedder(commands.SMALL, **{**given, **options})


def listed(embedder):
    """The embedder, at the list's prices."""
    provider = embedder.provider
    provider.rules = dataclasses.replace(provider.rules, price="listed")
    return embedder


def simulated(**behaviour):
    return Simulator(batches=BatchBehaviour(**behaviour))


def expected(texts):
    return np.stack([vector(text, D) for text in texts])


async def test_rows_are_where_they_belong():
    async with simulated(seconds=0.05) as sim, of(sim) as embedder:
        texts = [*TEXTS, TEXTS[3], TEXTS[3]]
        small = dataclasses.replace(SOON, max_requests=8)
        vectors = await embedder.embed(texts, mode="batch", batch=small)
        assert (vectors == expected(texts)).all()
        assert vectors.dtype == np.float32
        assert sim.batches == 3
        assert (await embedder.embed([], mode="batch", batch=SOON)).shape == (0, D)


@pytest.mark.parametrize("fault", ["nan_row", "null_row", "missing_row", "500", "429"])
async def test_bad_rows_are_asked_for_again(fault):
    async with simulated(faults=Faults({fault: 0.3}, seed=2)) as sim, of(sim) as embedder:
        assert (await embedder.embed(TEXTS, mode="batch", batch=SOON) == expected(TEXTS)).all()
        assert sim.batches > 1
        assert sim.ledger.answered_counts() == {digest(text): 1 for text in TEXTS}


async def test_rows_that_never_come_are_named():
    async with simulated(faults=Faults({"nan_row": 1.0})) as sim:
        embedder = of(sim, retry=dataclasses.replace(FAST, max_retries=2))
        with pytest.raises(RetriesExhaustedError, match="row 0") as caught:
            await embedder.embed(TEXTS, mode="batch", batch=SOON)
        assert np.isnan(caught.value.finished).all()
        rows = await embedder.embed(TEXTS, mode="batch", batch=SOON, on_error="nan")
        assert np.isnan(rows).all()
        await embedder.aclose()
        assert sim.batches == 6


async def test_other_dimensions_than_asked_for_are_refused():
    async with Simulator(dimensions=16) as sim:
        embedder = of(sim, dimensions=None, retry=dataclasses.replace(FAST, max_retries=1))
        with pytest.raises(RetriesExhaustedError, match="dimension"):
            await embedder.embed(TEXTS[:2], mode="batch", batch=SOON)
        await embedder.aclose()


async def test_long_texts_are_averaged_over_one_request():
    long = "words of a long text " * 3000
    async with simulated() as sim, of(sim, too_long="average") as embedder:
        vectors = await embedder.embed([long, "short"], mode="batch", batch=SOON)
        direct = await embedder.embed([long, "short"])
    assert np.allclose(vectors, direct, atol=1e-6)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)


async def test_texts_that_are_equal_once_they_are_cut_are_sent_once():
    long = "words of a long text " * 3000
    async with simulated() as sim, of(sim) as embedder:
        vectors = await embedder.embed([f"{long}one", f"{long}two"], mode="batch", batch=SOON)
        assert (vectors[0] == vectors[1]).all()
        assert sum(record.inputs for record in sim.ledger if record.batch) == 1


async def test_a_text_of_more_than_a_request_fails_alone():
    async with simulated() as sim, of(sim, too_long="average") as embedder:
        endless = "words of an endless text " * 80_000
        with pytest.raises(RequestTooLargeError) as caught:
            await embedder.embed(["short", endless], mode="batch", batch=SOON)
    assert (caught.value.finished[0] == vector("short", D)).all()


# Jobs


async def job(sim, output, texts=TEXTS, *, batch=SOON, embedder=None, **options):
    async with embedder or of(sim) as used:
        return await embed_job_async(texts, output, used, mode="batch", batch=batch, **options)


async def test_a_job_at_half_the_price(tmp_path):
    seen = []
    async with simulated(seconds=0.05) as sim:
        report = await job(
            sim, tmp_path / "v.npy", embedder=listed(of(sim)), on_progress=seen.append
        )
    # https://platform.openai.com/docs/pricing: 0.01 US dollars a million tokens in batches.
    assert report.cost == pytest.approx(report.usage.input_tokens * 0.01 / 1e6)
    assert (report.texts, report.requests, report.usage.requests) == (20, 20, 20)
    assert (np.load(tmp_path / "v.npy") == expected(TEXTS)).all()
    stages = [progress.batches.stage for progress in seen if progress.batches]
    assert stages.index("submitting") < stages.index("waiting") < stages.index("collecting")
    assert seen[-1].batches.finished == 20


async def test_a_job_goes_on_where_it_was(tmp_path):
    output = tmp_path / "v.npy"
    async with simulated(seconds=0.3) as sim:
        submitted = Submitted()
        running = asyncio.create_task(job(sim, output, on_progress=submitted))
        await submitted.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(CheckpointError, match='mode="batch"'):
            async with of(sim) as embedder:
                await embed_job_async(TEXTS, output, embedder)
        later = ["a new one", *reversed(TEXTS)]
        report = await job(sim, output, later)
        assert (np.load(output) == expected(later)).all()
        assert sim.batches == 2
        # With rows kept, the next run sends nothing, in either mode.
        assert (report.texts, report.reused) == (21, 0)
        async with of(sim) as embedder:
            again = await embed_job_async(TEXTS, output, embedder)
        assert (again.reused, again.requests) == (20, 0)
        assert sim.ledger.answered_counts() == {digest(text): 1 for text in later}


async def test_what_is_refused_is_listed(tmp_path):
    async with simulated(faults=Faults({"insufficient_quota": 0.2}, seed=4)) as sim:
        report = await job(sim, tmp_path / "v.npy")
    assert 0 < len(report.errors) < 20
    assert all("InsufficientQuotaError" in error.error for error in report.errors)
    rows = np.isnan(np.load(tmp_path / "v.npy")).any(axis=1)
    assert rows.sum() == len(report.errors)


async def test_a_ceiling_on_cost_keeps_what_is_paid_for(tmp_path):
    async with simulated(seconds=0.05) as sim:
        embedder = listed(of(sim))
        cost = embedder.cost(sum(map(embedder.encoding.count, TEXTS)), batch=True)
        embedder.max_cost = cost * 0.7
        small = dataclasses.replace(SOON, max_requests=5)
        with pytest.raises(BudgetExceededError):
            await job(sim, tmp_path / "v.npy", embedder=embedder, batch=small)
        assert sim.batches == 2
        report = await job(sim, tmp_path / "v.npy")
        assert report.reused == 10
        assert sim.ledger.answered_counts() == {digest(text): 1 for text in TEXTS}


async def test_what_cannot_be(tmp_path):
    async with simulated() as sim, of(sim) as embedder:
        with pytest.raises(ConfigurationError, match="direct or batch"):
            await embedder.embed(["a"], mode="bulk")
        with pytest.raises(ConfigurationError, match="direct or batch"):
            await embed_job_async(["a"], tmp_path / "v.npy", embedder, mode="bulk")
        with pytest.raises(ConfigurationError, match="direct or batch"):
            await plan_async(["a"], embedder, mode="bulk")

    def unread():
        raise AssertionError("nothing is to be read for a job that cannot be")
        yield

    async with Embedder("ollama/any") as other:
        with pytest.raises(ConfigurationError, match="openai"):
            await other.embed(["a"], mode="batch")
        with pytest.raises(ConfigurationError, match="openai"):
            await plan_async(unread(), other, mode="batch")
        with pytest.raises(ConfigurationError, match="openai"):
            await embed_job_async(unread(), tmp_path / "v.npy", other, mode="batch")
    assert not list(tmp_path.iterdir())
    azure = Embedder("azure/any", azure_endpoint="http://127.0.0.1:9", api_key="k")
    with pytest.raises(ConfigurationError, match="openai"):
        await azure.embed(["a"], mode="batch")
    await azure.aclose()


# The command line


def command(sim, docs, output, *more):
    model = ("--model", commands.SMALL, "--base-url", sim.base_url, "--dimensions", D)
    return [docs, output, *model, "--split", "line", "--mode", "batch", *more]


def test_from_a_shell(tmp_path):
    docs, output = tmp_path / "docs.txt", tmp_path / "v.npy"
    docs.write_text("\n".join(TEXTS), encoding="utf-8")
    with Simulator() as sim:
        arguments = command(sim, docs, output, "--json")
        # Its first look comes ten seconds after the submission.
        code, out, err = commands.run("embed", *arguments)
        assert code == 0, err
    assert (json.loads(out)["requests"], sim.batches) == (20, 1)
    assert (np.load(output) == expected(TEXTS)).all()
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines[-1]["batches"]["submitted"] == 20


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_says_that_batches_go_on(tmp_path):
    docs, output = tmp_path / "docs.txt", tmp_path / "v.npy"
    docs.write_text("\n".join(TEXTS), encoding="utf-8")
    with simulated(seconds=600) as sim:
        with commands.start("embed", *command(sim, docs, output)) as process:
            while not sim.batches:
                assert process.poll() is None
                time.sleep(0.01)
            while not list((tmp_path / "v.npy.job" / "batches").glob("*.json")):
                time.sleep(0.01)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        (batch,) = sim._store.batches
        assert batch in err
        assert "go on" in err
        assert "Traceback" not in err


def test_plan_of_a_batch(tmp_path):
    docs = tmp_path / "docs.txt"
    docs.write_text("\n".join(TEXTS), encoding="utf-8")
    model = ("--model", commands.SMALL, "--split", "line", "--json")
    direct = json.loads(commands.run("plan", docs, *model)[1])
    batch = json.loads(commands.run("plan", docs, *model, "--mode", "batch")[1])
    assert batch["cost"] == pytest.approx(direct["cost"] / 2)
    assert (batch["requests"], batch["seconds"]) == (20, 0.0)
    text = commands.run("plan", docs, *model[:-1], "--mode", "batch")[1]
    assert "within a day" in text
