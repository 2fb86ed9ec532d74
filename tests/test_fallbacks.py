"""Fallbacks: who is asked next, with what, until when, and what is told of who failed."""

from __future__ import annotations

import asyncio
import time

import pydantic
import pytest

from chat_fakes import EVERYTHING, NO_WAIT, FakeProvider, said
from tollway import LLM, Limits, RateLimiter, RetryPolicy, ToolCall
from tollway.chat import answering
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    CircuitOpenError,
    ConfigurationError,
    ContentFilterError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InternalServerError,
    RateLimitError,
    StreamInterruptedError,
    StructuredOutputError,
)
from tollway.providers import ChatCapabilities
from tollway.retry import shared_budget
from tollway.types import Chunk

END = Chunk(finish_reason="stop")


class Member(FakeProvider):
    """A fake whose answers name it."""

    def __init__(self, name, *script, **options):
        super().__init__(*(script or (said(name),)), model=name, **options)


def of(first, *others, **options):
    options = {"limits": RateLimiter(Limits()), "retry": NO_WAIT, **options}
    return LLM(first, fallbacks=others, **options)


async def drain(stream):
    return [chunk async for chunk in stream]


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("no"),
        AuthenticationError("no"),
        InternalServerError("again and again"),
        BadResponseError("what"),
        ContentFilterError("no"),
        ContextWindowExceededError("long"),
    ],
)
async def test_what_fails_for_good_goes_to_the_next(error):
    a, b, c = Member("a", error), Member("b", RateLimitError("x")), Member("c")
    answer = await of(a, b, c).complete("hello")
    assert (answer.text, answer.answered_by) == ("c", "fake/c")
    first = 4 if error.retryable else 1
    assert [attempt.model for attempt in answer.attempts] == ["fake/a"] * first + ["fake/b"] * 4
    assert [attempt.number for attempt in answer.attempts] == list(range(1, first + 5))
    assert {attempt.error for attempt in answer.attempts} == {
        type(error).__name__,
        "RateLimitError",
    }
    assert len(c.requests) == 1


async def test_an_answer_without_failures_tells_of_none():
    a, b = Member("a"), Member("b")
    answer = await of(a, b).complete("hello")
    assert (answer.answered_by, answer.attempts, b.requests) == ("fake/a", (), [])
    retried = await of(Member("a", InternalServerError("x"), said("a")), b).complete("hello")
    assert [(made.model, made.error) for made in retried.attempts] == [
        ("fake/a", "InternalServerError")
    ]


async def test_when_all_fail_the_last_error_carries_all_attempts():
    llm = of(Member("a", InternalServerError("x")), Member("b", BadRequestError("not so")))
    with pytest.raises(BadRequestError, match="not so") as caught:
        await llm.complete("hello")
    assert [attempt.model for attempt in caught.value.attempts] == ["fake/a"] * 4 + ["fake/b"]
    (note,) = caught.value.__notes__
    assert note.startswith("fake/a failed before: RetriesExhaustedError: 4 attempts failed")


async def test_special_errors_have_chains_of_their_own():
    def made(error, **chains):
        a = Member("a", error)
        return LLM(
            a, fallbacks=[Member("any")], limits=RateLimiter(Limits()), retry=NO_WAIT, **chains
        )

    window = {"context_window_fallbacks": [Member("w1", RateLimitError("x")), Member("w2")]}
    policy = {"content_policy_fallbacks": [Member("p")]}
    long, bad = ContextWindowExceededError("long"), ContentFilterError("bad")
    assert (await made(long, **window, **policy).complete("h")).text == "w2"
    assert (await made(bad, **window, **policy).complete("h")).text == "p"
    assert (await made(long, **policy).complete("h")).text == "any"
    assert (await made(RateLimitError("x"), **window, **policy).complete("h")).text == "any"
    both = {"context_window_fallbacks": [Member("w", bad)], **policy}
    assert (await made(long, **both).complete("h")).text == "p"
    # Each is used once: what it cannot do it cannot do again.
    ring = {"context_window_fallbacks": [Member("w", long)]}
    with pytest.raises(ContextWindowExceededError) as caught:
        await made(long, **ring).complete("h")
    assert [attempt.model for attempt in caught.value.attempts] == ["fake/a", "fake/w"]


async def test_each_gets_the_request_as_it_takes_it():
    few = ChatCapabilities(EVERYTHING.features - {"images"}, frozenset({"max_tokens"}))
    a, b, c = Member("a", BadRequestError("x")), Member("b", capabilities=few), Member("c")
    answer = await of(a, b, c).complete("hello")
    assert answer.text == "b"
    assert (a.requests[0].temperature, b.requests[0].temperature) == (0.0, None)
    # What the user named is never dropped.
    answer = await of(a, b, c).complete("hello", seed=3)
    assert (answer.text, c.requests[0].seed) == ("c", 3)
    assert [made.error for made in answer.attempts] == ["BadRequestError", "ConfigurationError"]
    with pytest.raises(ConfigurationError, match="fake/b takes no seed") as caught:
        await of(a, b).complete("hello", seed=3)
    assert [made.model for made in caught.value.attempts] == ["fake/a", "fake/b"]


