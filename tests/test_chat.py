"""LLM: what is asked for, what it is charged and paid, and what a stream does when it breaks."""

from __future__ import annotations

import asyncio
import pickle

import pytest

import tollway
from chat_fakes import EVERYTHING, NO_WAIT, FakeProvider, llm_of, said
from tollway import LLM, Limits, Message, RateLimiter
from tollway.chat.meter import Meter
from tollway.errors import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    CircuitOpenError,
    ConfigurationError,
    InternalServerError,
    RequestTooLargeError,
    RetriesExhaustedError,
    StreamInterruptedError,
)
from tollway.providers import ChatCapabilities, register_chat_provider
from tollway.tokens import TokenCount, TokenEstimator, count_messages, tokenizer_for_model
from tollway.types import Chunk, ToolCallDelta, Usage


async def drain(stream):
    return [chunk async for chunk in stream]


# What is asked for


async def test_defaults_are_sent_and_named_as_such():
    llm, provider = llm_of(said("a"))
    await llm.complete("hello")
    (request,) = provider.requests
    assert (request.temperature, request.max_tokens, request.timeout) == (0.0, 4000, 600.0)
    assert request.defaults == {"temperature", "max_tokens"}
    await llm.complete("hello", temperature=0.5, max_tokens=None)
    assert (provider.requests[1].temperature, provider.requests[1].max_tokens) == (0.5, None)
    assert provider.requests[1].defaults == frozenset()


async def test_options_of_the_llm_hold_for_each_call_and_a_call_overrides_them():
    llm, provider = llm_of(said("a"), temperature=0.3, system_prompt="be brief", seed=1)
    await llm.complete("hello")
    await llm.complete("hello", system_prompt=None, seed=2)
    first, second = provider.requests
    assert [message.role for message in first.messages] == ["system", "user"]
    assert (first.temperature, first.seed) == (0.3, 1)
    assert "temperature" not in first.defaults
    assert [message.role for message in second.messages] == ["user"]
    assert (second.temperature, second.seed) == (0.3, 2)


async def test_a_default_is_left_out_where_the_model_does_not_take_it_and_a_wish_refused():
    capable = ChatCapabilities(EVERYTHING.features, EVERYTHING.parameters - {"temperature"})
    llm, provider = llm_of(said("a"), capabilities=capable)
    await llm.complete("hello")
    assert provider.requests[0].temperature is None
    with pytest.raises(ConfigurationError, match="temperature"):
        await llm.complete("hello", temperature=0.0)
    await llm.complete("hello", extra_body={"temperature": 0.1})
    assert len(provider.requests) == 2


IMAGE = Message("user", (tollway.ImagePart("https://h/a.png"),))


@pytest.mark.parametrize(
    ("feature", "ask"),
    [
        ("tools", lambda llm: llm.complete_sync("hello", tools=[tollway.Tool("x")])),
        ("images", lambda llm: llm.complete_sync(IMAGE)),
        ("stream", lambda llm: llm.stream("hello")),
    ],
)
def test_what_the_model_cannot_do_is_refused(feature, ask):
    capable = ChatCapabilities(EVERYTHING.features - {feature}, EVERYTHING.parameters)
    llm, provider = llm_of(said("a"), capabilities=capable)
    with pytest.raises(ConfigurationError):
        ask(llm)
    assert provider.requests == []


@pytest.mark.parametrize(
    "prompt",
    [
        [{"content": "no role"}],
        [{"role": "robot", "content": "x"}],
        [{"role": "user", "content": 3}],
        [Message("robot", "x")],
        ["text"],
        [{"role": "assistant", "tool_calls": [{"id": "1"}]}],
    ],
)
async def test_what_is_no_message_is_refused(prompt):
    llm, provider = llm_of(said("a"))
    with pytest.raises(ConfigurationError):
        await llm.complete(prompt)
    assert provider.requests == []


