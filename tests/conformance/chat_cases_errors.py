"""Chat cases: tools, JSON, images, reasoning, refusals, errors."""

from __future__ import annotations

import asyncio
import json

import pytest

from conformance.chat_bench import CLOCK, PERSON, PIXEL, WEATHER, ask, case, read
from conformance.chat_providers import KEY
from tollway import ImagePart, Message, TextPart
from tollway.errors import (
    AuthenticationError,
    BadResponseError,
    CircuitOpenError,
    ContentFilterError,
    ContextWindowError,
    DeadlineExceededError,
    InsufficientQuotaError,
    ProviderError,
    RateLimitError,
    RetriesExhaustedError,
)
from tollway.providers.messages import image_url
from tollway.simulator import Faults, digest

# Tools


@case("tools", refused=True)
async def tool_call(bench):
    answer = await bench.llm.complete("call get_weather", tools=[WEATHER])
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "call get_weather"})
    assert answer.finish_reason == "tool_calls"
    assert call.id


@case("tools")
async def tool_arguments(bench):
    wanted = {"city": '서울 "quoted" \\ \n', "deep": {"list": [1, 2.5, None, True]}}
    prompt_ = f"[[call get_weather {json.dumps(wanted)}]]"
    (call,) = (await bench.llm.complete(prompt_, tools=[WEATHER])).tool_calls
    assert json.loads(call.arguments) == wanted


@case("tools")
async def several_tool_calls(bench):
    answer = await bench.llm.complete("get_weather and get_time", tools=[WEATHER, CLOCK])
    assert [call.name for call in answer.tool_calls] == ["get_weather", "get_time"]
    assert len({call.id for call in answer.tool_calls}) == 2


@case("tools")
async def tool_results(bench):
    asked = [Message("user", "get_weather and get_time")]
    answer = await bench.llm.complete(asked, tools=[WEATHER, CLOCK])
    results = [
        Message("tool", text, name=call.name, tool_call_id=call.id)
        for text, call in zip(("sunny", "noon"), answer.tool_calls, strict=True)
    ]
    answer = await bench.llm.complete([*asked, answer.message, *results], tools=[WEATHER, CLOCK])
    assert answer.text == "results: sunny; noon"
    assert answer.tool_calls == ()


@case("tools", "tool_choice")
async def tool_choice(bench):
    for choice, called in (("required", 1), ("none", 0), ("get_weather", 1)):
        answer = await bench.llm.complete("hello", tools=[WEATHER], tool_choice=choice)
        assert len(answer.tool_calls) == called, choice


@case("tools", "stream")
async def streamed_tool_calls(bench):
    (*_, last) = await read(bench.llm.stream("get_weather and get_time", tools=[WEATHER, CLOCK]))
    whole = await bench.llm.complete("get_weather and get_time", tools=[WEATHER, CLOCK])
    calls = [(call.name, json.loads(call.arguments)) for call in last.completion.tool_calls]
    assert calls == [(call.name, json.loads(call.arguments)) for call in whole.tool_calls]
    assert last.completion.finish_reason == "tool_calls"


@case("tools", "parallel_tool_calls")
async def parallel_tool_calls(bench):
    if "parallel_tool_calls" in bench.entry.simulator.get("refuses", ()):
        # The user asked for it: it is not dropped in silence.
        with pytest.raises(ProviderError):
            await bench.llm.complete("hello", tools=[WEATHER], parallel_tool_calls=False)
    else:
        await bench.llm.complete("hello", tools=[WEATHER], parallel_tool_calls=False)


# JSON


@case()
async def json_answer(bench):
    answer = await bench.llm.complete("hello, as json", response_format="json")
    assert isinstance(answer.parsed, dict)


@case()
async def json_schema(bench):
    answer = await bench.llm.complete("Ada", response_format=PERSON)
    assert answer.parsed.keys() == {"name", "age"}
    assert json.loads(answer.text) == answer.parsed


# Images, reasoning, refusals


@case("images", refused=True)
async def image_bytes(bench):
    image = ImagePart(data=PIXEL, media_type="image/png")
    answer = await bench.llm.complete(Message("user", (TextPart("look"), image)))
    assert digest(image_url(image)) in answer.text


@case("images")
async def image_data_url(bench):
    image = ImagePart(image_url(ImagePart(data=PIXEL, media_type="image/png")))
    answer = await bench.llm.complete(Message("user", (image, TextPart("look"))))
    assert digest(image.url) in answer.text


@case("reasoning")
async def reasoning_apart(bench):
    answer = await bench.llm.complete("[[think step by step]] [[say so]]")
    assert (answer.reasoning, answer.text) == ("step by step", "so")
    assert answer.usage.reasoning_tokens > 0


@case("reasoning", "stream")
async def streamed_reasoning_apart(bench):
    chunks = await read(bench.llm.stream("[[think step by step]] [[say so]]"))
    assert "".join(chunk.reasoning for chunk in chunks) == "step by step"
    assert "".join(chunk.text for chunk in chunks).strip() == "so"


