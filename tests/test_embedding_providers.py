"""Azure, Ollama and compatible endpoints: what is sent where, and what is learned from refusals."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import types
import typing

import numpy as np
import pytest

from tollway import Embedder, RetryPolicy, embed_job
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    NotFoundError,
    RetriesExhaustedError,
)
from tollway.providers import compatible
from tollway.providers.ollama import address_of
from tollway.simulator import FAULTS, Faults, Simulator, vector
from tollway.transport import HttpxTransport, Response

KEY = "sk-azure-0123456789"
QUICK = RetryPolicy(base_delay=0.001, max_delay=0.01, max_retries=4, budget=None)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_API_VERSION",
        "OPENAI_API_VERSION",
        "OLLAMA_HOST",
        "OLLAMA_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compatible, "_learned", {})


@pytest.fixture
def sim():
    with Simulator() as sim:
        yield sim


def root(sim):
    return sim.base_url.removesuffix("/v1")


def right(texts, dimensions=1536):
    return np.stack([vector(text, dimensions) for text in texts]).tobytes()


class Asked(HttpxTransport):
    """Keeps the requests; answers some itself."""

    def __init__(self, answer=None):
        super().__init__()
        self.requests, self.answer = [], answer

    async def send(self, request):
        body = json.loads(request.body)
        self.requests.append((request.url, dict(request.headers), body))
        own = self.answer(body) if self.answer else None
        return own or await super().send(request)

    @property
    def bodies(self):
        return [body for _, _, body in self.requests]


# Azure


@pytest.mark.parametrize("version", [None, "2024-10-21"])
@pytest.mark.parametrize("form", ["", "/", "/openai/v1/"])
async def test_azure(sim, version, form):
    transport = Asked()
    options = {"base_model": "text-embedding-3-large", "azure_endpoint": root(sim) + form}
    async with Embedder(
        "azure/my-embeddings",
        api_key=KEY,
        api_version=version,
        transport=transport,
        dimensions=16,
        **options,
    ) as embedder:
        vectors = await embedder.embed(["one", "two"])
        # Under the name of the model that is deployed, exactly.
        assert embedder.cost(1_000_000) == 0.13
        assert embedder.provider.rules.exact
        assert "my-embeddings" in repr(embedder)
        assert KEY not in repr(embedder.provider) + repr(embedder.provider.quota_key)
    assert vectors.tobytes() == right(["one", "two"], 16)
    ((url, headers, body),) = transport.requests
    if version is None:
        assert url == f"{root(sim)}/openai/v1/embeddings"
    else:
        path = "/openai/deployments/my-embeddings/embeddings?api-version=2024-10-21"
        assert url == root(sim) + path
    assert headers["api-key"] == KEY
    assert "authorization" not in headers
    assert (body["model"], body["dimensions"]) == ("my-embeddings", 16)


async def test_azure_from_the_environment(sim, monkeypatch):
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_ENDPOINT"):
        Embedder("azure/x")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", root(sim))
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_API_KEY"):
        Embedder("azure/x")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    async with Embedder("azure/x") as embedder:
        assert (await embedder.embed(["one"])).tobytes() == right(["one"])
        assert embedder.cost(5) is None
        assert embedder.limiter.limits.sub_window == 1.0
    monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2024-10-21")
    transport = Asked()
    async with Embedder("azure/text-embedding-3-small", transport=transport) as embedder:
        await embedder.embed(["one"])
        assert embedder.cost(1_000_000) == 0.02
    assert "deployments/text-embedding-3-small/" in transport.requests[0][0]


async def test_a_key_that_azure_refuses():
    with Simulator(api_keys=["another"]) as sim:
        async with Embedder("azure/x", api_key=KEY, azure_endpoint=root(sim)) as embedder:
            with pytest.raises(AuthenticationError) as caught:
                await embedder.embed(["one"])
            embedder.breaker.reset()
    assert KEY not in str(caught.value)


# Ollama


async def test_ollama(sim, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", root(sim))
    transport = Asked()
    texts = [f"text {i}" for i in range(300)]
    async with Embedder(
        "ollama/nomic-embed-text", transport=transport, dimensions=8, keep_alive="10m"
    ) as embedder:
        vectors = await embedder.embed(texts)
        assert (await embedder.embed_query("q")).tobytes() == right(["q"], 8)
        assert embedder.cost(100) == 0.0
    assert vectors.tobytes() == right(texts, 8)
    url, headers, body = transport.requests[0]
    assert url == f"{root(sim)}/api/embed"
    assert "authorization" not in headers
    # Ollama would cut long texts and not say so.
    assert (body["truncate"], body["dimensions"], body["keep_alive"]) == (False, 8, "10m")


async def test_what_ollama_refuses(sim):
    async with Embedder("ollama/missing-model", base_url=root(sim)) as embedder:
        with pytest.raises(NotFoundError, match="not found; `ollama pull missing-model` gets"):
            await embedder.embed(["one"])
        embedder.breaker.reset()
    async with Embedder("ollama/x", base_url=root(sim)) as embedder:
        texts = ["one", "word " * 9_000, "two"]
        with pytest.raises(BadRequestError, match="exceeds the context length") as caught:
            await embedder.embed(texts)
        assert np.isnan(caught.value.finished).any(axis=1).tolist() == [False, True, False]
    async with Embedder("ollama/x", base_url=root(sim), max_tokens=100) as embedder:
        assert np.isfinite(await embedder.embed(texts)).all()


async def test_ollama_names_its_own_variable_where_it_wants_a_key():
    transport = Asked(lambda _: Response(401, {}, b'{"error": "unauthorized"}'))
    async with Embedder("ollama/x", transport=transport) as embedder:
        with pytest.raises(AuthenticationError, match=r"unauthorized; set .* OLLAMA_API_KEY, or"):
            await embedder.embed(["one"])


def test_a_key_of_ollama_that_no_header_may_hold():
    with pytest.raises(ConfigurationError, match="OLLAMA_API_KEY or api_key") as caught:
        Embedder("ollama/x", api_key="two words")
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"insufficient_quota", "duplicate_index"}))
async def test_ollama_under_faults(fault):
    texts = [f"text {i}" for i in range(60)]
    with Simulator(faults=Faults({fault: 0.3}, seed=4, delay=0.01, retry_after=0.01)) as sim:
        options = {"base_url": root(sim), "batch_size": 4, "retry": QUICK, "dimensions": 8}
        async with Embedder("ollama/x", **options) as embedder:
            vectors = await embedder.embed(texts)
    assert vectors.tobytes() == right(texts, 8)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{}", "no embeddings"),
        (b"[]", "no embeddings"),
        (b'{"embeddings": 3}', "no embeddings"),
        (b'{"embeddings": [[1, 2], [3, 4]]}', "2 rows for 1 texts"),
        (b'{"embeddings": []}', "0 rows for 1 texts"),
        (b'{"embeddings": [[1, "a"]]}', "not a list of numbers"),
        (b'{"embeddings": [null]}', "null"),
        (b'{"embeddings": [[NaN]]}', "NaN or infinite"),
        (b'{"embeddings": "x"}', "not a list"),
    ],
)
async def test_answers_of_ollama_that_are_none(sim, body, what):
    transport = Asked(lambda _: Response(200, {}, body))
    policy = RetryPolicy(max_retries=0)
    options = {"base_url": root(sim), "transport": transport, "retry": policy}
    async with Embedder("ollama/x", **options) as embedder:
        with pytest.raises(RetriesExhaustedError, match=what):
            await embedder.embed(["one"])


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box:8000", "http://box:8000"),
        ("https://ollama.com", "https://ollama.com:443"),
        ("http://box/base/", "http://box:80/base"),
        ("[::1]:5", "http://[::1]:5"),
    ],
)
def test_addresses_of_ollama(host, address):
    assert address_of(host) == address


@pytest.mark.parametrize("host", ["ftp://x", "http://", "user:pw@box", "box:port"])
def test_what_is_no_address_of_ollama(host):
    with pytest.raises(ConfigurationError, match="OLLAMA_HOST"):
        Embedder("ollama/x", base_url=host)


# Compatible endpoints


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (422, "batch size 128 > maximum allowed batch size 32"),
        (413, "input batch size 128 > maximum allowed batch size 32"),
        (400, "Value error, batch size is invalid, it should not be larger than 32.: contents"),
    ],
)
async def test_the_size_of_a_batch_is_learned(sim, tmp_path, status, message):
    def refuse(body):
        if len(body["input"]) <= 32:
            return None
        return Response(status, {}, json.dumps({"error": {"message": message}}).encode())

    texts = [f"text {i}" for i in range(1000)]
    transport = Asked(refuse)
    options = {"base_url": sim.base_url, "api_key": "any", "dimensions": 8, "transport": transport}
    async with Embedder("openai/text-embedding-3-small", **options) as embedder:
        assert (await embedder.embed(texts)).tobytes() == right(texts, 8)
    refused = [body for body in transport.bodies if len(body["input"]) > 32]
    # Those that had left before the first answer, and no other.
    assert len(refused) <= 8
    assert len(transport.bodies) - len(refused) == 8 * 4
    # Remembered: by this process, for this address and model.
    transport.requests.clear()
    embedder = Embedder("openai/text-embedding-3-small", **options)
    embed_job(texts, tmp_path / "vectors.npy", embedder)
    embedder.aclose_sync()
    assert max(len(body["input"]) for body in transport.bodies) == 32
    assert np.load(tmp_path / "vectors.npy").tobytes() == right(texts, 8)


async def test_an_endpoint_that_sends_numbers_only(sim):
    def refuse(body):
        if "encoding_format" not in body:
            return None
        return Response(400, {}, b'{"error": {"message": "encoding_format is not supported"}}')

    transport = Asked(refuse)
    options = {"base_url": sim.base_url, "api_key": "any", "dimensions": 8, "retry": QUICK}
    for asked in (2, 1):
        transport.requests.clear()
        async with Embedder(
            "openai/text-embedding-3-small", transport=transport, **options
        ) as embedder:
            assert (await embedder.embed(["a"])).tobytes() == right(["a"], 8)
        assert len(transport.requests) == asked


def as_simulated(sim, answer_of):
    """Send what goes to another host to the simulator, in words that it knows."""

    class Renamed(Asked):
        async def send(self, request):
            self.requests.append((request.url, dict(request.headers), json.loads(request.body)))
            body = answer_of(json.loads(request.body))
            url = f"{sim.base_url}/embeddings"
            given = type(request)("POST", url, request.headers, json.dumps(body).encode())
            return await HttpxTransport.send(self, given)

    return Renamed()


async def test_voyage(sim, tmp_path):
    def plain(body):
        return {"model": "text-embedding-3-small", "input": body["input"], "dimensions": 8}

    transport = as_simulated(sim, plain)
    options = {"base_url": "https://api.voyageai.com/v1", "api_key": "pa-1", "dimensions": 8}
    async with Embedder("openai/voyage-3.5", transport=transport, **options) as embedder:
        await embedder.embed(["a"])
        await embedder.embed_query("b")
        rules = embedder.provider.rules
    document, query = transport.bodies
    assert (document["input_type"], query["input_type"]) == ("document", "query")
    assert document["output_dimension"] == query["output_dimension"] == 8
    assert "dimensions" not in document
    assert (rules.max_texts, rules.max_request_tokens) == (1000, 320_000)
    models = {"voyage-3.5-lite": 1_000_000, "voyage-4-large": 120_000, "voyage-code-3": 120_000}
    for model, tokens in models.items():
        endpoint = compatible.endpoint_of(options["base_url"], model)
        assert endpoint.max_request_tokens == tokens
    # Rows of another input_type are other rows.
    for given, requests in ((None, 1), ("query", 1), ("document", 0)):
        embedder = Embedder("openai/voyage-3.5", transport=transport, input_type=given, **options)
        report = embed_job(["a"], tmp_path / "vectors.npy", embedder)
        embedder.aclose_sync()
        assert report.requests == requests


async def test_upstage(sim):
    def plain(body):
        return {"model": "text-embedding-3-small", "input": body["input"]}

    transport = as_simulated(sim, plain)
    options = {"base_url": "https://api.upstage.ai/v1", "api_key": "up-1", "transport": transport}
    async with Embedder("openai/embedding-passage", **options) as embedder:
        await embedder.embed([f"text {i}" for i in range(250)])
        await embedder.embed_query("b")
    assert [len(body["input"]) for body in transport.bodies] == [100, 100, 50, 1]
    assert [body["model"] for body in transport.bodies[-2:]] == [
        "embedding-passage",
        "embedding-query",
    ]
    assert all("encoding_format" not in body for body in transport.bodies)


# Hugging Face


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None, reason="it is installed"
)
def test_hugging_face_without_the_extra():
    with pytest.raises(ConfigurationError, match=r"pip install 'tollway\[huggingface\]'"):
        Embedder("huggingface/some/model")


class FakeModel:
    """What is used of `sentence_transformers.SentenceTransformer`."""

    threads: typing.ClassVar[set[str]] = set()

    def __init__(self, name, **options):
        if name == "missing":
            raise OSError("no such model on the hub")
        self.options = options

    def encode(self, texts, batch_size, show_progress_bar, prompt=""):
        assert not show_progress_bar
        "".join(texts).encode()
        self.threads.add(threading.current_thread().name)
        rows = [vector(prompt + text, self.options["truncate_dim"]) for text in texts]
        return np.stack(
            [
                row * (np.nan if "bad" in text else 1.0)
                for row, text in zip(rows, texts, strict=True)
            ]
        )

    def encode_query(self, texts, **options):
        return self.encode(texts, prompt="query: ", **options)


async def test_hugging_face(monkeypatch):
    module = types.ModuleType("sentence_transformers")
    module.__spec__ = importlib.util.spec_from_loader("sentence_transformers", None)
    module.SentenceTransformer = FakeModel
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    texts = [f"text {i}" for i in range(200)]
    async with Embedder("huggingface/org/model", dimensions=8, device="cpu") as embedder:
        assert embedder.model == "huggingface/org/model"
        assert (await embedder.embed(texts)).tobytes() == right(texts, 8)
        assert (await embedder.embed_query("a")).tobytes() == right(["query: a"], 8)
        assert embedder.cost(5) == 0.0
        assert (await embedder.embed(["\ud800", "\ud83d\ude00"])).tobytes() == right("\ufffd😀", 8)
        # What is no vector is found as a text that is refused, and not computed again and again.
        with pytest.raises(BadRequestError, match=r"^text 77 has no vector: .* NaN") as caught:
            await embedder.embed([*texts[:77], "bad", *texts[77:]])
        good = np.delete(caught.value.finished, 77, axis=0)
        assert good.tobytes() == right(texts, 8)
    assert len(FakeModel.threads) == 1
    async with Embedder("huggingface/missing") as embedder:
        with pytest.raises(NotFoundError, match="cannot be loaded: no such model on the hub"):
            await embedder.embed(["a"])