def test_a_provider_of_ones_own():
    made = {}

    def factory(model, **options):
        made.update(options, model=model)
        return llm_of(said("mine"), model=model)[1]

    register_chat_provider("own", factory)
    llm = LLM("own/some-model", colour="red", limits=RateLimiter(Limits()))
    assert llm.complete_sync("hello").text == "mine"
    assert made == {"model": "some-model", "colour": "red"}
    with pytest.raises(ConfigurationError, match="did you mean openai/"):
        LLM("openia/gpt-4o")
    with pytest.raises(ConfigurationError, match="colour"):
        LLM("openai/gpt-4o", api_key="k", colour="red")


# What it costs


async def test_cost_and_usage_of_an_answer():
    llm, _ = llm_of(said("a"), price="listed", price_provider="openai", price_model="gpt-4o")
    answer = await llm.complete("hello")
    assert answer.cost == pytest.approx(7 * 2.5e-6 + 5 * 10e-6)
    assert answer.usage == Usage(7, 1, output_tokens=5)
    unknown, _ = llm_of(said("a"))
    assert (await unknown.complete("hello")).cost is None
    free, _ = llm_of(said("a"), price="free")
    assert (await free.complete("hello")).cost == 0.0
    told, _ = llm_of(said("a", cost=0.5), price="free")
    assert (await told.complete("hello")).cost == 0.5


async def test_usage_that_is_not_reported_is_counted():
    llm, _ = llm_of(said("one two three", usage=Usage(requests=1, estimated=True)))
    usage = (await llm.complete("hello")).usage
    assert usage.estimated
    assert usage.input_tokens == count_messages([{"role": "user", "content": "hello"}], "gpt-4o")
    assert usage.output_tokens == 3


async def test_an_estimate_learns_from_what_is_reported():
    tokenizer = tokenizer_for_model("some-unknown-model-7")
    assert isinstance(tokenizer, TokenEstimator)
    before = tokenizer.ratio
    llm, _ = llm_of(said("a", usage=Usage(10_000, 1, output_tokens=1)), model=tokenizer.model)
    await llm.complete("word " * 10_000)
    assert abs(tokenizer.ratio - 1) < abs(before - 1)


async def test_a_prompt_over_the_whole_quota_is_refused_and_an_answer_never_is():
    limiter = RateLimiter(Limits(tpm=1000))
    llm, provider = llm_of(said("a"), limits=limiter, charges_max_tokens="sum")
    with pytest.raises(RequestTooLargeError):
        await llm.complete("word " * 2000)
    assert provider.requests == []
    # 4,000 tokens of answer are allowed, of which nobody knows how many will be used.
    await llm.complete("hello")


def test_values_of_answers_can_be_pickled_and_added():
    answer = said("a", tool_calls=(tollway.ToolCall("1", "x", "{}"),))
    assert pickle.loads(pickle.dumps(answer)) == answer
    total = sum([Usage(1, 1, output_tokens=2), Usage(3, 1, estimated=True)], Usage())
    assert (total.total_tokens, total.requests, total.estimated) == (6, 2, True)


# Failures


async def test_every_attempt_is_one_request_and_the_last_error_is_raised():
    llm, provider = llm_of(InternalServerError("x"), InternalServerError("y"), said("a"))
    assert (await llm.complete("hello")).text == "a"
    llm, provider = llm_of(InternalServerError("x"))
    with pytest.raises(RetriesExhaustedError) as caught:
        await llm.complete("hello")
    assert len(caught.value.attempts) == len(provider.requests) == 4


async def test_a_refused_key_stops_the_other_calls():
    llm, provider = llm_of(AuthenticationError("no"))
    with pytest.raises(AuthenticationError):
        await llm.complete("hello")
    with pytest.raises(CircuitOpenError):
        await llm.complete("hello")
    with pytest.raises(CircuitOpenError):
        await drain(llm.stream("hello"))
    assert len(provider.requests) == 1


# Streams

END = Chunk(finish_reason="stop")