@case()
async def refusal(bench):
    answer = await bench.llm.complete("[[refuse I will not]]")
    assert answer.finish_reason in {"refusal", "content_filter"}


@case("stream")
async def streamed_refusal(bench):
    (*_, last) = await read(bench.llm.stream("[[refuse I will not]]"))
    assert last.completion.finish_reason in {"refusal", "content_filter"}


@case()
async def content_filter(bench):
    error, statuses = await bench.faulty("content_filter", ask)
    if isinstance(error, Exception):
        assert isinstance(error, ContentFilterError)
    else:
        assert error.finish_reason == "content_filter"
    assert len(statuses) == 1


@case()
async def context_window(bench):
    async with bench.simulator(context_window=100) as sim, bench.make(sim) as llm:
        with pytest.raises(ContextWindowError):
            await llm.complete("many words " * 100)
        assert len(sim.ledger) == 1


# Errors


async def raised(bench, fault):
    error, statuses = await bench.faulty(fault, ask)
    return error, len(statuses)


@case()
async def server_errors_are_retried(bench):
    for fault in ("500", "503"):
        error, sent = await raised(bench, fault)
        assert isinstance(error, RetriesExhaustedError)
        assert (sent, len(error.attempts)) == (4, 4)
        assert error.attempts[0].status >= 500


@case()
async def broken_connections_are_retried(bench):
    for fault in ("disconnect", "truncated"):
        error, sent = await raised(bench, fault)
        assert isinstance(error, RetriesExhaustedError), fault
        assert sent == 4
    # And those that do not come about: nobody listens there any more.
    async with bench.simulator() as sim:
        llm = bench.make(sim)
    async with llm:
        for call in (ask(llm), read(llm.stream("hello"))):
            with pytest.raises(RetriesExhaustedError) as caught:
                await call
            assert len(caught.value.attempts) == 4


@case()
async def rate_limits_are_waited_for(bench):
    faults = Faults({"429": 0.5}, seed=2, retry_after=0.01)
    async with bench.simulator(faults=faults) as sim, bench.make(sim) as llm:
        for _ in range(6):
            try:
                assert (await llm.complete("hello")).text
            except RetriesExhaustedError as error:
                assert isinstance(error.__cause__, RateLimitError)  # noqa: PT017
        assert 429 in [record.status for record in sim.ledger]


@case()
async def spent_quota_is_not_retried(bench):
    faults = Faults({"insufficient_quota": 1.0})
    async with bench.simulator(faults=faults) as sim, bench.make(sim) as llm:
        with pytest.raises(InsufficientQuotaError):
            await llm.complete("hello")
        with pytest.raises(CircuitOpenError):
            await llm.complete("hello")
        assert len(sim.ledger) == 1


@case()
async def answers_of_no_use_are_retried(bench):
    for fault in ("error_body", "empty_answer"):
        error, sent = await raised(bench, fault)
        assert isinstance(error, RetriesExhaustedError), fault
        assert isinstance(error.__cause__, ProviderError)
        assert sent == 4


@case()
async def answers_without_a_finish_reason_are_retried(bench):
    error, sent = await raised(bench, "unfinished")
    assert isinstance(error, RetriesExhaustedError)
    assert isinstance(error.__cause__, BadResponseError)
    assert sent == 4


@case()
async def missing_usage_is_estimated(bench):
    answer, _ = await bench.faulty("no_usage", lambda llm: llm.complete("hello " * 50))
    assert answer.usage.estimated
    assert 50 <= answer.usage.input_tokens <= 200
    assert answer.usage.output_tokens >= 50


@case()
async def wrong_key(bench):
    async with bench.simulator(api_keys={"right"}) as sim, bench.make(sim) as llm:
        with pytest.raises(AuthenticationError) as caught:
            await llm.complete("hello")
        assert KEY not in str(caught.value)
        assert KEY not in repr(llm)
        assert len(sim.ledger) == 1


@case()
async def request_id_of_an_error(bench):
    error, _ = await raised(bench, "content_filter")
    assert not isinstance(error, ProviderError) or error.status == 400


@case()
async def timeout(bench):
    async with bench.simulator(latency=30) as sim, bench.make(sim) as llm:
        with pytest.raises(RetriesExhaustedError) as caught:
            await llm.complete("hello", timeout=0.2)
        assert {attempt.error for attempt in caught.value.attempts} == {"APITimeoutError"}


@case()
async def deadline(bench):
    async with bench.simulator(latency=30) as sim, bench.make(sim) as llm:
        with pytest.raises(DeadlineExceededError):
            await llm.complete("hello", deadline=0.3)


@case()
async def cancellation(bench):
    async with bench.simulator(latency=30) as sim, bench.make(sim) as llm:
        task = asyncio.create_task(llm.complete("hello"))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(sim.ledger) <= 1


@case()
async def use_after_close(bench):
    async with bench.make(bench.sim) as llm:
        assert (await llm.complete("hello")).text
        await llm.aclose()
        assert (await llm.complete("hello")).text
