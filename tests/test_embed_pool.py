"""Several keys or deployments as one pool, and a ceiling on cost."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from tollway import Embedder, Limits, RateLimiter, RetryPolicy, embed_job
from tollway.embed import embed_job_async, plan
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientQuotaError,
)
from tollway.providers import EmbeddingAnswer, EmbeddingRules, embedding_provider
from tollway.simulator import Faults, Simulator, vector
from tollway.transport import HttpxTransport, Response
from tollway.types import Usage

MODEL = "openai/text-embedding-3-small"


def right(texts, dimensions=8):
    return np.stack([vector(text, dimensions) for text in texts]).tobytes()


def texts_of(count):
    return [f"text {i} of a pool" for i in range(count)]


class Keyed(HttpxTransport):
    """The simulator, which knows the keys of requests and refuses some after a number of them."""

    def __init__(self, refused=None, after=0, body=b'{"error": {"message": "no such key"}}'):
        super().__init__()
        self.refused, self.after, self.body = refused or set(), after, body
        self.sent = {}

    async def send(self, request):
        key = request.headers["authorization"].removeprefix("Bearer ")
        number = self.sent[key] = self.sent.get(key, 0) + 1
        if key in self.refused and number > self.after:
            await asyncio.sleep(0.005)
            return Response(401 if b"such" in self.body else 429, {}, self.body)
        answer = await super().send(request)
        await asyncio.sleep(0.01)
        return answer


def pool_of(sim, keys, transport, **options):
    given = {"dimensions": 8, "batch_size": 4, "base_url": sim.base_url, **options}
    return Embedder(MODEL, keys=keys, transport=transport, **given)


async def test_all_keys_work_each_with_limits_of_its_own():
    texts, transport = texts_of(200), Keyed()
    with Simulator() as sim:
        limits = Limits(rpm=6000, max_in_flight=2)
        async with pool_of(sim, ["k1", "k2", "k3"], transport, limits=limits) as embedder:
            assert len({id(lane.limiter) for lane in embedder.lanes}) == 3
            assert (await embedder.embed(texts)).tobytes() == right(texts)
            assert (await embedder.embed_query("q")).tobytes() == right(["q"])
    assert sum(transport.sent.values()) == 51
    assert set(transport.sent) == {"k1", "k2", "k3"}
    assert min(transport.sent.values()) >= 8


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    "body",
    [b'{"error": {"message": "no such key"}}', b'{"error": {"code": "insufficient_quota"}}'],
)
async def test_a_key_that_is_refused_leaves_its_work_to_the_others(tmp_path, after, body):
    texts, output = texts_of(120), tmp_path / "vectors.npy"
    transport = Keyed({"key-bad"}, after, body)
    with Simulator() as sim:
        limits = Limits(max_in_flight=2)
        async with pool_of(sim, ["key-bad", "key-good"], transport, limits=limits) as embedder:
            report = await embed_job_async(texts, output, embedder)
            for lane in embedder.lanes:
                lane.breaker.reset()
    assert report.errors == []
    assert np.load(output).tobytes() == right(texts)
    # Nothing is paid for twice, and the refused key is not asked for more than was on its way.
    assert set(sim.ledger.answered_counts().values()) == {1}
    assert after < transport.sent["key-bad"] <= after + 2


class Picky:
    """Answers in this process: a vector a text, but not of `bad`; refused from a request on."""

    name, model, priced_as = "picky", "in-process", "in-process"
    rules = EmbeddingRules(dimensions=1, price="free")
    limits = Limits(max_in_flight=1)

    def __init__(self, after):
        self.quota_key = (id(self),)
        self.left = after

    async def open(self):
        pass

    async def embed(self, texts):
        self.left -= 1
        if self.left < 0:
            raise AuthenticationError("401: no such key", status=401)
        if "bad" in texts:
            raise BadRequestError("400: one of them", status=400)
        rows = np.array([[len(text)] for text in texts], np.float32)
        return EmbeddingAnswer(rows, (), Usage(requests=1))

    async def aclose(self):
        pass


async def test_a_key_refused_in_the_search_for_a_bad_text_says_nothing_of_the_texts():
    """Else the others would take the whole batch for refused, with nothing succeeded yet."""
    texts = ["bad", "aa", "bbb", "cccc", "ddddd"]
    embedder = Embedder([Picky(2), Picky(100)], batch_size=5)
    rows = await embedder.embed(texts, on_error="nan")
    assert np.array_equal(rows[:, 0], [np.nan, 2, 3, 4, 5], equal_nan=True)


async def test_a_query_is_embedded_by_a_key_that_works():
    transport = Keyed({"key-bad"})
    with Simulator() as sim:
        async with pool_of(sim, ["key-bad", "key-good"], transport) as embedder:
            for _ in range(3):
                assert (await embedder.embed_query("q")).tobytes() == right(["q"])
            embedder.breaker.reset()
    # The first of these found the key refused; the others did not ask it again.
    assert transport.sent == {"key-bad": 1, "key-good": 3}


async def test_a_pool_without_a_key_that_works(tmp_path):
    texts = texts_of(80)
    with Simulator() as sim:
        for body, error in (
            (b'{"error": {"message": "no such key"}}', AuthenticationError),
            (b'{"error": {"code": "insufficient_quota"}}', InsufficientQuotaError),
        ):
            transport = Keyed({"key-a", "key-b"}, 2, body)
            async with pool_of(sim, ["key-a", "key-b"], transport) as embedder:
                with pytest.raises(error):
                    await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
                for lane in embedder.lanes:
                    lane.breaker.reset()
        async with pool_of(sim, ["key-a"], Keyed()) as embedder:
            report = await embed_job_async(texts, tmp_path / "vectors.npy", embedder)
    assert report.reused == 4 * 4 * 2
    assert np.load(tmp_path / "vectors.npy").tobytes() == right(texts)


async def test_a_pool_under_faults():
    texts = texts_of(300)
    faults = Faults({"500": 0.1, "disconnect": 0.1, "nan_row": 0.1}, seed=3)
    policy = RetryPolicy(base_delay=0.001, max_delay=0.01, budget=None)
    with Simulator(faults=faults) as sim:
        async with pool_of(sim, ["key-a", "key-b"], Keyed(), retry=policy) as embedder:
            assert (await embedder.embed(texts)).tobytes() == right(texts)


async def test_deployments_as_a_pool():
    with Simulator() as sim:
        root = sim.base_url.removesuffix("/v1")

        def deployment(name, **options):
            given = {"azure_endpoint": root, "api_key": f"key-{name}", "dimensions": 8}
            return embedding_provider(f"azure/{name}", **given, **options)

        served = {"base_model": "text-embedding-3-small"}
        pool = [deployment("east", **served), deployment("west", **served)]
        async with Embedder(pool, batch_size=4) as embedder:
            assert embedder.model == "azure/east"
            texts = texts_of(40)
            assert (await embedder.embed(texts)).tobytes() == right(texts)
        with pytest.raises(ConfigurationError, match="a pool is of one model, not of east and we"):
            Embedder([deployment("east"), deployment("west")])


def test_pools_that_cannot_be():
    options = {"base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ConfigurationError, match="a limiter of its own"):
        Embedder(MODEL, keys=["a", "b"], limits=RateLimiter(Limits(rpm=5)), **options)
    with pytest.raises(ConfigurationError, match="same credential"):
        Embedder(MODEL, keys=["a", "a"], **options)
    for model, what in (([], "empty"), ([None], "not NoneType"), (3, "not int")):
        with pytest.raises(ConfigurationError, match=what):
            Embedder(model)
    for keys, more in (([], {}), (["a", None], {}), ("sk-abc", {}), (["a"], {"api_key": "b"})):
        with pytest.raises(ConfigurationError, match="keys is a list of one key or more"):
            Embedder(MODEL, keys=keys, **options, **more)
    provider = embedding_provider(MODEL, api_key="a")
    with pytest.raises(ConfigurationError, match="keys go to the providers"):
        Embedder(provider, keys=["a"])


def test_a_plan_of_a_pool_takes_less_time(tmp_path):
    (tmp_path / "docs.txt").write_text("\n".join(f"line {i}" for i in range(2000)))
    limits = Limits(rpm=60, sub_window=0)
    seconds = [
        plan(
            tmp_path / "docs.txt",
            Embedder(MODEL, keys=keys, limits=limits, batch_size=10),
            split="line",
        ).seconds
        for keys in (["p1"], ["p2", "p3"])
    ]
    assert seconds == pytest.approx([200 - 60, 100 - 60])


# Cost


def priced(sim, **options):
    """OpenAI's own address, for its price, with the simulator behind it."""

    class Behind(HttpxTransport):
        asked = 0

        async def send(self, request):
            self.asked += 1
            url = f"{sim.base_url}/embeddings"
            await asyncio.sleep(0.001)
            return await super().send(type(request)("POST", url, request.headers, request.body))

    given = {"api_key": "cost", "dimensions": 8, "batch_size": 4, "transport": Behind()}
    return Embedder(MODEL, limits=Limits(rpm=100_000, max_in_flight=3), **{**given, **options})


