"""What users hand over that is no text, streams that are hedged, and errors that tell all."""

from __future__ import annotations

import asyncio

import pytest

from chat_fakes import NO_WAIT, FakeProvider, llm_of, said
from tollway import (
    LLM,
    BatchOptions,
    Limits,
    RateLimiter,
    RetryPolicy,
    Tool,
    ToolCall,
    batch_items,
)
from tollway.errors import (
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    InternalServerError,
    ProviderError,
)
from tollway.retry import Hedge
from tollway.simulator import Simulator, reply
from tollway.types import Chunk, TextPart

END = Chunk(finish_reason="stop")


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"])
async def test_a_lone_surrogate_does_not_end_a_map(model):
    async with Simulator() as sim:
        base_url = sim.base_url.removesuffix("/v1") if "claude" in model else sim.base_url
        async with LLM(model, base_url=base_url, api_key="k") as llm:
            outcomes = await llm.map(["one", "x\ud800y", "\ud83d\ude00", "two"])
    # As in embeddings; halves that belong together are a character.
    read = ["one", "x\N{REPLACEMENT CHARACTER}y", "\N{GRINNING FACE}", "two"]
    assert [outcome.text for outcome in outcomes] == [reply(("user", text)) for text in read]


@pytest.mark.parametrize("keep_raw", [False, True])
@pytest.mark.parametrize("mode", ["asyncio", "threaded", "batch"])
async def test_a_map_keeps_what_surrounds_answers_where_that_is_asked_for(mode, keep_raw):
    options = BatchOptions(poll=0.01, longest_poll=0.05)
    async with Simulator() as sim, LLM("openai/gpt-4o", base_url=sim.base_url, api_key="k") as llm:
        outcomes = await llm.map(["one", "two"], mode=mode, keep_raw=keep_raw, batch=options)
    for outcome in outcomes:
        assert outcome.completion.request_id
        assert bool(outcome.completion.raw) is keep_raw
        assert bool(outcome.completion.headers) is keep_raw


def broken(request):
    if "bad" in request.messages[-1].content:
        raise KeyError("k-0123456789")
    return said("yes")


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
async def test_what_a_provider_raises_of_its_own_ends_no_map(mode):
    llm, _ = llm_of(broken)
    outcomes = await llm.map(["one", "bad", "two"], mode=mode)
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    error = outcomes[1].error
    assert type(error) is ProviderError
    assert "KeyError" in str(error)
    assert "0123456789" not in str(error)
    assert isinstance(error.__cause__, KeyError)
    with pytest.raises(KeyError):
        await llm.complete("bad")


async def test_nor_of_items():
    def answer(request):
        broken(request)
        return said('{"answers": [{"number": 1, "answer": "yes"}]}')

    llm, _ = llm_of(answer)
    outcomes = await batch_items(llm, "Judge.", ["one", "bad", "two"], max_items=1)
    assert [outcome.error and type(outcome.error.__cause__) for outcome in outcomes] == [
        None,
        KeyError,
        None,
    ]


async def test_parts_and_calls_are_read_as_well():
    llm, provider = llm_of(said("yes"))
    called = {"function": {"name": "f", "arguments": '{"a": "\udc00"}'}, "id": "1"}
    await llm.complete(
        [
            {"role": "user", "content": [TextPart("\ud800"), TextPart("fine")]},
            {"role": "assistant", "tool_calls": [called]},
        ],
        system_prompt="ä\ud800",
    )
    system, user, assistant = provider.requests[0].messages
    assert system.content == "ä\ufffd"
    assert user.content == (TextPart("\ufffd"), TextPart("fine"))
    assert assistant.tool_calls[0].arguments == '{"a": "\ufffd"}'


@pytest.mark.parametrize("nothing", [None, float("nan"), 7, object()])
async def test_what_is_no_prompt_does_not_end_a_map(nothing):
    llm, _ = llm_of(said("yes"))
    first, second, third = await llm.map(["one", nothing, "two"])
    assert (first.ok, third.ok) == (True, True)
    assert isinstance(second.error, ConfigurationError)
    assert type(nothing).__name__ in str(second.error)