async def test_pieces_make_the_answer():
    calls = [
        Chunk(tool_calls=(ToolCallDelta(1, "b", "second"), ToolCallDelta(0, "a", "first", "{"))),
        Chunk(tool_calls=(ToolCallDelta(0, arguments="}"),)),
        Chunk(usage=Usage(1, 1)),
        Chunk(extra={"fake": 1}, usage=Usage(2, 1, output_tokens=3), finish_reason="tool_calls"),
    ]
    llm, _ = llm_of([Chunk(model="m", request_id="r"), Chunk(reasoning="why"), "so", *calls])
    stream = llm.stream("hello")
    chunks = await drain(stream)
    answer = stream.completion
    assert answer is chunks[-1].completion
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("so", "why", "tool_calls")
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("a", "first", "{}"),
        ("b", "second", ""),
    ]
    assert answer.usage == Usage(2, 1, output_tokens=3)
    assert (answer.model, answer.request_id, answer.extra) == ("m", "r", {"fake": 1})


@pytest.mark.parametrize("first", [[], [Chunk(model="m")], [APIConnectionError("x")]])
async def test_before_the_first_token_a_stream_is_begun_again(first):
    llm, provider = llm_of(first, ["a", END])
    assert (await drain(llm.stream("hello")))[0].text == "a"
    assert len(provider.requests) == 2
    assert provider.closed == 2


@pytest.mark.parametrize("end", [[], [APIConnectionError("x")]])
async def test_after_the_first_token_a_broken_stream_is_an_error_with_what_came(end):
    llm, provider = llm_of(["a", "b", *end], ["never asked for", END])
    stream = llm.stream("hello")
    assert [(await anext(stream)).text, (await anext(stream)).text] == ["a", "b"]
    with pytest.raises(StreamInterruptedError) as caught:
        await anext(stream)
    assert caught.value.partial.text == "ab"
    assert caught.value.partial.usage.output_tokens == 1
    assert caught.value.__cause__ is (end[0] if end else None)
    assert len(provider.requests) == 1


async def test_a_cancellation_from_within_breaks_a_stream_and_not_its_reader():
    class Cancelled(FakeProvider):
        async def stream(self, request):
            yield Chunk("a")
            raise asyncio.CancelledError

    limiter = RateLimiter(Limits(max_in_flight=1))
    llm = LLM(Cancelled(), limits=limiter, retry=NO_WAIT)
    for options in ({}, {"deadline": 60.0}):
        with pytest.raises(StreamInterruptedError, match="cancelled from within") as caught:
            await drain(llm.stream("hello", **options))
        assert caught.value.partial.text == "a"
        assert isinstance(caught.value.__cause__, APIConnectionError)
    assert limiter.snapshot().in_flight == 0


async def test_the_reader_s_own_cancellation_ends_a_stream():
    class Endless(FakeProvider):
        async def stream(self, request):
            yield Chunk("a")
            await asyncio.Event().wait()

    limiter = RateLimiter(Limits(max_in_flight=1))
    stream = LLM(Endless(), limits=limiter, retry=NO_WAIT).stream("hello")
    await anext(stream)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert limiter.snapshot().in_flight == 0


async def test_what_fails_after_the_finish_reason_costs_nothing_but_the_usage():
    llm, _ = llm_of(["a", END, APIConnectionError("x")])
    (*_, last) = await drain(llm.stream("hello"))
    assert last.completion.text == "a"
    assert last.completion.usage.estimated


async def test_an_answer_without_text_is_an_answer():
    llm, provider = llm_of([END])
    (*_, last) = await drain(llm.stream("hello"))
    assert (last.completion.text, last.completion.finish_reason) == ("", "stop")
    assert len(provider.requests) == 1


async def test_closing_a_stream_closes_the_request():
    llm, provider = llm_of(["a", "b", "c", END])
    async with llm.stream("hello") as stream:
        await anext(stream)
        assert provider.closed == 0
    assert provider.closed == 1
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    stream = llm.stream("hello")
    await anext(stream)
    del stream
    for _ in range(3):
        await asyncio.sleep(0)
    assert provider.closed == 2


async def test_an_error_that_is_the_callers_passes_a_stream():
    llm, _ = llm_of([BadRequestError("no")])
    with pytest.raises(BadRequestError):
        await drain(llm.stream("hello"))


