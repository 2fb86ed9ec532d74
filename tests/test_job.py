"""Jobs from Python: what is sent, what is written, what is reported, what is refused."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from passing import hold
from tollway import Document, Embedder, Limits, RetryPolicy, embed_job
from tollway.embed import Progress, plan
from tollway.embed.checkpoint import Checkpoint
from tollway.embed.job import embed_job_async
from tollway.errors import (
    CheckpointError,
    ContextWindowError,
    InputError,
    RequestTooLargeError,
)
from tollway.simulator import Simulator, digest, vector
from tollway.transport import NativeTransport

MODEL = "openai/text-embedding-3-small"


@pytest.fixture
def sim():
    with Simulator() as sim:
        yield sim


@pytest.fixture
def output(tmp_path):
    return tmp_path / "vectors.npy"


def embedder_of(sim, **options):
    given = {"api_key": "any", "dimensions": 8, "batch_size": 4, **options}
    return Embedder(MODEL, base_url=sim.base_url, **given)


def job(source, output, embedder, **options):
    try:
        return embed_job(source, output, embedder, **options)
    finally:
        embedder.aclose_sync()


def right(texts, dimensions=8):
    return np.stack([vector(text, dimensions) for text in texts]).tobytes()


def index_of(output):
    path = output.with_name(f"{output.stem}.index.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked(records):
    return sorted(text for record in records for text in record.digests)


# What comes out


def test_documents_become_rows_and_an_index(sim, output):
    documents = [
        Document("a", "one", {"lang": "en", "n": [1]}),
        Document("b", "two"),
        Document("한", "셋 \ud800", {"이름": "값"}),
        Document("a", "one"),
    ]
    report = job(documents, output, embedder_of(sim))
    assert np.load(output).tobytes() == right(["one", "two", "셋 \ufffd", "one"])
    assert index_of(output) == [
        {"row": 0, "id": "a", "metadata": {"lang": "en", "n": [1]}},
        {"row": 1, "id": "b"},
        {"row": 2, "id": "한", "metadata": {"이름": "값"}},
        {"row": 3, "id": "a"},
    ]
    assert (report.output, report.texts, report.dimensions) == (output, 4, 8)
    assert (report.distinct, report.reused, report.requests) == (3, 0, 1)
    assert (report.retries, report.rate_limited, report.errors) == (0, 0, [])
    assert (report.hedges, report.budget_wait) == (0, 0.0)
    assert report.usage.input_tokens == sim.ledger.tokens()
    assert report.cost is None


def test_an_index_is_json_for_strict_readers_too(sim, output):
    values = {"n": float("nan"), "list": [1.5, (float("inf"), None)], "in": {"x": -float("inf")}}
    job([Document("a", "text", values), Document("b", "b", {"n": 2.5})], output, embedder_of(sim))
    written = output.with_name("vectors.index.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in written
    assert "Infinity" not in written
    assert [line["metadata"] for line in index_of(output)] == [
        {"n": None, "list": [1.5, [None, None]], "in": {"x": None}},
        {"n": 2.5},
    ]


def test_the_output_can_be_mapped_into_memory(sim, output):
    job([f"t{i}" for i in range(3000)], output, embedder_of(sim, batch_size=None))
    rows = np.load(output, mmap_mode="r")
    assert rows.shape == (3000, 8)
    assert (rows[2999] == vector("t2999", 8)).all()
    del rows
    gc.collect()


def test_equal_texts_are_sent_once_however_far_apart(sim, output):
    texts = [f"t{i % 300}" for i in range(2000)]
    report = job(texts, output, embedder_of(sim))
    assert np.load(output).tobytes() == right(texts)
    assert asked(sim.ledger) == sorted(digest(f"t{i}") for i in range(300))
    assert (report.texts, report.distinct) == (2000, 300)


def test_empty_texts_are_listed_and_not_sent(sim, output):
    report = job(["a", " \n", "b", ""], output, embedder_of(sim))
    rows = np.load(output)
    assert rows[[0, 2]].tobytes() == right(["a", "b"])
    assert np.isnan(rows[[1, 3]]).all()
    assert [(error.id, error.error) for error in report.errors] == [
        ("1", "the text is empty; nothing was sent"),
        ("3", "the text is empty; nothing was sent"),
    ]
    assert asked(sim.ledger) == sorted(map(digest, "ab"))


def test_only_what_is_new_is_sent(sim, output):
    first = [f"t{i}" for i in range(600)]
    job(first, output, embedder_of(sim))
    before = len(sim.ledger)
    second = ["new", *reversed(first), "newer", "t3"]
    report = job(second, output, embedder_of(sim))
    assert asked(sim.ledger[before:]) == sorted([digest("new"), digest("newer")])
    assert (report.texts, report.distinct, report.reused) == (603, 602, 600)
    assert np.load(output).tobytes() == right(second)
    # Fewer texts than before leave the rows of the others for another time.
    third = job(first[:5], output, embedder_of(sim))
    assert (third.distinct, third.reused, third.requests) == (5, 5, 0)
    assert np.load(output).tobytes() == right(first[:5])


def test_progress_goes_up_to_the_end(sim, output):
    seen: list[Progress] = []
    texts = [f"t{i % 90}" for i in range(1000)]
    for run in range(2):
        seen.clear()
        job(texts, output, embedder_of(sim), on_progress=seen.append)
        assert [p.texts for p in seen] == sorted(p.texts for p in seen)
        assert (seen[-1].texts, seen[-1].total) == (1000, 1000)
        assert (seen[-1].tally.texts, seen[-1].cost) == (90 * (run == 0), None)


def test_progress_goes_on_while_no_answer_comes(output):
    seen: list[tuple[int, int]] = []
    with Simulator(latency=2.5) as sim:
        job(
            ["a"],
            output,
            embedder_of(sim),
            on_progress=lambda progress: seen.append((progress.tally.sent, progress.texts)),
        )
    # At least once more between the request and its answer.
    assert (1, 0) in seen
    assert seen[-1] == (1, 1)


def test_progress_says_why_no_answer_comes(sim, output):
    class Unreachable(NativeTransport):
        is_up = False

        async def embed(self, url, *arguments, **options):
            address = url if self.is_up else "http://127.0.0.1:1/v1/embeddings"
            self.is_up = True
            return await super().embed(address, *arguments, **options)

    seen: list[str | None] = []
    waiting = RetryPolicy(max_retries=1, base_delay=1.5, jitter="none", budget=None)
    job(
        ["a"],
        output,
        embedder_of(sim, transport=Unreachable(), retry=waiting),
        on_progress=lambda progress: seen.append(progress.tally.retrying),
    )
    reason = (
        "APIConnectionError: http://127.0.0.1:1/v1/embeddings: 127.0.0.1:1 could not be reached"
    )
    assert [why for why in seen if why is not None and why.startswith(reason)]
    assert seen[-1] is None


def test_a_progress_function_that_fails_ends_the_job(sim, output):
    def fail(progress):
        if progress.texts:
            raise ArithmeticError("in the caller's own function")

    with pytest.raises(ArithmeticError, match="caller's own"):
        job(["a"], output, embedder_of(sim), on_progress=fail)
    # The row is kept all the same.
    assert job(["a"], output, embedder_of(sim)).requests == 0


def test_a_generator_of_texts_has_no_total(sim, output):
    seen: list[Progress] = []
    report = job((f"t{i}" for i in range(10)), output, embedder_of(sim), on_progress=seen.append)
    assert report.texts == 10
    assert {p.total for p in seen} == {None}


def test_a_model_whose_dimension_is_not_known(output):
    with Simulator(dimensions=12) as sim:
        embedder = Embedder(MODEL, base_url=sim.base_url, api_key="any", dimensions=12)
        embedder.provider.rules = type(embedder.provider.rules)()
        embedder._dimensions = None
        report = job(["a", "b"], output, embedder)
    assert report.dimensions == 12
    assert np.load(output).tobytes() == right(["a", "b"], 12)


async def test_one_loop_goes_on_while_a_job_reads(sim, output):
    """A long stretch of texts that are there already does not hold up other tasks."""
    texts = ["same"] * 200_000
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with embedder_of(sim) as embedder:
        await embed_job_async(texts, output, embedder)
    counting.cancel()
    assert turns > 500


async def test_a_cancelled_job_keeps_what_was_answered(output):
    texts = [f"t{i}" for i in range(200)]
    with Simulator(latency=0.02) as sim:
        limits = Limits(max_in_flight=2)
        async with embedder_of(sim, limits=limits) as embedder:
            task = asyncio.create_task(embed_job_async(texts, output, embedder))
            while len(sim.ledger) < 10:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not output.exists()
            report = await embed_job_async(texts, output, embedder)
    assert report.reused >= 8 * 4
    assert sum(sim.ledger.answered_counts().values()) <= 200 + 2 * 4
    assert np.load(output).tobytes() == right(texts)


# What is refused


def refused(error, source, output, embedder, sim, **reading):
    with pytest.raises(error) as caught:
        job(source, output, embedder, **reading)
    assert len(sim.ledger) == 0
    return str(caught.value)


async def test_a_job_cancelled_while_its_folder_opens_leaves_it_free(sim, output, monkeypatch):
    """Opening checks what the disk may have lost: seconds, where power was."""
    begun, free, opened = threading.Event(), threading.Event(), threading.Event()

    class Slow(Checkpoint):
        def __init__(self, *args):
            begun.set()
            free.wait(30)
            super().__init__(*args)
            opened.set()

    with monkeypatch.context() as patched:
        patched.setattr("tollway.embed.job.Checkpoint", Slow)
        async with embedder_of(sim) as embedder:
            running = asyncio.create_task(embed_job_async(["a", "b"], output, embedder))
            assert await asyncio.to_thread(begun.wait, 30)
            running.cancel()
            asyncio.get_running_loop().call_later(0.05, free.set)
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await asyncio.to_thread(opened.wait, 30)
    async with embedder_of(sim) as embedder:
        assert (await embed_job_async(["a", "b"], output, embedder)).texts == 2


def test_no_text_at_all(sim, output, tmp_path):
    for source in ([], iter(())):
        message = refused(InputError, source, output, embedder_of(sim), sim)
        assert "holds no text; nothing was sent" in message
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    assert "empty.txt holds no text" in refused(InputError, empty, output, embedder_of(sim), sim)
    assert not output.exists()


@pytest.mark.parametrize("item", [3, None, b"bytes", ("id", "text")])
def test_what_is_no_text(sim, output, item):
    with pytest.raises(TypeError, match="item 1 must be a str or a Document"):
        job(["a", item], output, embedder_of(sim))
    with pytest.raises(TypeError, match="split are for files"):
        job(["a"], output, embedder_of(sim), split="line")


def test_outputs_that_cannot_be(sim, tmp_path):
    def refuse(output):
        return refused(CheckpointError, ["a"], output, embedder_of(sim), sim)

    assert "must end in .npy" in refuse(tmp_path / "vectors.bin")
    (tmp_path / "folder.npy").mkdir()
    assert "folder.npy: it is a folder" in refuse(tmp_path / "folder.npy")
    (tmp_path / "a.index.jsonl").mkdir()
    assert "a.index.jsonl: it is a folder" in refuse(tmp_path / "a.npy")
    (tmp_path / "file").write_text("x")
    assert "cannot write" in refuse(tmp_path / "file" / "vectors.npy")
    assert "cannot write" in refuse(tmp_path / ("x" * 300 + ".npy"))


def test_a_long_text_is_named_before_anything_is_sent_or_cut_and_listed(sim, output, tmp_path):
    long = "word " * 9_000
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("short")
    (folder / "b.txt").write_text(long)
    strict = embedder_of(sim, too_long="error")
    message = refused(ContextWindowError, folder, output, strict, sim)
    assert message.startswith("b.txt has 9")
    report = job(folder, output, embedder_of(sim))
    assert report.truncated == ["b.txt"]
    cut = embedder_of(sim).encoding.truncate(long, 8191)
    assert np.load(output).tobytes() == right(["short", cut])


def test_a_long_text_far_down_keeps_what_was_done(sim, output):
    texts = [f"t{i}" for i in range(2000)] + ["word " * 9_000]
    with pytest.raises(ContextWindowError, match="2000 has 9"):
        job(texts, output, embedder_of(sim, too_long="error"))
    before = len(sim.ledger)
    assert 0 < before <= 500
    report = job(texts[:2000], output, embedder_of(sim, too_long="error"))
    assert report.reused > 0
    assert np.load(output).tobytes() == right(texts[:2000])


def test_a_text_over_the_whole_quota(sim, output):
    embedder = embedder_of(sim, limits=Limits(tpm=50))
    message = refused(RequestTooLargeError, ["a", "word " * 100], output, embedder, sim)
    assert "1 has 10" in message
    assert "more than the whole quota of 50 tokens a minute" in message


def test_rows_of_another_model_or_dimension(sim, output):
    job(["a"], output, embedder_of(sim))
    before, kept = len(sim.ledger), output.read_bytes()
    with pytest.raises(CheckpointError, match="keeps rows of 8 dimensions, not 16"):
        job(["a"], output, embedder_of(sim, dimensions=16))
    other = Embedder("openai/text-embedding-3-large", base_url=sim.base_url, api_key="any")
    with pytest.raises(CheckpointError, match="not openai/text-embedding-3-large"):
        job(["a"], output, other)
    assert len(sim.ledger) == before
    assert output.read_bytes() == kept


async def test_a_second_job_on_the_same_output(output):
    with Simulator() as sim:
        refused = threading.Event()
        hold(sim, lambda _: asyncio.to_thread(refused.wait, 30))
        async with embedder_of(sim) as embedder:
            first = asyncio.create_task(embed_job_async(["a"], output, embedder))
            kept = output.with_name("vectors.npy.job") / "rows.sqlite"
            while not kept.exists():  # noqa: ASYNC110 - another thread makes it
                await asyncio.sleep(0.001)
            with pytest.raises(CheckpointError, match=rf"another process \(pid {os.getpid()}\)"):
                await embed_job_async(["b"], output, embedder)
            refused.set()
            await first
    assert np.load(output).tobytes() == right(["a"])


# Disks


def test_an_output_that_cannot_be_replaced_keeps_every_row(sim, output, monkeypatch):
    job(["a"], output, embedder_of(sim))
    before, kept = len(sim.ledger), output.read_bytes()

    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(CheckpointError, match="No space left on device; every finished row"):
            job(["a", "b"], output, embedder_of(sim))
    assert output.read_bytes() == kept
    assert not list(output.parent.glob(".*"))
    assert len(sim.ledger) == before + 1
    assert job(["a", "b"], output, embedder_of(sim)).reused == 2
    assert len(sim.ledger) == before + 1


LIMITED = """
import resource, sys
# A file over the limit fails to grow, as on a disk that is full.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from tollway.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("size", [8 << 10, 40 << 10, 1 << 20])
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_file_system_without_room(tmp_path, size, kind):
    import commands  # noqa: PLC0415

    output = tmp_path / f"vectors.{kind}"
    docs = tmp_path / "docs.txt"
    texts = [f"line {i} of a job without room" for i in range(400)]
    docs.write_text("\n".join(texts))
    with Simulator() as sim:
        arguments = [docs, output, "--split", "line", "--batch-size", 8]
        arguments += ["--model", MODEL, "--base-url", sim.base_url]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(size), "embed", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=commands.environment(),
        )
        assert done.returncode == 1, done.stderr
        assert "tollway: CheckpointError: cannot write" in done.stderr
        assert "finished rows are kept" in done.stderr
        assert "Traceback" not in done.stderr
        assert "delete" not in done.stderr
        code, _, err = commands.run("embed", *arguments)
        assert code == 0, err
    if kind == "npy":
        assert np.load(output).tobytes() == right(texts, 1536)
    else:
        vectors = pq.read_table(output)["vector"].combine_chunks()
        assert vectors.flatten().to_numpy().tobytes() == right(texts, 1536)


# Plans


def test_a_plan_says_what_the_job_then_does(sim, output, tmp_path):
    docs = tmp_path / "docs.txt"
    docs.write_text("\n".join(f"line {i % 150}" for i in range(200)))
    embedder = embedder_of(sim)
    planned = plan(docs, embedder, split="line")
    assert len(sim.ledger) == 0
    report = job(docs, output, embedder, split="line")
    assert (planned.texts, planned.distinct) == (report.texts, report.distinct) == (200, 150)
    assert planned.tokens == report.usage.input_tokens
    assert planned.requests == report.requests
    assert planned.exact
    docs.write_text("\n")
    with pytest.raises(InputError, match="holds no text"):
        plan(docs, embedder, split="line")
