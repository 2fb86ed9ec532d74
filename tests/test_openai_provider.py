"""OpenAI's provider: keys and addresses, what errors mean, what servers ask to wait."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import time
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway import Embedder, RetryPolicy
from tollway.errors import (
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    InsufficientQuotaError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    TollwayError,
)
from tollway.providers.openai import OpenAIProvider, error_of
from tollway.simulator import Simulator, vector
from tollway.transport import Response

SMALL = "text-embedding-3-small"
KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def without_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)


class Scripted:
    """A transport that answers from a function and keeps the requests."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []

    async def open(self):
        pass

    async def send(self, request):
        self.requests.append(request)
        return self.answer(request)

    async def aclose(self):
        pass


def answer_with(rows, **usage):
    data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    return Response(200, {}, json.dumps({"data": data, "usage": usage}).encode())


def scripted(answer, model="some-model", **options):
    transport = Scripted(answer)
    provider = OpenAIProvider(
        model, base_url="http://127.0.0.1:9/v1", transport=transport, **options
    )
    return provider, transport


# Keys, models, addresses


def test_a_key_is_needed_at_openai(monkeypatch):
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIProvider(SMALL)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAIProvider(SMALL).base_url == "https://api.openai.com/v1"
    OpenAIProvider(SMALL, base_url="http://127.0.0.1:1/v1")


def test_a_server_that_wants_a_key_says_where_to_put_it():
    with Simulator() as sim, pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        Embedder(f"openai/{SMALL}", base_url=sim.base_url).embed_sync(["a"])


@pytest.mark.parametrize("key", [f"{KEY}\n", f"  {KEY}\r\n"])
def test_the_newline_of_a_file_is_no_part_of_the_key(key):
    provider, transport = scripted(lambda _: answer_with([[1.0]]), api_key=key)
    asyncio.run(provider.embed(["a"]))
    assert transport.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("between", ["\n", " ", "\x00", "é", "\u2028"])
def test_a_key_that_no_header_may_hold_is_refused_unseen(between):
    with pytest.raises(ConfigurationError) as caught:
        OpenAIProvider(SMALL, api_key=f"sk-proj{between}0123456789")
    shown = "".join(traceback.format_exception(caught.value))
    assert "sk-proj" not in str(caught.value)
    assert "OPENAI_API_KEY" in shown


@pytest.mark.parametrize(
    "address", ["localhost:8080/v1", "ftp://h/v1", "http://", "x", "http://h:port/v1", "http://[::"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(address):
    with pytest.raises(ConfigurationError, match="base_url must be an address"):
        OpenAIProvider(SMALL, base_url=address)


def test_an_address_with_a_password_is_refused_unseen():
    with pytest.raises(ConfigurationError) as caught:
        OpenAIProvider(SMALL, base_url="https://user:hunter2@proxy.example/v1")
    assert "hunter2" not in str(caught.value)


def test_models():
    with pytest.raises(ConfigurationError, match="nearest are text-embedding-3-large"):
        OpenAIProvider("text-embedding-3-larg", api_key=KEY)
    elsewhere = OpenAIProvider("BAAI/bge-m3", base_url="http://127.0.0.1:1/v1")
    assert elsewhere.rules.dimensions is None
    assert elsewhere.rules.price == "unknown"
    assert elsewhere.limits.rpm is None


def test_one_quota_for_one_key_model_and_address():
    def quota(key=KEY, model=SMALL, base_url="http://127.0.0.1:1/v1"):
        return OpenAIProvider(model, api_key=key, base_url=base_url).quota_key

    assert quota() == quota(base_url="http://127.0.0.1:1/v1/")
    assert len({quota(), quota("other"), quota(model="m"), quota(base_url="http://h/v1")}) == 4
    assert KEY not in repr(quota())


# Errors


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (301, BadRequestError, False),
        (400, BadRequestError, False),
        (401, AuthenticationError, False),
        (402, InsufficientQuotaError, False),
        (403, PermissionDeniedError, False),
        (404, NotFoundError, False),
        (408, APITimeoutError, True),
        (409, InternalServerError, True),
        (413, BadRequestError, False),
        (418, BadRequestError, False),
        (422, BadRequestError, False),
        (429, RateLimitError, True),
        (500, InternalServerError, True),
        (502, InternalServerError, True),
        (503, OverloadedError, True),
        (504, APITimeoutError, True),
        (529, OverloadedError, True),
        (599, InternalServerError, True),
    ],
)
def test_what_a_status_means(status, error, retryable):
    body = {"error": {"message": "what : happened", "type": "kind", "code": None}}
    made = error_of(Response(status, {"x-request-id": "req_1"}, json.dumps(body).encode()))
    assert type(made) is error
    assert made.retryable is retryable
    assert (made.status, made.code, made.request_id) == (status, "kind", "req_1")
    assert f"{status} kind: what : happened" in str(made)