def test_streams_for_synchronous_code():
    llm, provider = llm_of(["a", "b", END])
    stream = llm.stream_sync("hello")
    assert "".join(chunk.text for chunk in stream) == "ab"
    assert stream.completion.text == "ab"
    with llm.stream_sync("hello") as stream:
        assert next(stream).text == "a"
    assert provider.closed == 2


def test_what_a_request_is_charged():
    _, provider = llm_of(said("a"))

    def charge(charges, max_tokens, tpm=None, answered=()):
        meter = Meter(provider)
        request = type("R", (), {"max_tokens": max_tokens})()
        provider.rules = type(provider.rules)("gpt-4o", charges_max_tokens=charges)
        for tokens in answered:
            meter.learn(Usage(1, 1, output_tokens=tokens), TokenCount(1))
        return meter.reserve(request, 100, Limits(tpm=tpm))

    assert charge("larger", 4000) == 3900
    assert charge("larger", 10) == 10
    assert charge("sum", 4000) == 4000
    assert charge("no", 4000) == 500
    assert charge("no", 20) == 20
    assert charge("no", None) == 500
    assert charge("sum", 4000, tpm=1000) == 900
    assert charge("no", 4000, answered=[10] * 60) < 15


def used_of(limiter, name="tpm"):
    return next(window.used for window in limiter.snapshot().windows if window.name == name)


@pytest.mark.parametrize(("refunds", "used"), [(True, 12), (False, 4000)])
async def test_a_call_is_settled_with_what_it_used(refunds, used):
    limiter = RateLimiter(Limits(rpm=100, tpm=10_000))
    llm, _ = llm_of(said("a"), limits=limiter, charges_max_tokens="larger", refunds=refunds)
    await llm.complete("hello")
    assert used_of(limiter) == used
    assert limiter.snapshot().in_flight == 0


async def test_a_stream_is_settled_when_it_is_closed():
    limiter = RateLimiter(Limits(rpm=100, tpm=10_000))
    llm, _ = llm_of(["one", " two", " three", END], limits=limiter)
    async with llm.stream("hello") as stream:
        await anext(stream)
        assert used_of(limiter) > 400
        assert limiter.snapshot().in_flight == 1
    assert used_of(limiter) < 20
    assert limiter.snapshot().in_flight == 0


async def some_wait(limiter, count):
    async with asyncio.timeout(60):
        while limiter.waiting < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)


async def test_every_attempt_has_its_own_permit():
    limiter = RateLimiter(Limits(rpm=100, max_in_flight=1))
    llm, _ = llm_of(InternalServerError("x"), said("a"), limits=limiter)
    await llm.complete("hello")
    assert used_of(limiter, "rpm") == 2
    with pytest.raises(RetriesExhaustedError):
        await drain(llm_of([], limits=limiter)[0].stream("hello"))
    assert used_of(limiter, "rpm") == 6
    assert limiter.snapshot().in_flight == 0


async def test_cancelled_before_it_is_sent_everything_comes_back():
    limiter = RateLimiter(Limits(rpm=100, tpm=10_000, max_in_flight=1))
    llm, provider = llm_of(["a", END], said("a"), limits=limiter)
    async with llm.stream("hello") as stream:
        await anext(stream)
        waiting = asyncio.create_task(llm.complete("hello"))
        await some_wait(limiter, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert used_of(limiter, "rpm") == 1
    assert len(provider.requests) == 1


async def test_who_has_the_higher_priority_goes_first():
    limiter = RateLimiter(Limits(max_in_flight=1))
    order = []

    def answer(request):
        order.append(request.messages[-1].content)
        return said("a")

    llm, _ = llm_of(["a", END], answer, limits=limiter)
    async with llm.stream("first") as stream:
        await anext(stream)
        calls = [
            asyncio.create_task(llm.complete(name, priority=priority))
            for name, priority in (("low", 0), ("high", 5), ("middle", 3))
        ]
        await some_wait(limiter, 3)
    await asyncio.gather(*calls)
    assert order == ["high", "middle", "low"]