async def test_the_request_over_max_cost_is_not_sent(tmp_path):
    texts, output = [f"text number {i:04}" for i in range(400)], tmp_path / "vectors.npy"
    with Simulator() as sim:
        async with priced(sim) as embedder:
            each = embedder.encoding.count(texts[0])
            # Two cents a million tokens: room for ten requests of four texts, and a half.
            most = 10.5 * 4 * each * 0.02 / 1e6
        async with priced(sim, max_cost=most) as embedder:
            with pytest.raises(BudgetExceededError, match="was not sent; what is done is kept"):
                await embed_job_async(texts, output, embedder)
            assert len(sim.ledger) == 10
            with pytest.raises(BudgetExceededError) as caught:
                await embedder.embed(texts)
            assert np.isfinite(caught.value.finished).all(axis=1).sum() == 40
        assert not output.exists()
        async with priced(sim) as embedder:
            report = await embed_job_async(texts, output, embedder)
    assert report.reused == 40
    assert np.load(output).tobytes() == right(texts)


def test_a_cost_that_is_not_known_cannot_be_held(tmp_path):
    with pytest.raises(ConfigurationError, match="max_cost cannot be held: no price"):
        Embedder(MODEL, base_url="http://127.0.0.1:1/v1", max_cost=1.0)
    with Simulator() as sim:
        root = sim.base_url.removesuffix("/v1")
        embedder = Embedder("ollama/x", base_url=root, max_cost=0.0, dimensions=8)
        report = embed_job(texts_of(5), tmp_path / "vectors.npy", embedder)
        embedder.aclose_sync()
    assert (report.cost, report.errors) == (0.0, [])
    assert json.loads((tmp_path / "vectors.index.jsonl").read_text().splitlines()[0])["row"] == 0
