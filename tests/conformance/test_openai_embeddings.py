"""The simulator as the official OpenAI SDK sees it."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from tollway.simulator import Faults, Simulator, vector
from tollway.tokens import get_encoding

SMALL = "text-embedding-3-small"
TEXTS = ["The quick brown fox", "jumps over", "the lazy dog", "그리고 쉬었다", "🦊" * 5]


@pytest.fixture(scope="module")
def sim():
    with Simulator(rpm=60_000, tpm=10_000_000, api_keys={"right"}) as sim:
        yield sim


@pytest.fixture(scope="module")
def client(sim):
    with openai.OpenAI(base_url=sim.base_url, api_key="right", max_retries=0) as client:
        yield client


def assert_right(answer, texts, dimensions):
    assert [row.index for row in answer.data] == list(range(len(texts)))
    for row, text in zip(answer.data, texts, strict=True):
        assert np.array_equal(np.array(row.embedding, np.float32), vector(text, dimensions))


@pytest.mark.parametrize(
    ("model", "size"),
    [(SMALL, 1536), ("text-embedding-3-large", 3072), ("text-embedding-ada-002", 1536)],
)
def test_vectors_by_default_which_is_base64(client, model, size):
    answer = client.embeddings.create(model=model, input=TEXTS)
    assert_right(answer, TEXTS, size)
    assert answer.model == model
    tokens = int(get_encoding("cl100k_base").count_batch(TEXTS).sum())
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


def test_vectors_as_numbers_of_fewer_dimensions(client):
    answer = client.embeddings.create(
        model=SMALL, input=TEXTS, dimensions=256, encoding_format="float", user="someone"
    )
    assert_right(answer, TEXTS, 256)


def test_one_text_and_tokens_in_place_of_texts(client):
    text = TEXTS[0]
    tokens = get_encoding("cl100k_base").encode_ordinary(text)
    for given in (text, tokens, [tokens]):
        assert_right(client.embeddings.create(model=SMALL, input=given), [text], 1536)
    answer = client.embeddings.create(model=SMALL, input=[tokens, tokens[:1]])
    assert answer.usage.prompt_tokens == len(tokens) + 1


async def test_the_asynchronous_client(sim):
    async with openai.AsyncOpenAI(base_url=sim.base_url, api_key="right") as client:
        assert_right(await client.embeddings.create(model=SMALL, input=TEXTS), TEXTS, 1536)


def test_models_are_listed(client):
    assert SMALL in {model.id for model in client.models.list()}


def test_rate_limit_headers_by_the_raw_response(client):
    headers = client.embeddings.with_raw_response.create(model=SMALL, input="hello").headers
    assert headers["x-ratelimit-limit-requests"] == "60000"
    assert headers["x-ratelimit-limit-tokens"] == "10000000"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 10_000_000
    assert headers["x-ratelimit-reset-requests"].endswith("ms")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": []}, "empty"),
        ({"input": ""}, r"input\[0\]"),
        ({"input": ["a", ""]}, r"input\[1\]"),
        ({"input": ["a", 1]}, r"input\[1\]"),
        ({"input": [[1], []]}, r"input\[1\]"),
        ({"input": [100_300]}, r"input\[0\].*cl100k_base"),
        ({"input": [-1]}, r"input\[0\]"),
        ({"input": [True]}, r"input\[0\]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a"] * 2049}, "2048"),
        ({"input": "a " * 9000}, "8191"),
        ({"input": ["a " * 8000] * 38}, "300000"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 1537}, "1536"),
        ({"dimensions": "many"}, "dimensions"),
        ({"dimensions": 3, "model": "text-embedding-ada-002"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": 3}, "user"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_a_request_that_is_not_in_order(client, arguments, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.embeddings.create(**{"model": SMALL, "input": "a", **arguments})
    assert caught.value.type in {"invalid_request_error", "max_tokens_per_request"}


def test_the_largest_request_in_order_is_taken(client):
    answer = client.embeddings.create(model=SMALL, input=["a"] * 2048, dimensions=2)
    assert len(answer.data) == 2048
    assert client.embeddings.create(model=SMALL, input=[64] * 8191).usage.prompt_tokens == 8191


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"model":1e}'])
def test_a_body_that_is_not_json(client, body):
    with pytest.raises(openai.BadRequestError, match="JSON"):
        client.post("/embeddings", cast_to=object, content=body)


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-9", input="a")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_refused_and_not_repeated(client):
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="wrong-secret").embeddings.create(model=SMALL, input="a")
    assert caught.value.code == "invalid_api_key"
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", [openai.omit, "Bearer", "Basic right"])
def test_a_missing_key_is_refused(client, scheme):
    with pytest.raises(openai.AuthenticationError, match="No API key"):
        client.embeddings.create(model=SMALL, input="a", extra_headers={"Authorization": scheme})


def test_unknown_paths_and_wrong_methods(client):
    with pytest.raises(openai.NotFoundError, match="/v1/nowhere"):
        client.post("/nowhere", cast_to=object, body={})
    with pytest.raises(openai.APIStatusError) as caught:
        client.get("/embeddings", cast_to=object)
    assert caught.value.status_code == 405
    assert caught.value.response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("500", openai.InternalServerError),
        ("503", openai.InternalServerError),
        ("429", openai.RateLimitError),
        ("insufficient_quota", openai.RateLimitError),
        ("disconnect", openai.APIConnectionError),
        ("truncated", openai.APIConnectionError),
    ],
)
def test_faults_are_the_exceptions_of_the_sdk(client, fault, error):
    with pytest.raises(error):
        client.embeddings.create(
            model=SMALL, input=TEXTS, extra_headers={"x-simulator-fault": fault}
        )


def test_the_sdk_itself_waits_as_long_as_the_429_asks():
    faults = Faults({"429": 0.5}, seed=2, retry_after=0.02)
    with (
        Simulator(faults=faults) as sim,
        openai.OpenAI(base_url=sim.base_url, api_key="any", max_retries=10) as client,
    ):
        for _ in range(8):
            assert_right(client.embeddings.create(model=SMALL, input=TEXTS), TEXTS, 1536)
        statuses = [entry.status for entry in sim.ledger]
        arrivals = [entry.arrival for entry in sim.ledger]
    assert statuses.count(200) == 8
    assert 429 in statuses
    for first, then, status in zip(arrivals, arrivals[1:], statuses, strict=False):
        assert status == 200 or then - first >= 0.02