async def test_options_of_a_fallback_go_before_those_of_the_first():
    a, b = Member("a", BadRequestError("x")), Member("b")
    other = LLM(b, limits=RateLimiter(Limits()), temperature=0.7, system_prompt="be kind")
    llm = of(a, other, temperature=0.3, seed=5, system_prompt="be brief")
    await llm.complete("hello", top_p=0.5)
    (sent,) = b.requests
    assert (sent.temperature, sent.seed, sent.top_p) == (0.7, 5, 0.5)
    assert sent.messages[0].content == "be kind"
    await llm.complete("hello", temperature=0.1)
    assert b.requests[1].temperature == 0.1


async def test_fallbacks_of_a_fallback():
    inner = of(Member("b", BadRequestError("x")), Member("c"))
    answer = await of(Member("a", BadRequestError("x")), inner).complete("hello")
    assert (answer.text, [made.model for made in answer.attempts]) == ("c", ["fake/a", "fake/b"])
    assert [made.number for made in answer.attempts] == [1, 2]


async def test_a_mistake_of_the_caller_is_asked_of_nobody():
    a, b = Member("a"), Member("b")
    llm = of(a, b)
    for wrong in ("", []):
        with pytest.raises(ConfigurationError):
            await llm.complete(wrong)
    assert a.requests == b.requests == []
    with pytest.raises(ConfigurationError, match="a list of models"):
        LLM(a, fallbacks="openai/gpt-4o")


async def test_one_deadline_holds_over_all():
    asked = []

    class Slow(Member):
        async def complete(self, request):
            asked.append(self.model)
            await asyncio.sleep(3600)

    llm = of(Slow("a"), Slow("b"))
    before = time.monotonic()
    with pytest.raises(DeadlineExceededError) as caught:
        await llm.complete("hello", deadline=0.2)
    assert time.monotonic() - before < 60
    assert asked == ["a"]
    assert [made.model for made in caught.value.attempts] == ["fake/a"]
    # One that asks for more time than there is leaves the rest of it to the next.
    waits = Member("a", RateLimitError("later", retry_after=30.0))
    answer = await of(waits, Member("b")).complete("hello", deadline=20.0)
    assert (answer.text, len(waits.requests)) == ("b", 1)
    # A fallback's own deadline is its own.
    own = LLM(Slow("b"), limits=RateLimiter(Limits()), deadline=0.1)
    answer = await of(Member("a", BadRequestError("x")), own, Member("c")).complete("hello")
    assert answer.text == "c"


async def test_a_stream_falls_back_until_its_first_token():
    a, b = Member("a", BadRequestError("no")), Member("b", ["b1", "b2", END])
    stream = of(a, b).stream("hello")
    assert "".join(chunk.text for chunk in await drain(stream)) == "b1b2"
    assert stream.completion.answered_by == "fake/b"
    assert [made.model for made in stream.completion.attempts] == ["fake/a"]
    cut, other = Member("a", ["so far", APIBroken]), Member("b")
    with pytest.raises(StreamInterruptedError) as caught:
        await drain(of(cut, other).stream("hello"))
    assert (caught.value.partial.text, other.requests) == ("so far", [])
    failing = of(Member("a", []), Member("b", BadRequestError("no")))
    with pytest.raises(BadRequestError) as refused:
        await drain(failing.stream("hello"))
    assert [made.model for made in refused.value.attempts] == ["fake/a"] * 4 + ["fake/b"]


APIBroken = InternalServerError("broke")


async def test_a_stream_that_is_left_closes_its_request():
    b = Member("b", ["b1", "b2", END])
    async with of(Member("a", BadRequestError("no")), b).stream("hello") as stream:
        await anext(stream)
        assert b.closed == 0
    assert b.closed == 1
    unread = of(Member("a"), b).stream("hello")
    await unread.aclose()


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str


async def test_what_is_not_the_json_asked_for_goes_to_the_next():
    plain = ChatCapabilities(
        EVERYTHING.features - {"json_schema", "json_mode"}, EVERYTHING.parameters
    )
    a, b = Member("a", said("no idea")), Member("b", said('{"name": "Ada"}'), capabilities=plain)
    answer = await of(a, b).complete("who?", response_format=Person)
    assert (answer.parsed, len(a.requests)) == (Person(name="Ada"), 4)
    assert a.requests[0].response_format.name == "Person"
    assert b.requests[0].response_format is None
    assert "JSON schema" in b.requests[0].messages[0].content
    assert [made.error for made in answer.attempts] == ["StructuredOutputError"]
    with pytest.raises(StructuredOutputError):
        await of(a, a).complete("who?", response_format=Person)


