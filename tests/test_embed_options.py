"""What an embedder does beside sending: long texts, prompts, queries, lengths, dtypes, packing."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

import corpora
from tollway import Embedder, Limits, embed_job
from tollway.embed import embed_job_async, embed_stream, plan
from tollway.embed.packing import Packer
from tollway.errors import (
    BadRequestError,
    ConfigurationError,
    ContextWindowError,
    RequestTooLargeError,
)
from tollway.providers import EmbeddingRules
from tollway.simulator import Simulator, vector
from tollway.tokens import get_encoding
from tollway.transport import HttpxTransport, Response

MODEL = "openai/text-embedding-3-small"
LONG = " ".join(f"word{i}" for i in range(9_000))


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


def embedder_of(sim, **options):
    given = {"api_key": "any", "dimensions": 16, **options}
    return Embedder(MODEL, base_url=sim.base_url, **given)


def right(texts, dimensions=16):
    return np.stack([vector(text, dimensions) for text in texts])


class Asked(HttpxTransport):
    """Keeps what was sent; refuses a text."""

    def __init__(self, refused=None):
        super().__init__()
        self.refused, self.asked = refused, []

    async def send(self, request):
        texts = json.loads(request.body)["input"]
        self.asked += texts
        if self.refused is not None and any(self.refused in text for text in texts):
            return Response(400, {}, b'{"error": {"message": "I do not like this text"}}')
        return await super().send(request)


# Texts over the window


def mean_of(encoding, text, prompt=""):
    """The definition, over pieces that are given."""
    chunks = [prompt + chunk for chunk in encoding.chunk(text, 8191 - encoding.count(prompt))]
    weights = encoding.count_batch(chunks)
    total = (right(chunks).astype(np.float64) * weights[:, None]).sum(axis=0)
    return (total / np.linalg.norm(total)).astype(np.float32)


@pytest.mark.parametrize("prompt", ["", "passage: "])
@pytest.mark.parametrize("packing", ["balanced", "fewest"])
async def test_long_texts_are_averaged_over_their_chunks(sim, tmp_path, prompt, packing):
    texts = ["short", LONG, "other", LONG * 3, LONG, "last"]
    options = {"too_long": "average", "prompt": prompt, "packing": packing}
    async with embedder_of(sim, **options) as embedder:
        vectors = await embedder.embed(texts)
        encoding = embedder.encoding
        assert encoding.count(LONG) > 8191
    for i in (0, 2, 5):
        assert vectors[i].tobytes() == right([prompt + texts[i]])[0].tobytes()
    for i in (1, 3, 4):
        np.testing.assert_array_equal(vectors[i], mean_of(encoding, texts[i], prompt))
    job = embedder_of(sim, **options)
    report = embed_job(texts, tmp_path / "vectors.npy", job)
    job.aclose_sync()
    assert np.load(tmp_path / "vectors.npy").tobytes() == vectors.tobytes()
    assert (report.truncated, report.errors, report.distinct) == ([], [], 5)


def test_a_change_of_policy_asks_only_for_the_long_texts(sim, tmp_path):
    texts, output = ["short", LONG], tmp_path / "vectors.npy"
    for policy, requests, reused in (("truncate", 1, 0), ("average", 1, 1), ("truncate", 0, 2)):
        embedder = embedder_of(sim, too_long=policy)
        report = embed_job(texts, output, embedder)
        embedder.aclose_sync()
        assert (report.requests, report.reused) == (requests, reused)
    cut = embedder.encoding.truncate(LONG, 8191)
    assert np.load(output).tobytes() == right(["short", cut]).tobytes()


async def test_a_piece_that_is_refused_fails_its_text_alone(sim, tmp_path):
    texts = ["short", LONG + " refused " + LONG, "other", LONG]
    transport = Asked("refused")
    async with embedder_of(sim, too_long="average", transport=transport) as embedder:
        vectors = await embedder.embed(texts, on_error="nan")
        with pytest.raises(BadRequestError, match="I do not like"):
            await embedder.embed(texts)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False, False]
    assert vectors[[0, 2]].tobytes() == right(["short", "other"]).tobytes()
    np.testing.assert_array_equal(vectors[3], mean_of(embedder.encoding, LONG))
    job = embedder_of(sim, too_long="average", transport=Asked("refused"))
    report = embed_job(texts, tmp_path / "vectors.npy", job)
    job.aclose_sync()
    assert [error.id for error in report.errors] == ["1"]
    assert np.load(tmp_path / "vectors.npy").tobytes() == vectors.tobytes()


async def test_a_prompt_that_leaves_no_room(sim):
    async with embedder_of(sim, prompt="word " * 8_190, too_long="average") as embedder:
        with pytest.raises(ConfigurationError, match=r"the prompt has \d+ tokens"):
            await embedder.embed([LONG])
    async with embedder_of(sim, prompt="word " * 9_000, too_long="error") as embedder:
        with pytest.raises(ContextWindowError, match="text 0 has"):
            await embedder.embed(["a"])


# What comes out


async def test_prompts_of_texts_and_queries(sim, tmp_path):
    transport = Asked()
    options = {"prompt": "passage: ", "query_prompt": "query: ", "transport": transport}
    async with embedder_of(sim, **options) as embedder:
        vectors = await embedder.embed(["a", "b", "a"])
        query = await embedder.embed_query("a")
        other = await embedder.embed(["a"])
    assert vectors.tobytes() == right(["passage: a", "passage: b", "passage: a"]).tobytes()
    assert query.shape == (16,)
    assert query.tobytes() == right(["query: a"])[0].tobytes()
    assert other.tobytes() == vectors[:1].tobytes()
    assert transport.asked == ["passage: a", "passage: b", "query: a", "passage: a"]
    # Rows of another prompt are other rows.
    for prompt, requests in (("x: ", 1), ("y: ", 1), ("x: ", 0)):
        embedder = embedder_of(sim, prompt=prompt)
        report = embed_job(["a"], tmp_path / "vectors.npy", embedder)
        assert embedder.embed_query_sync("b").tobytes() == right([f"{prompt}b"])[0].tobytes()
        embedder.aclose_sync()
        assert report.requests == requests
    assert np.load(tmp_path / "vectors.npy").tobytes() == right(["x: a"]).tobytes()


class Scaled(HttpxTransport):
    """The simulator, with vectors of length 3, and one of zeros."""

    async def send(self, request):
        answer = await super().send(request)
        body = json.loads(answer.body)
        for row in body["data"]:
            values = np.array(row["embedding"]) * 3
            row["embedding"] = (values * (row["index"] != 1)).tolist()
        return Response(answer.status, answer.headers, json.dumps(body).encode())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("normalize", [False, True])
async def test_lengths_and_dtypes(sim, tmp_path, dtype, normalize):
    texts = ["a", "zeros", "b"]
    options = {"dtype": dtype, "normalize": normalize, "transport": Scaled()}
    async with embedder_of(sim, **options) as embedder:
        embedder.provider._base64 = False
        vectors = await embedder.embed(texts)
        query = await embedder.embed_query("a")
    assert vectors.dtype == query.dtype == np.dtype(dtype)
    assert vectors.flags.c_contiguous
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, np.array([1, 0, 1]) * (1 if normalize else 3), rtol=1e-3)
    job = embedder_of(sim, dtype=dtype, normalize=normalize, transport=Scaled())
    job.provider._base64 = False
    embed_job(texts, tmp_path / "vectors.npy", job)
    job.aclose_sync()
    rows = np.load(tmp_path / "vectors.npy")
    assert (rows.dtype, rows.tobytes()) == (vectors.dtype, vectors.tobytes())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"packing": "tight"}, "packing must be balanced or fewest, not 'tight'"),
        ({"dtype": "float64"}, "dtype must be float32 or float16, not 'float64'"),
    ],
)
def test_choices_that_there_are_not(sim, options, what):
    with pytest.raises(ConfigurationError, match=what):
        embedder_of(sim, **options)


# Packing


def packed(texts, packing, limits, batch_size=None, group=256):
    """The requests of a job, its texts coming in groups."""
    rules = EmbeddingRules(max_texts=2048, max_request_tokens=300_000, max_text_tokens=8191)
    packer = Packer(lambda: rules, lambda: limits, batch_size, packing)
    from tollway.embed.packing import prepare  # noqa: PLC0415

    batches = []
    for start in range(0, len(texts), group):
        part = texts[start : start + group]
        prepared = prepare(
            list(part),
            get_encoding("cl100k_base"),
            model="m",
            prompt="",
            window=8191,
            quota=None,
            too_long="truncate",
            name=str,
        )
        batches += packer.add(range(start, start + len(part)), prepared)
    return batches + packer.flush()


@pytest.mark.parametrize("split", ["\n\n", "\n", "mixed"])
@pytest.mark.parametrize("limits", [Limits(), Limits(rpm=500, tpm=40_000)])
def test_the_fewest_requests_are_within_two_percent_of_the_bound(split, limits):
    """On every corpus, in paragraphs or lines as they come, and with both in one job."""
    everything = []
    for corpus in corpora.corpora().values():
        if split == "mixed":
            parts = corpus.split("\n") + corpus.split("\n\n")
            random.Random(5).shuffle(parts)
        else:
            parts = corpus.split(split)
        everything.append([part for part in parts if part.strip()][:60_000])
    for texts in everything:
        batches = packed(texts, "fewest", limits)
        assert sorted(key for batch in batches for key in batch.keys) == list(range(len(texts)))
        assert all(len(batch.texts) <= 2048 for batch in batches)
        cap = min(300_000, limits.tpm or 300_000)
        sums = [int(batch.counts.sum()) for batch in batches]
        assert max(sums) <= cap
        bound = max(-(-sum(sums) // cap), -(-len(texts) // 2048))
        assert len(batches) <= math.ceil(1.02 * bound)
        assert all(texts[batch.keys[0]][:50] == batch.texts[0][:50] for batch in batches)


def test_balanced_requests_keep_the_order_and_the_default_size():
    texts = [f"text number {i}" for i in range(1000)]
    batches = packed(texts, "balanced", Limits())
    assert [key for batch in batches for key in batch.keys] == list(range(1000))
    assert [len(batch.texts) for batch in batches] == [128] * 7 + [104]
    sizes = [len(batch.texts) for batch in packed(texts, "fewest", Limits(), batch_size=300)]
    assert (len(sizes), sum(sizes)) == (4, 1000)
    assert max(sizes) <= 300


@pytest.mark.parametrize("packing", ["balanced", "fewest"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_what_is_over_the_whole_quota_and_may_go_alone_does(packing, batch_size):
    texts = ["word " * 30 if i % 7 == 3 else f"text {i}" for i in range(50)]
    limits = Limits(tpm=20, admit_oversized=True)
    batches = packed(texts, packing, limits, batch_size=batch_size)
    assert sorted(key for batch in batches for key in batch.keys) == list(range(50))
    assert all([texts[key] for key in batch.keys] == list(batch.texts) for batch in batches)
    over = [len(batch.texts) for batch in batches if batch.counts.sum() > 20]
    assert over == [1] * len(range(3, 50, 7))


async def test_an_embedder_sends_what_is_over_the_quota_where_the_limits_say_so(sim):
    text = "word " * 50
    async with embedder_of(sim, limits=Limits(tpm=20, admit_oversized=True)) as embedder:
        assert (await embedder.embed([text])).tobytes() == right([text]).tobytes()
        assert embedder.limiter.try_acquire(tokens=1) > 50


async def test_a_text_over_a_quota_that_an_answer_told_fails_by_itself(tmp_path):
    """It was prepared for more, and waited for a request to be full."""
    texts = [*(f"t{i}" for i in range(255)), "word " * 3000, *(f"u{i}" for i in range(9))]
    limits = Limits(rpm=500, tpm=100_000, max_in_flight=1, auto=True)
    with Simulator(rpm=500, tpm=2000) as sim:
        async with embedder_of(sim, limits=limits) as embedder:
            report = await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
    assert [(error.id, error.error[:40]) for error in report.errors] == [
        ("255", "RequestTooLargeError: a request of 3001 ")
    ]
    good = [text for i, text in enumerate(texts) if i != 255]
    assert np.delete(np.load(tmp_path / "vectors.npy"), 255, 0).tobytes() == right(good).tobytes()


@pytest.mark.parametrize("by", ["job", "stream"])
async def test_a_text_over_the_quota_fails_by_itself_once_something_was_embedded(tmp_path, by):
    texts = [*(f"t{i}" for i in range(600)), "word " * 3000, *(f"u{i}" for i in range(9))]
    with Simulator() as sim:
        limits = Limits(tpm=2500, max_in_flight=1)
        async with embedder_of(sim, limits=limits, batch_size=100) as embedder:
            if by == "job":
                report = await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
            else:
                report = await embed_stream(texts, lambda *_: None, embedder)
            with pytest.raises(RequestTooLargeError, match=r"^600 has 3001 tokens"):
                plan(texts, embedder)
    assert [(error.id, error.error[:40]) for error in report.errors] == [
        ("600", "RequestTooLargeError: a request of 3001 ")
    ]
    assert (report.texts, report.distinct) == (610, 610)


@pytest.mark.parametrize("too_long", ["truncate", "error", "average"])
def test_a_text_over_what_a_request_takes_is_too_long(too_long):
    """Voyage cuts a text at 32,000 tokens of its own, and refuses requests of 120,000."""
    embedder = Embedder(
        "openai/voyage-3-large",
        base_url="https://api.voyageai.com/v1",
        api_key="any",
        too_long=too_long,
    )
    texts = [*(f"t{i}" for i in range(300)), "word " * 130_000]
    if too_long == "error":
        with pytest.raises(
            ContextWindowError, match=r"^300 has 130001 tokens, and .* takes 120000"
        ):
            plan(texts, embedder)
        return
    planned = plan(texts, embedder)
    assert planned.truncated == (["300"] if too_long == "truncate" else [])
    assert (planned.tokens > 130_000) == (too_long == "average")


async def test_a_job_with_the_fewest_requests(sim, tmp_path):
    texts = [f"text number {i}" for i in range(5000)]
    embedder = embedder_of(sim, packing="fewest")
    docs = tmp_path / "docs.txt"
    docs.write_text("\n".join(texts))
    planned = plan(docs, embedder, split="line")
    report = embed_job(texts, tmp_path / "vectors.npy", embedder)
    vectors = embedder.embed_sync(texts)
    embedder.aclose_sync()
    assert planned.requests == report.requests == 3
    assert planned.tokens == report.usage.input_tokens
    assert np.load(tmp_path / "vectors.npy").tobytes() == right(texts).tobytes()
    assert vectors.tobytes() == right(texts).tobytes()