@pytest.mark.parametrize("field", ["type", "code"])
@pytest.mark.parametrize(
    "name",
    [
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    ],
)
def test_a_spent_quota_is_not_a_rate_limit(field, name):
    body = {"error": {"message": "spent", field: name}}
    made = error_of(Response(429, {}, json.dumps(body).encode()))
    assert type(made) is InsufficientQuotaError
    assert not made.retryable


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "500: "),
        (b"<html>Bad gateway</html>", "500: <html>Bad gateway</html>"),
        (b"\xff\xfe", "500: \N{REPLACEMENT CHARACTER}"),
        (b'"text"', "500: text"),
        (b"[1, 2]", "500: [1, 2]"),
        (b"null", "500: None"),
        (b'{"detail": "of another kind"}', "500: of another kind"),
        (b'{"error": "a text"}', "500: a text"),
        (b'{"error": {}}', "500: no message"),
        (b'{"error": {"code": 7, "message": {"a": 1}}}', "500 7: {'a': 1}"),
        (b"[" * 100_000, "500: [[[["),
    ],
)
def test_error_bodies_of_any_form(body, message):
    assert str(error_of(Response(500, {}, body))).startswith(message)


@given(st.binary(max_size=50) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "code", "type", "detail", "x"]), inner, max_size=4
    ),
).map(lambda value: json.dumps(value).encode()), st.integers(300, 599))  # fmt: skip
def test_no_error_body_breaks_the_reader(body, status):
    assert error_of(Response(status, {}, body), KEY).status == status


# What the server asks to wait


def waits(**headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_of(Response(429, named, b"{}")).retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "3"}, 3.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "250", "retry_after": "3"}, 0.25),
        ({"retry_after_ms": "soon", "retry_after": "3"}, 3.0),
        ({"retry_after_ms": "nan", "retry_after": "3"}, 3.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "99999999999"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry_after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
    ],
)
def test_seconds_to_wait(headers, seconds):
    assert waits(**headers) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_a_date_to_wait_for(zone, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    try:
        date = email.utils.formatdate(time.time() + 90, usegmt=True).replace("GMT", zone)
        assert 85 <= waits(retry_after=date) <= 90
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(st.characters(max_codepoint=0xFF), max_size=40))
def test_any_header_is_a_wait_or_nothing(value):
    for name in ("retry_after", "retry_after_ms"):
        wait = waits(**{name: value})
        assert wait is None or 0 <= wait < 86_400 * 31


# Answers


async def test_a_server_that_refuses_base64_is_asked_for_numbers_and_that_is_remembered():
    def answer(request):
        body = json.loads(request.body)
        if body.get("encoding_format") == "base64":
            message = "encoding_format 'base64' is not supported"
            return Response(400, {}, json.dumps({"error": {"message": message}}).encode())
        return answer_with([vector(text, 8).tolist() for text in body["input"]], prompt_tokens=1)

    provider, transport = scripted(answer)
    policy = RetryPolicy(base_delay=0)
    async with Embedder(provider, retry=policy) as embedder:
        for _ in range(2):
            vectors = await embedder.embed(["a", "b"])
            assert vectors.tobytes() == np.stack([vector("a", 8), vector("b", 8)]).tobytes()
    formats = [json.loads(request.body).get("encoding_format") for request in transport.requests]
    assert formats == ["base64", None, None]


async def test_another_dimension_than_before_is_a_bad_answer():
    sizes = iter([4, 8])
    provider, _ = scripted(lambda _: answer_with([[1.0] * next(sizes)]))
    async with Embedder(provider, retry=RetryPolicy(max_retries=0)) as embedder:
        assert (await embedder.embed(["a"])).shape == (1, 4)
        with pytest.raises(TollwayError, match="8 dimensions, before with 4"):
            await embedder.embed(["b"])


async def test_usage_that_is_not_reported_is_estimated():
    provider, _ = scripted(lambda _: answer_with([[1.0]]))
    assert (await provider.embed(["a"])).usage.estimated
    provider, _ = scripted(lambda _: answer_with([[1.0]], prompt_tokens=5))
    usage = (await provider.embed(["a"])).usage
    assert (usage.input_tokens, usage.estimated) == (5, False)


# A key is never shown


@pytest.mark.parametrize("position", [0, 150, 190, 290])
@pytest.mark.parametrize("form", ["plain", "message", "code", "answer"])
async def test_a_key_that_the_server_repeats_is_struck_out(form, position, caplog):
    text = "." * position + KEY
    status = 401 if position == 0 else 500
    body = {
        "plain": text,
        "message": json.dumps({"error": {"message": text}}),
        "code": json.dumps({"error": {"message": "m", "code": text}}),
        "answer": json.dumps({"error": {"message": text}}),
    }[form]
    response = Response(200 if form == "answer" else status, {}, body.encode())
    provider, _ = scripted(lambda _: response, api_key=KEY)
    policy = RetryPolicy(max_retries=1, base_delay=0)
    with caplog.at_level(logging.DEBUG):
        async with Embedder(provider, retry=policy) as embedder:
            # Another case of this test may have had the same key refused.
            embedder.breaker.reset()
            with pytest.raises(TollwayError) as caught:
                await embedder.embed(["a"])
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    chained = caught.value.__cause__
    shown += repr(caught.value) + repr(chained) + str(getattr(chained, "code", ""))
    shown += repr(provider) + repr(embedder) + repr(embedder.limiter)
    # Not even its beginning, where a message was cut.
    assert KEY[:8] not in shown
    if form == "answer":
        assert isinstance(chained, BadResponseError)
