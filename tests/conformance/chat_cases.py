"""What every chat provider does: cases on one LLM and the simulator that it talks to.

A case is an async function of a `Bench`; `needs` names the features (`ChatFeature`) or parameters
(`ChatParameter`) that its provider must have. Where it has them not, `refusal` is what the suite
checks instead: that asking for it is refused before anything is sent.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from conformance.chat_providers import FAST, KEY
from tollway import ImagePart, Message, TextPart, Tool
from tollway.errors import (
    AuthenticationError,
    BadResponseError,
    CircuitOpenError,
    ConfigurationError,
    ContentFilterError,
    ContextWindowError,
    DeadlineExceededError,
    InsufficientQuotaError,
    ProviderError,
    RateLimitError,
    RetriesExhaustedError,
    StreamInterruptedError,
    TollwayError,
)
from tollway.providers.messages import image_url
from tollway.simulator import Faults, Simulator, digest, reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.chat_providers import Entry
    from tollway import LLM

__all__ = ["CASES", "Bench", "Case"]

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000000000500010d0a2db40000000049454e44ae426082"
)
WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = Tool("get_time", "The time in a city.", WEATHER.parameters)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass
class Bench:
    """One provider, and simulators to try it on."""

    entry: Entry
    sim: Simulator
    llm: LLM

    def simulator(self, **options: Any) -> Simulator:
        return Simulator(**{**self.entry.simulator, **options})

    def make(self, sim: Simulator, **options: Any) -> LLM:
        return self.entry.make(sim, **{"retry": FAST, **options})

    async def faulty(self, fault: str, call: Callable[[LLM], Any], *, times: int = 9) -> Any:
        """Run a call against a simulator in which every request meets a fault.

        Returns:
            What the call returned or raised, and the statuses of what was sent.
        """
        faults = Faults({fault: 1.0})
        async with self.simulator(faults=faults) as sim, self.make(sim) as llm:
            try:
                result = await call(llm)
            except TollwayError as error:
                result = error
            return result, [record.status for record in sim.ledger]


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Bench], Any]
    needs: frozenset[str]
    refused: bool


CASES: list[Case] = []


def case(*needs: str, refused: bool = False):
    """Add a case; `refused` says that without what it needs a `ConfigurationError` is due."""

    def add(run):
        CASES.append(Case(run.__name__, run, frozenset(needs), refused))
        return run

    return add


async def ask(llm):
    return await llm.complete("hello")


async def read(stream):
    return [chunk async for chunk in stream]


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
        with pytest.raises(StreamInterruptedError) as caught:
            await read(llm.stream("[[words 2000]]", deadline=1.0))
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert caught.value.partial.text.startswith("word0")


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
    for fault in ("error_body", "empty_answer", "unfinished"):
        error, sent = await raised(bench, fault)
        assert isinstance(error, RetriesExhaustedError), fault
        assert isinstance(error.__cause__, (BadResponseError, ProviderError))
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
