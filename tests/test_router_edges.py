"""A router at its edges: who is waited for, who streams, and whose a time-out is."""

from __future__ import annotations

import asyncio

import pytest

from chat_fakes import EVERYTHING, NO_WAIT, said
from polling import until
from router_fakes import END, Deployment, Held, asked, of
from tollway import Limits, RetryPolicy
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    RateLimitError,
)
from tollway.providers import ChatCapabilities


async def test_one_that_has_cooled_down_is_taken_while_others_are_waited_for():
    a, b = Held("a", limits=Limits(max_in_flight=1)), Deployment("b")
    llm = of(a, b)
    lanes = llm._path.lanes
    lanes[1].failed(RateLimitError("x", retry_after=1.0))
    first = asyncio.create_task(llm.complete("hello"))
    await until(lambda: asked(a, b) == [1, 0])
    async with asyncio.timeout(60):
        assert (await llm.complete("hello")).answered_by == "fake/b"
    a.gate.set()
    await first
    await until(lambda: [each.path.limiter.snapshot().in_flight for each in lanes] == [0, 0])
    assert [each.path.limiter.waiting for each in lanes] == [0, 0]


async def test_a_stream_goes_to_one_that_streams():
    whole = ChatCapabilities(EVERYTHING.features - {"stream"}, EVERYTHING.parameters)
    a, b = Deployment("a", ["x", END], capabilities=whole), Deployment("b", ["b", END])
    for llm in (of(a, b), of(b, a)):
        async with llm.stream("hello") as stream:
            assert (await anext(stream)).text == "b"
    assert asked(a, b) == [0, 2]
    with pytest.raises(ConfigurationError, match="does not stream"):
        of(a, Deployment("c", capabilities=whole)).stream("hello")


async def test_fallbacks_for_long_conversations_are_none_for_cooling_deployments():
    a = Deployment("a", RateLimitError("x", retry_after=0.05), said("a"))
    b, c = Deployment("b", RateLimitError("x", retry_after=30.0)), Deployment("c")
    answer = await of(a, b, context_window_fallbacks=[c]).complete("hello")
    assert (answer.text, c.requests) == ("a", [])


async def test_one_that_never_answers_cools_down_whoever_ends_the_call():
    class Hole(Deployment):
        async def complete(self, request):
            self.requests.append(request)
            await asyncio.sleep(600)

    for options, retry in (({"deadline": 0.5}, NO_WAIT), ({}, RetryPolicy(deadline=0.5))):
        a, b = Hole("a"), Deployment("b")
        llm = of(a, b, retry=retry, cooldown=600)
        outcomes = [await llm.map(["hello"], **options) for _ in range(12)]
        assert [outcome.ok for (outcome,) in outcomes].count(False) == 3
        assert asked(a, b) == [3, 9]


async def test_a_call_that_is_cancelled_is_nobodys_failure():
    a, b = Held("a"), Held("b")
    llm = of(a, b)
    for number in range(6):
        task = asyncio.create_task(llm.complete("hello", deadline=600))
        await until(lambda: sum(asked(a, b)) > number)  # noqa: B023 - awaited here
        task.cancel()
        await asyncio.wait([task])
    assert not any(lane.is_doubtful for lane in llm._path.lanes)


async def test_a_map_asks_who_takes_it(tmp_path):
    limited = ChatCapabilities(EVERYTHING.features, EVERYTHING.parameters - {"seed"})
    a, b = Deployment("a", capabilities=limited), Deployment("b")
    for resumed in (False, True):
        (outcome,) = await of(a, b).map(["hello"], seed=1, checkpoint=tmp_path / "answers.jsonl")
        assert (outcome.text, outcome.resumed) == ("b", resumed)
    assert asked(a, b) == [0, 1]


async def test_where_all_cool_down_the_reason_is_told():
    for refused in (AuthenticationError("401 bad key"), RateLimitError("429 slow", retry_after=30)):
        llm = of(Deployment("a", refused), Deployment("b", refused), fallbacks=[Deployment("c")])
        llm._answering.fallbacks.any[0].path.provider.script = [BadRequestError("no")]
        with pytest.raises(BadRequestError) as caught:
            await llm.complete("hello")
        assert str(refused) in str(caught.value.__notes__)