@pytest.mark.parametrize("one", ["one prompt", {"role": "user", "content": "one"}])
async def test_one_prompt_is_not_taken_for_many(one):
    llm, provider = llm_of(said("yes"))
    with pytest.raises(ConfigurationError, match="complete answers one"):
        await llm.map(one)
    with pytest.raises(ConfigurationError, match="as a list"):
        await batch_items(llm, "say", "one item")
    assert provider.requests == []


async def test_what_is_no_item_is_told_before_anything_is_sent():
    llm, provider = llm_of(said("yes"))
    with pytest.raises(ConfigurationError, match="item 1 is no text but NoneType"):
        await batch_items(llm, "say", ["one", None])
    assert provider.requests == []


async def test_items_call_no_tools():
    tool = Tool("f", "", {"type": "object", "properties": {}})
    called = said("", tool_calls=(ToolCall("1", "f", "{}"),), finish_reason="tool_calls")
    llm, provider = llm_of(called, tools=[tool], tool_choice="required")
    (outcome,) = await batch_items(llm, "say", ["one"])
    assert (provider.requests[0].tools, provider.requests[0].tool_choice) == ((), None)
    # A model that calls one all the same has not answered.
    assert isinstance(outcome.error, BadResponseError)


async def test_an_error_that_ends_a_call_tells_what_failed_before():
    llm, _ = llm_of(InternalServerError("x"), BadRequestError("y"))
    with pytest.raises(BadRequestError) as caught:
        await llm.complete("hello")
    assert [made.error for made in caught.value.attempts] == ["InternalServerError"]
    fallback = FakeProvider(BadRequestError("z"))
    failing = FakeProvider(InternalServerError("x"), BadRequestError("y"))
    llm = LLM(failing, fallbacks=[fallback], retry=NO_WAIT)
    with pytest.raises(BadRequestError) as caught:
        await llm.complete("hello")
    assert [made.error for made in caught.value.attempts] == [
        "InternalServerError",
        "BadRequestError",
        "BadRequestError",
    ]


class Slow(FakeProvider):
    """Whose first stream takes long to begin and to be closed; others begin at once."""

    ended = 0

    def __init__(self, closing, *members):
        super().__init__(said(""), model=f"m{len(members)}")
        self.limits = Limits(max_in_flight=10)
        self._closing = closing
        self._all = [self, *members]

    async def stream(self, request):
        self.requests.append(request)
        is_first = sum(len(member.requests) for member in self._all) == 1
        try:
            if is_first:
                await asyncio.sleep(60)
            yield Chunk(text="x")
            yield END
        finally:
            if is_first:
                self._closing.set()
                await asyncio.sleep(60)
            self.ended += 1


@pytest.mark.parametrize("is_router", [False, True])
async def test_a_hedged_stream_that_is_cancelled_while_its_loser_closes_gives_all_back(is_router):
    hedge = Hedge(after=0.01)
    for _ in range(100):
        hedge.budget.deposit()
    retry, closing = RetryPolicy(hedge=hedge), asyncio.Event()
    other = Slow(closing)
    if is_router:
        first = Slow(closing, other)
        other._all = first._all
        llm = LLM([first, other], retry=retry)
        limiters = [lane.path.limiter for lane in llm._path.lanes]
    else:
        first = other
        llm = LLM(first, retry=retry, limits=RateLimiter(Limits(max_in_flight=10)))
        limiters = [llm.limiter]

    async def read():
        async with llm.stream("hello") as stream:
            await anext(stream)

    reading = asyncio.create_task(read())
    async with asyncio.timeout(30):
        await closing.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert sum(len(each.requests) for each in {first, other}) == 2
    assert [limiter.snapshot().in_flight for limiter in limiters] == [0] * len(limiters)
    assert sum(each.ended for each in {first, other}) == 1