async def test_tools_run_over_fallbacks():
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    call = said(
        "", finish_reason="tool_calls", tool_calls=(ToolCall("1", "double", '{"number": 4}'),)
    )
    b = Member("b", call, said("eight"))
    run = await of(Member("a", BadRequestError("x")), b, system_prompt="count").run_tools(
        "4?", tools=[double]
    )
    assert run.completion.text == "eight"
    assert [message.role for message in run.messages] == [
        "system", "user", "assistant", "tool", "assistant"
    ]  # fmt: skip
    assert list(b.requests[1].messages) == list(run.messages[:-1])


async def test_a_map_keeps_what_a_fallback_answered(tmp_path):
    path = tmp_path / "answers.jsonl"
    a = Member("a", BadRequestError("x"))
    answers = Member("b", lambda request: said(request.messages[-1].content + "!"))
    prompts = [f"p{i}" for i in range(30)]
    outcomes = await of(a, answers).map(prompts, checkpoint=path)
    assert [outcome.text for outcome in outcomes] == [f"{prompt}!" for prompt in prompts]
    assert {outcome.completion.answered_by for outcome in outcomes} == {"fake/b"}
    # Who falls back on whom is no part of what was asked.
    again = await of(a).map(prompts, checkpoint=path)
    assert all(outcome.resumed and outcome.completion.answered_by == "fake/b" for outcome in again)
    assert len(answers.requests) == 30


async def test_a_model_that_refuses_its_key_is_not_asked_by_every_call():
    a, b = Member("a", AuthenticationError("no key")), Member("b")
    llm = of(a, b)
    outcomes = await llm.map([f"p{i}" for i in range(20)], concurrency=1)
    assert [outcome.text for outcome in outcomes] == ["b"] * 20
    assert len(a.requests) == 1
    assert outcomes[-1].completion.attempts[0].error == CircuitOpenError.__name__


def test_fallbacks_by_name(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    llm = LLM(
        "openai/gpt-4o",
        api_key="secret",
        base_url="http://127.0.0.1:1/v1",
        fallbacks=["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"],
    )
    same, other = llm._answering.fallbacks.any
    assert (same.path.provider.base_url, same.path.provider._key) == (
        "http://127.0.0.1:1/v1",
        "secret",
    )
    assert other.model == "anthropic/claude-sonnet-4-5"
    assert [each.path.retry.max_retries for each in (llm._answering, same, other)] == [2, 2, 10]
    given = LLM(
        FakeProvider(said("")), fallbacks=[FakeProvider(said(""))], retry=RetryPolicy(max_retries=7)
    )
    assert [
        each.path.retry.max_retries for each in (given._answering, *given._answering.fallbacks.any)
    ] == [7, 7]


def test_keys_are_those_of_fallbacks_too():
    llm = LLM(
        "openai/gpt-4o",
        keys=["one", "two"],
        base_url="http://127.0.0.1:1/v1",
        fallbacks=["openai/gpt-4o-mini"],
    )
    (same,) = llm._answering.fallbacks.any
    assert [path.provider._key for path in same.paths] == ["one", "two"]


def test_only_who_can_be_asked_after_an_outage_makes_retries_few():
    for name in ("context_window_fallbacks", "content_policy_fallbacks"):
        llm = LLM(FakeProvider(said("")), **{name: [FakeProvider(said(""))]})
        assert llm._answering.path.retry.max_retries == 10


async def test_the_last_answer_of_a_tool_loop_is_held_to_a_form():
    call = said("", finish_reason="tool_calls", tool_calls=(ToolCall("1", "now", "{}"),))
    a = Member("a", call, said("no JSON"), said('{"name": "Ada"}'))

    def now() -> str:
        """Tell the time."""
        return "noon"

    run = await of(a).run_tools("who?", tools=[now], response_format=Person)
    assert run.completion.parsed == Person(name="Ada")
    assert (run.rounds, len(a.requests), run.usage.requests) == (1, 3, 3)


async def test_retries_of_a_map_are_bounded_for_each_model(monkeypatch):
    asked = []

    def budget(key):
        asked.append(key)
        return shared_budget(key)

    monkeypatch.setattr(answering, "shared_budget", budget)
    a, b = Member("a", BadRequestError("x")), Member("b")
    await of(a, b).map(["p"])
    assert asked == [a.quota_key, b.quota_key]
    await of(a, b).complete("p")
    assert len(asked) == 2
