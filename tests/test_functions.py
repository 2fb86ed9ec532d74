"""Functions of the user's own as providers: paced, retried, counted and typed as all others."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import threading
import weakref

import httpx
import pytest

from function_fakes import embedder_of, failing, llm_of, refusal
from tollway import LLM, JsonFormat, Limits, Message, RateLimiter, RetryPolicy, errors
from tollway.providers.function_calls import Function
from tollway.types import Completion, Usage


class Calls:
    """Functions of several kinds that note what they were called with."""

    def __init__(self):
        self.seen = []

    async def asynchronous(self, prompt, system_prompt=None, history_messages=None, **kwargs):
        self.seen.append((prompt, system_prompt, history_messages, kwargs))
        return f"said {prompt}"

    def synchronous(self, prompt, system_prompt=None, history_messages=None, **kwargs):
        self.seen.append((prompt, system_prompt, history_messages, kwargs))
        return f"said {prompt}"

    async def __call__(self, prompt, **kwargs):
        return await self.asynchronous(prompt, **kwargs)


# What a function is called with


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous", "object", "lambda", "partial"])
async def test_every_kind_of_function_answers(kind):
    calls = Calls()
    function = {
        "object": calls,
        "lambda": lambda prompt, **kwargs: calls(prompt, **kwargs),  # noqa: PLW0108 - not async
        "partial": functools.partial(calls.asynchronous),
    }.get(kind) or getattr(calls, kind)
    answer = await llm_of(function).complete("now", system_prompt="be brief")
    assert (answer.text, answer.finish_reason) == ("said now", "stop")
    assert answer.usage.estimated
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert answer.cost is None
    assert calls.seen == [("now", "be brief", calls.seen[0][2], {})]


async def test_the_conversation_as_lightrag_gives_it():
    calls = Calls()
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    llm = llm_of(calls.asynchronous)
    await llm.complete("c", system_prompt="s", history_messages=history)
    await llm.complete([Message("system", "s"), *history, {"role": "user", "content": "c"}])
    assert calls.seen == [("c", "s", history, {})] * 2


async def test_a_function_of_the_prompt_alone_gets_the_rest_before_it():
    seen = []

    def function(prompt):
        seen.append(prompt)
        return "fine"

    llm = llm_of(function)
    await llm.complete("c", system_prompt="s", history_messages=[Message("user", "a")])
    await llm.complete("d")
    assert seen == ["s\n\nuser: a\n\nuser: c", "d"]


async def test_only_what_the_user_named_goes_to_the_function():
    calls = Calls()
    llm = llm_of(calls.asynchronous, max_tokens=50)
    await llm.complete("a", stop="x", extra_body={"tenant": 7})
    assert calls.seen[0][3] == {"max_tokens": 50, "stop": ["x"], "tenant": 7}


async def test_what_the_function_does_not_take_is_refused_before_it_is_called():
    calls = []

    def function(prompt, temperature=1.0):
        calls.append(temperature)
        return "fine"

    llm = llm_of(function)
    assert (await llm.complete("a", temperature=0.5)).text == "fine"
    assert (await llm.complete("a")).text == "fine"
    with pytest.raises(errors.ConfigurationError, match="max_tokens"):
        await llm.complete("a", max_tokens=5)
    with pytest.raises(errors.ConfigurationError, match="tenant"):
        await llm.complete("a", extra_body={"tenant": 7})
    with pytest.raises(errors.ConfigurationError, match="stream"):
        llm.stream("a")
    with pytest.raises(errors.ConfigurationError, match="no tools"):
        await llm.complete("a", tools=[Calls])
    assert calls == [0.5, 1.0]


def test_what_cannot_be_a_function_or_its_model():
    for given, options, told in (
        (3, {}, "not int"),
        (print, {"model": "gpt-4o"}, "provider/model"),
        (print, {"api_key": "k"}, "api_key"),
    ):
        with pytest.raises(errors.ConfigurationError, match=told):
            llm_of(given, **options)
        with pytest.raises(errors.ConfigurationError, match=told):
            embedder_of(given, **options)
    with pytest.raises(errors.ConfigurationError, match="llm_model_func"):
        LLM()


async def test_a_named_model_counts_and_pays():
    answer = await llm_of(failing("hello"), "openai/gpt-4o").complete("hi")
    assert answer.usage == Usage(8, 1, estimated=True, output_tokens=1)
    assert answer.cost == pytest.approx(8 * 2.5e-6 + 1 * 10e-6)
    assert (answer.provider, answer.model) == ("openai", "gpt-4o")


# What it returns


async def test_a_completion_brings_its_own_usage():
    usage = Usage(100, 1, output_tokens=10)
    told = Completion("hi", "length", reasoning="hm", usage=usage)
    llm = llm_of(failing(told), "openai/gpt-4o")
    answer = await llm.complete("a")
    assert (answer.usage, answer.finish_reason, answer.reasoning) == (usage, "length", "hm")
    stream = llm.stream("a")
    assert "".join([chunk.text async for chunk in stream]) == "hi"
    assert stream.completion.usage == usage


@pytest.mark.parametrize("useless", ["", "  ", None, 3, ["a"]])
async def test_no_text_is_a_bad_answer_and_asked_for_again(useless):
    function = failing(useless, "fine")
    assert (await llm_of(function).complete("a")).text == "fine"
    assert function.calls == 2


async def test_reasoning_is_kept_apart():
    llm = llm_of(failing("<think>hm</think>yes"))
    answer = await llm.complete("a")
    assert (answer.reasoning, answer.text) == ("hm", "yes")
    stream = llm.stream("a")
    assert "".join([chunk.text async for chunk in stream]) == "yes"
    assert stream.completion.reasoning == "hm"


async def test_an_answer_that_lightrag_marks_as_cut_is_cut():
    truncated = type("TruncatedResponse", (str,), {})
    answer = await llm_of(failing(truncated("half an"))).complete("a")
    assert (answer.text, answer.finish_reason) == ("half an", "length")


async def pieces(prompt, stream=False, **kwargs):
    assert stream or prompt == "whole"
    for word in ("one ", "", "two"):
        yield word


def steps(prompt):
    assert threading.current_thread() is not threading.main_thread()
    yield from ("one ", "", "two")


async def returns_pieces(prompt, **kwargs):
    return pieces(prompt, **kwargs) if kwargs.get("stream") else "one two"


@pytest.mark.parametrize("function", [pieces, steps, returns_pieces])
async def test_streams(function):
    llm = llm_of(function)
    stream = llm.stream("a")
    assert [chunk.text async for chunk in stream if chunk.text] == ["one ", "two"]
    assert stream.completion.text == "one two"
    assert stream.completion.finish_reason == "stop"
    assert (await llm.complete("whole")).text == "one two"


async def test_a_stream_that_breaks_off_carries_what_came_and_one_before_its_begin_is_retried():
    starts = []

    async def function(prompt, stream=True):
        starts.append(prompt)
        if len(starts) == 1:
            raise ConnectionResetError("gone")
        yield "half "
        raise httpx.ReadTimeout("slow")

    stream = llm_of(function).stream("a")
    with pytest.raises(errors.StreamInterruptedError) as caught:
        async for _ in stream:
            pass
    assert caught.value.partial.text == "half "
    assert isinstance(caught.value.__cause__, errors.APITimeoutError)
    assert len(starts) == 2


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stream_that_is_left_closes_its_source(kind):
    closed = threading.Event()

    async def asynchronous(prompt):
        try:
            yield "a"
            await asyncio.sleep(3600)
        finally:
            closed.set()

    def synchronous(prompt):
        try:
            yield "a"
            yield "b"
        finally:
            closed.set()

    async with llm_of(asynchronous if kind == "async" else synchronous).stream("a") as stream:
        assert (await anext(stream)).text == "a"
    assert closed.is_set()


async def test_json_by_the_repair_ladder_and_natively_where_the_function_names_it():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    function = failing("no json", '```json\n{"n": 3,}\n```')
    answer = await llm_of(function).complete("a", response_format=schema)
    assert (answer.parsed, function.calls) == ({"n": 3}, 2)
    seen = []

    async def native(prompt, system_prompt=None, response_format=None):
        seen.append((response_format, "JSON schema" in system_prompt))
        return json.dumps({"n": 4})

    answer = await llm_of(native).complete("a", response_format=JsonFormat(schema))
    assert answer.parsed == {"n": 4}
    assert seen == [({"type": "json_object"}, True)]


# Around it


async def test_a_map_is_retried_kept_and_in_order(tmp_path):
    calls = []

    async def function(prompt, **kwargs):
        calls.append(prompt)
        if calls.count(prompt) == 1 and prompt == "b":
            raise refusal(500)
        if prompt == "c":
            raise ValueError("mine")
        return prompt.upper()

    file = tmp_path / "answers.jsonl"
    for expected in ("aabbc", "c"):
        calls.clear()
        outcomes = await llm_of(function).map(["a", "b", "c", "a"], checkpoint=file)
        assert sorted(calls) == sorted(expected)
        assert [each.ok and each.completion.text for each in outcomes] == ["A", "B", False, "A"]
        assert type(outcomes[2].error) is errors.ProviderError


async def test_calls_take_permits():
    limiter = RateLimiter(Limits(rpd=1000, max_in_flight=2))
    under_way, most = 0, 0

    async def function(prompt, **kwargs):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return "fine"

    outcomes = await llm_of(function, limits=limiter).map(["a"] * 9)
    assert all(each.ok for each in outcomes)
    assert most == 2
    assert limiter.snapshot()["rpd"].used == 9


async def test_one_function_has_one_limiter_and_another_its_own():
    first, second = failing("a"), failing("b")
    one, same, other = llm_of(first), llm_of(first), llm_of(second)
    assert one.limiter is same.limiter
    assert one.limiter is not other.limiter
    unhashable = type("List", (list,), {"__call__": lambda self, prompt: "fine"})()
    assert (await llm_of(unhashable).complete("a")).text == "fine"


async def test_more_threads_than_a_pool_would_have():
    count = 40
    all_there = threading.Barrier(count, timeout=60)

    def function(prompt):
        all_there.wait()
        return prompt

    llm = llm_of(function, limits=Limits(max_in_flight=count))
    outcomes = await llm.map([f"p{i}" for i in range(count)], concurrency=count)
    assert [each.completion.text for each in outcomes] == [f"p{i}" for i in range(count)]


async def test_a_thread_that_hangs_is_abandoned_and_the_call_goes_on():
    free, calls = threading.Event(), []

    def function(prompt):
        calls.append(prompt)
        if len(calls) == 1:
            free.wait(60)
        return "fine"

    llm = llm_of(function)
    try:
        assert (await llm.complete("a", timeout=0.05)).text == "fine"
    finally:
        free.set()
    # On a busy machine the second may take as long.
    assert len(calls) >= 2


@pytest.mark.parametrize("kind", ["first", "later", "sync"])
async def test_a_stream_that_hangs_is_broken_off(kind):
    free = threading.Event()

    async def asynchronous(prompt):
        if kind == "later":
            yield "a"
        await asyncio.Event().wait()
        yield "b"

    def synchronous(prompt):
        yield "a"
        free.wait(60)

    llm = llm_of(synchronous if kind == "sync" else asynchronous, retry=RetryPolicy(max_retries=0))
    stream = llm.stream("a", timeout=0.05)
    try:
        with pytest.raises((errors.StreamInterruptedError, errors.RetriesExhaustedError)) as caught:
            async for _ in stream:
                pass
    finally:
        free.set()
    assert isinstance(caught.value.__cause__, errors.APITimeoutError)


async def test_a_function_that_is_cancelled_from_within_ends_no_task():
    calls = []

    async def function(prompt):
        calls.append(prompt)
        if len(calls) == 1:
            raise asyncio.CancelledError
        return "fine"

    assert (await llm_of(function).complete("a")).text == "fine"
    assert len(calls) == 2


class GoneError(Exception):
    pass


async def test_what_a_thread_raised_is_in_no_cycle():
    def function(prompt):
        raise GoneError

    async def call():
        try:
            await Function(function)("a", {})
        except GoneError as error:
            return weakref.ref(error)

    gc.disable()
    try:
        raised = await call()
        for thread in threading.enumerate():
            if thread.name == "tollway-function":
                thread.join(30)
        await asyncio.sleep(0)
        assert raised() is None
    finally:
        gc.enable()


def test_from_synchronous_code_and_inside_a_loop():
    llm = llm_of(failing("fine"))
    assert llm.complete_sync("a").text == "fine"
    words = [chunk.text for chunk in llm_of(pieces).stream_sync("a") if chunk.text]
    assert words == ["one ", "two"]
