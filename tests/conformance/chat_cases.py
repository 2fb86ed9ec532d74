"""Chat cases: conversations, parameters, what comes with an answer, streams."""

from __future__ import annotations

import asyncio

import pytest

from conformance.chat_bench import ask, case, read
from tollway import Message, TextPart
from tollway.errors import (
    ConfigurationError,
    DeadlineExceededError,
    ProviderError,
    RetriesExhaustedError,
    StreamInterruptedError,
)
from tollway.simulator import reply

# Conversations


@case()
async def prompt(bench):
    assert (await bench.llm.complete("hello")).text == reply(("user", "hello"))


@case("system")
async def system_prompt(bench):
    answer = await bench.llm.complete("hello", system_prompt="be brief")
    assert answer.text == reply(("system", "be brief"), ("user", "hello"))


@case("system")
async def history(bench):
    past = [Message("user", "one"), Message("assistant", "two")]
    answer = await bench.llm.complete("three", system_prompt="s", history_messages=past)
    said = [("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    assert answer.text == reply(*said)


@case("system")
async def mappings(bench):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    assert (await bench.llm.complete(messages)).text == reply(("system", "s"), ("user", "hello"))


@case("system")
async def developer_role(bench):
    messages = [Message("developer", "s"), Message("user", "hello")]
    assert (await bench.llm.complete(messages)).text == reply(("system", "s"), ("user", "hello"))


@case()
async def parts(bench):
    message = Message("user", (TextPart("one"), TextPart("two")))
    assert (await bench.llm.complete(message)).text == reply(("user", "one\n\ntwo"))


@case()
async def answer_as_history(bench):
    first = await bench.llm.complete("one")
    second = await bench.llm.complete([Message("user", "one"), first.message, Message("user", "2")])
    assert second.text == reply(("user", "one"), ("assistant", first.text), ("user", "2"))


@case()
async def any_language(bench):
    text = "안녕하세요 🦊 \u202eabc\u0000 é \N{CJK UNIFIED IDEOGRAPH-20000}"
    assert (await bench.llm.complete(text)).text == reply(("user", text))


@case()
async def long_prompt(bench):
    text = "many words " * 20_000
    assert (await bench.llm.complete(text, max_tokens=None)).text.startswith(
        reply(("user", text))[:9]
    )


@case()
async def empty_prompt(bench):
    sent = len(bench.sim.ledger)
    for nothing in ("", []):
        with pytest.raises(ConfigurationError, match="nothing to answer"):
            await bench.llm.complete(nothing)
    assert len(bench.sim.ledger) == sent


@case()
async def concurrent_calls(bench):
    answers = await asyncio.gather(*(bench.llm.complete(f"call {i}") for i in range(20)))
    assert [answer.text for answer in answers] == [reply(("user", f"call {i}")) for i in range(20)]


@case()
async def synchronous(bench):
    # Inside a running loop too, which it blocks: the simulator runs in a thread.
    assert bench.llm.complete_sync("hello").text == reply(("user", "hello"))
    with bench.llm.stream_sync("hello") as stream:
        assert "".join(chunk.text for chunk in stream) == reply(("user", "hello"))
    bench.llm.aclose_sync()


# Parameters


@case("max_tokens")
async def max_tokens(bench):
    answer = await bench.llm.complete("[[words 50]]", max_tokens=7)
    assert answer.finish_reason == "length"
    assert 0 < answer.usage.output_tokens <= 7


@case("stop", refused=True)
async def stop(bench):
    answer = await bench.llm.complete("[[say one two three]]", stop="two")
    assert answer.text.strip() == "one"
    answer = await bench.llm.complete("[[say one two three]]", stop=["three", "two"])
    assert answer.text.strip() == "one"


@case("temperature", refused=True)
async def temperature(bench):
    assert (await bench.llm.complete("hello", temperature=0.7)).finish_reason == "stop"


@case("top_p", refused=True)
async def top_p(bench):
    assert (await bench.llm.complete("hello", temperature=None, top_p=0.5)).text


@case("seed", refused=True)
async def seed(bench):
    assert (await bench.llm.complete("hello", seed=7)).text


@case("presence_penalty", "frequency_penalty", refused=True)
async def penalties(bench):
    assert (await bench.llm.complete("hello", presence_penalty=0.1, frequency_penalty=0.1)).text


@case("reasoning_effort", refused=True)
async def reasoning_effort(bench):
    assert (await bench.llm.complete("hello", temperature=None, reasoning_effort="low")).text


@case()
async def unknown_option(bench):
    with pytest.raises(TypeError, match="colour"):
        await bench.llm.complete("hello", colour="red")


@case()
async def unsound_numbers(bench):
    for option in ({"timeout": 0}, {"deadline": -1.0}, {"max_tokens": 0}):
        with pytest.raises(ConfigurationError):
            await bench.llm.complete("hello", **option)


# What comes with an answer


@case()
async def usage(bench):
    counted = (await bench.llm.complete("hello " * 50)).usage
    assert 50 <= counted.input_tokens <= 120
    assert 40 <= counted.output_tokens <= 120
    assert (counted.requests, counted.estimated) == (1, False)


@case()
async def cached_tokens_are_part_of_the_input(bench):
    counted = (await bench.llm.complete("hello " * 3000, max_tokens=5)).usage
    assert 0 <= counted.cached_tokens <= counted.input_tokens
    assert counted.input_tokens >= 3000


@case()
async def cost(bench):
    answer = await bench.llm.complete("hello")
    listed = bench.llm.provider.rules.price == "listed"
    assert (answer.cost is not None and answer.cost > 0) if listed else not answer.cost


@case()
async def names(bench):
    answer = await bench.llm.complete("hello")
    assert answer.provider == bench.llm.provider.name
    assert answer.model
    assert answer.raw is not None


# Streams


@case("stream", refused=True)
async def stream(bench):
    chunks = await read(bench.llm.stream("tell me more"))
    assert "".join(chunk.text for chunk in chunks) == reply(("user", "tell me more"))
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]


@case("stream")
async def stream_is_the_answer(bench):
    streaming = bench.llm.stream("tell me more")
    chunks = await read(streaming)
    whole = await bench.llm.complete("tell me more")
    assert streaming.completion is chunks[-1].completion
    assert streaming.completion.text == whole.text
    assert streaming.completion.finish_reason == whole.finish_reason
    assert (streaming.completion.cost is None) == (whole.cost is None)


@case("stream", "stream_usage")
async def stream_usage(bench):
    (*_, last) = await read(bench.llm.stream("tell me more"))
    whole = await bench.llm.complete("tell me more")
    if last.usage.estimated:
        # Learned from a refusal: the server has no usage for streams.
        assert "stream_usage" not in bench.llm.provider.capabilities.features
        assert last.usage.output_tokens == pytest.approx(whole.usage.output_tokens, rel=1)
    else:
        assert last.usage == whole.usage


@case("stream", "max_tokens")
async def stream_cut_at_max_tokens(bench):
    (*_, last) = await read(bench.llm.stream("[[words 50]]", max_tokens=5))
    assert last.completion.finish_reason == "length"


@case("stream")
async def abandoned_stream(bench):
    async with bench.simulator(piece_delay=0.01) as sim, bench.make(sim) as llm:
        async with llm.stream("[[words 2000]]") as streaming:
            async for chunk in streaming:
                if chunk.text:
                    break
        # The connection is gone: the next call needs another, and is answered at once.
        assert (await asyncio.wait_for(llm.complete("hello"), 20)).text
        async with llm.stream("[[words 2000]]") as streaming:
            assert (await anext(streaming)).text
        with pytest.raises(StopAsyncIteration):
            await anext(streaming)


@case("stream")
async def stream_cut_off(bench):
    text: list[str] = []

    async def call(llm):
        async for chunk in llm.stream("[[words 40]]"):
            text.append(chunk.text)  # noqa: PERF401 - what came before the error counts

    error, statuses = await bench.faulty("truncated", call)
    assert isinstance(error, StreamInterruptedError)
    assert error.partial.text == "".join(text)
    assert error.partial.finish_reason == "error"
    assert "word1 word2" in error.partial.text
    assert statuses.count(200) == 1


@case("stream")
async def stream_without_finish_reason(bench):
    error, statuses = await bench.faulty("unfinished", lambda llm: read(llm.stream("[[words 40]]")))
    assert isinstance(error, StreamInterruptedError)
    assert "word1 word2" in error.partial.text
    assert error.partial.usage.output_tokens > 0
    assert statuses.count(200) == 1


@case("stream")
async def stream_with_an_error(bench):
    error, _ = await bench.faulty("stream_error", lambda llm: read(llm.stream("[[words 40]]")))
    assert isinstance(error, StreamInterruptedError)
    assert isinstance(error.__cause__, ProviderError)
    assert "word1 word2" in error.partial.text


@case("stream")
async def stream_retried_before_its_first_token(bench):
    for fault in ("500", "disconnect", "error_body"):
        error, statuses = await bench.faulty(fault, lambda llm: read(llm.stream("hello")))
        assert isinstance(error, RetriesExhaustedError), fault
        assert len(statuses) == 4


@case("stream")
async def stream_deadline(bench):
    async with bench.simulator(piece_delay=0.05) as sim, bench.make(sim) as llm:
        # Once the SDK is loaded.
        assert (await ask(llm)).text
        # On a busy machine the first token may come after a deadline, which is another error.
        for deadline in (1.0, 5.0, 25.0):
            with pytest.raises((StreamInterruptedError, DeadlineExceededError)) as caught:
                await read(llm.stream("[[words 2000]]", deadline=deadline))
            if isinstance(caught.value, StreamInterruptedError):
                break
    assert isinstance(caught.value, StreamInterruptedError)
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert caught.value.partial.text.startswith("word0")
