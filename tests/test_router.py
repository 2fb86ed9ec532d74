"""A router: who is asked, who is not, and what follows a failure."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter

import pytest

from chat_fakes import EVERYTHING, said
from polling import until
from router_fakes import END, Deployment, Held, asked, of
from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.chat import lane, turn
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    CircuitOpenError,
    ConfigurationError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
    RequestTooLargeError,
    RetriesExhaustedError,
    StreamInterruptedError,
)
from tollway.providers import ChatCapabilities
from tollway.simulator import Simulator


class Clock:
    """Time that passes when it is told to, for all that looks at `time.monotonic` in a router."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in (lane, turn):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)


async def answers(llm, count):
    return Counter([(await llm.complete(f"p{i}")).answered_by for i in range(count)])


# Who is asked


async def test_the_least_busy_is_asked():
    a, b = Held("a"), Held("b")
    llm = of(a, b)
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(llm.complete("hello"))
            await until(lambda: sum(asked(a, b)) > number)  # noqa: B023 - awaited here
            if number == 3:
                # What others have under way counts as well.
                other = [await llm._path.lanes[0].path.limiter.hold() for _ in range(4)]
        assert asked(a, b) == [3, 7]
        a.gate.set()
        b.gate.set()
    for permit in other:
        permit.release()


async def test_what_is_taken_at_once_counts_by_its_part():
    a, b = Held("a", limits=Limits(max_in_flight=30)), Held("b", limits=Limits(max_in_flight=10))
    llm = of(a, b)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(llm.complete("hello")) for _ in range(20)]
        await until(lambda: sum(asked(a, b)) == 20)
        assert asked(a, b) == [15, 5]
        a.gate.set()
        b.gate.set()
    assert Counter(task.result().answered_by for task in tasks) == {"fake/a": 15, "fake/b": 5}


async def test_weights_hold_within_the_bounds_of_chance():
    a, b, c = (Deployment(name) for name in "abc")
    llm = of(a, b, c, weights=[6, 3, 1])
    assert llm._path.routing == "weighted"
    llm._path._draw = random.Random(11).random
    count = 3000
    found = await answers(llm, count)
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        deviation = math.sqrt(count * share * (1 - share))
        assert abs(found[f"fake/{name}"] - count * share) < 4 * deviation


async def test_the_cheapest_is_asked_while_it_has_room():
    listed = {"price": "listed", "price_provider": "openai"}
    dear = Deployment("dear", **listed, price_model="gpt-4o")
    cheap = Deployment(
        "cheap", **listed, price_model="gpt-4o-mini", limits=Limits(rpm=5, sub_window=0)
    )
    unknown = Deployment("unknown")
    llm = of(unknown, dear, cheap, routing="least_cost")
    assert await answers(llm, 8) == {"fake/cheap": 5, "fake/dear": 3}
    assert unknown.requests == []


async def test_the_fastest_is_asked_and_the_others_now_and_then(monkeypatch):
    clock = Clock(monkeypatch)

    class Timed(Deployment):
        async def complete(self, request):
            self.requests.append(request)
            clock.now += self.seconds
            return said(self.model)

    slow, fast = Timed("slow"), Timed("fast")
    slow.seconds, fast.seconds = 3.0, 1.0
    llm = of(slow, fast, routing="least_latency")
    assert await answers(llm, 20) == {"fake/slow": 1, "fake/fast": 19}
    slow.seconds = 0.1
    # After a minute without it, one call finds that it is the faster now.
    assert await answers(llm, 41) == {"fake/fast": 41}
    clock.now += 1.0
    assert await answers(llm, 40) == {"fake/slow": 40}


async def test_one_without_room_is_passed_by():
    a = Deployment("a", limits=Limits(rpm=7, sub_window=0))
    b = Deployment("b", limits=Limits(tpm=100_000, sub_window=0))
    llm = of(a, b, weights=[1000, 1])
    assert await answers(llm, 30) == {"fake/a": 7, "fake/b": 23}


async def test_two_limited_deployments_are_saturated_at_once():
    a = Deployment("a", limits=Limits(rpm=150, tpm=6000, sub_window=0))
    b = Deployment("b", limits=Limits(rpm=90, tpm=2500, sub_window=0))
    llm = of(a, b)
    limiters = [each.path.limiter for each in llm._path.lanes]
    tasks = [
        asyncio.create_task(llm.complete("word " * (i % 40), max_tokens=5)) for i in range(1, 400)
    ]

    def shares():
        snapshots = [limiter.snapshot() for limiter in limiters]
        return [max(w.used / w.limit for w in snapshot.windows) for snapshot in snapshots]

    await until(lambda: min(shares()) >= 0.97)
    most = shares()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Of each the limit that binds is used up, and never broken; who has left waits nowhere.
    assert max(most) <= 1
    assert [limiter.waiting for limiter in limiters] == [0, 0]
    assert [limiter.snapshot().in_flight for limiter in limiters] == [0, 0]


async def test_the_quotas_of_two_servers_are_used_up_without_a_refusal():
    quotas = [120, 80]
    sims = [Simulator(rpm=quota, sub_window=0, latency=0.001) for quota in quotas]
    with sims[0], sims[1]:
        llms = [
            LLM(
                "openai/m",
                base_url=sim.base_url,
                api_key="k",
                limits=Limits(rpm=quota, sub_window=0),
            )
            for sim, quota in zip(sims, quotas, strict=True)
        ]
        llm = LLM(llms)
        outcomes = await llm.map([f"p{i}" for i in range(200)], concurrency=25, deadline=50.0)
        await llm.aclose()
    assert all(outcome.ok for outcome in outcomes)
    assert [len(sim.ledger) for sim in sims] == quotas
    assert [set(sim.ledger.statuses()) for sim in sims] == [{200}, {200}]


async def test_who_waits_takes_the_first_permit_of_any():
    a, b = Held("a", limits=Limits(max_in_flight=2)), Held("b", limits=Limits(max_in_flight=3))
    llm = of(a, b)
    tasks = [asyncio.create_task(llm.complete(f"p{i}")) for i in range(12)]
    limiters = [each.path.limiter for each in llm._path.lanes]
    await until(lambda: [limiter.waiting for limiter in limiters] == [7, 7])
    assert sorted(asked(a, b)) == [2, 3]
    tasks[-1].cancel()
    b.gate.set()
    await until(lambda: sum(asked(a, b)) == 11 and sum(task.done() for task in tasks) == 10)
    assert asked(a, b) == [2, 9]
    a.gate.set()
    await asyncio.wait(tasks)
    assert [limiter.waiting for limiter in limiters] == [0, 0]
    assert [limiter.snapshot().in_flight for limiter in limiters] == [0, 0]


async def test_whenever_a_wait_is_cancelled_every_permit_comes_back():
    draw = random.Random(5)
    a, b = (Deployment(name, limits=Limits(max_in_flight=2)) for name in "ab")
    llm = of(a, b)
    limiters = [each.path.limiter for each in llm._path.lanes]
    for _ in range(150):
        tasks = [asyncio.create_task(llm.complete("hello")) for _ in range(12)]
        for _ in range(draw.randrange(12)):
            await asyncio.sleep(0)
        for task in draw.sample(tasks, 8):
            task.cancel()
            if draw.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: [limiter.waiting for limiter in limiters] == [0, 0])
    await until(lambda: [limiter.snapshot().in_flight for limiter in limiters] == [0, 0])
    assert [each.under_way for each in llm._path.lanes] == [0, 0]


# What follows a failure


async def test_a_failure_is_followed_at_once_by_another():
    never = RetryPolicy(max_retries=1, base_delay=3600.0, max_delay=3600.0, jitter="none")
    a, b = Deployment("a", InternalServerError("x")), Deployment("b")
    llm = of(a, b, retry=never)
    answer = await llm.complete("hello")
    assert answer.text == "b"
    assert [(made.model, made.error) for made in answer.attempts] == [
        ("fake/a", "InternalServerError")
    ]


async def test_a_round_is_one_attempt_of_the_policy():
    a, b = (
        Deployment("a", InternalServerError("x")),
        Deployment("b", RateLimitError("y", retry_after=0.01)),
    )
    llm = of(a, b, retry=RetryPolicy(max_retries=3, base_delay=0.001, max_delay=0.01), cooldown=0.0)
    with pytest.raises(RetriesExhaustedError, match="at 2 models or deployments") as caught:
        await llm.complete("hello")
    assert isinstance(caught.value.__cause__, InternalServerError)
    assert len(caught.value.attempts) == sum(asked(a, b))
    assert asked(a, b)[0] == 4
    assert {made.model for made in caught.value.attempts} == {"fake/a", "fake/b"}


async def test_what_is_wrong_with_the_request_is_asked_once():
    a, b = Deployment("a", BadRequestError("no")), Deployment("b", BadRequestError("no"))
    with pytest.raises(BadRequestError) as caught:
        await of(a, b).complete("hello")
    assert sum(asked(a, b)) == len(caught.value.attempts) == 1


@pytest.mark.parametrize(
    "error", [AuthenticationError("key"), NotFoundError("what"), RateLimitError("x")]
)
async def test_a_cooling_deployment_is_not_asked(error, monkeypatch):
    clock = Clock(monkeypatch)
    a, b = Deployment("a", error), Deployment("b")
    llm = of(a, b, cooldown=5.0)
    assert await answers(llm, 40) == {"fake/b": 40}
    assert asked(a, b) == [1, 40]
    assert "fake/a (cooling for" in repr(llm)
    clock.now += 61.0
    if not isinstance(error, AuthenticationError):
        a.script = [said("a")]
        assert (await answers(llm, 10))["fake/a"] == 5
    llm._path.lanes[0].path.breaker.reset()


async def test_three_failures_in_a_row_cool_a_deployment_down_and_one_call_tries_it(monkeypatch):
    clock = Clock(monkeypatch)
    a, b = Deployment("a", InternalServerError("x")), Deployment("b")
    llm = of(a, b, cooldown=5.0)
    assert await answers(llm, 40) == {"fake/b": 40}
    assert asked(a, b) == [3, 40]
    for wait, tried in ((4.9, 3), (0.2, 4), (4.9, 4), (0.2, 5)):
        clock.now += wait
        assert await answers(llm, 10) == {"fake/b": 10}
        assert len(a.requests) == tried
    clock.now += 5.1
    a.script = [said("a")]
    assert (await answers(llm, 20))["fake/a"] == 10
    # A success ends the row.
    wrong = InternalServerError("x")
    a.script = [wrong, wrong, said("a"), wrong, wrong, said("a"), said("a")]
    assert await answers(llm, 14) == {"fake/a": 5, "fake/b": 9}


async def test_what_the_server_names_is_how_long_it_cools(monkeypatch):
    clock = Clock(monkeypatch)
    a, b = Deployment("a", RateLimitError("x", retry_after=20.0)), Deployment("b")
    llm = of(a, b)
    await answers(llm, 4)
    clock.now += 19.9
    await answers(llm, 4)
    assert len(a.requests) == 1


async def test_where_all_cool_a_call_waits_for_the_first():
    a = Deployment("a", RateLimitError("x", retry_after=0.05), said("a"))
    b = Deployment("b", RateLimitError("x", retry_after=30.0))
    answer = await of(a, b).complete("hello")
    assert (answer.text, asked(a, b)) == ("a", [2, 1])


async def test_where_all_cool_a_fallback_is_asked_at_once():
    refused = RateLimitError("x", retry_after=30.0)
    a, b, c = Deployment("a", refused), Deployment("b", refused), Deployment("c")
    llm = of(a, b, fallbacks=[c])
    answer = await llm.complete("hello")
    assert (answer.text, [made.error for made in answer.attempts]) == (
        "c",
        ["RateLimitError", "RateLimitError", "CircuitOpenError"],
    )
    assert (await llm.complete("hello")).text == "c"
    assert asked(a, b, c) == [1, 1, 2]


async def test_without_a_key_that_works_nothing_waits():
    bad = AuthenticationError("no")
    a, b = Deployment("a", bad), Deployment("b", bad)
    llm = of(a, b)
    with pytest.raises(AuthenticationError):
        await llm.complete("hello")
    with pytest.raises(CircuitOpenError):
        await llm.complete("hello")
    assert asked(a, b) == [1, 1]


async def test_each_gets_the_request_as_it_takes_it():
    few = ChatCapabilities(EVERYTHING.features - {"images"}, EVERYTHING.parameters - {"seed"})
    a, b = Deployment("a", capabilities=few), Deployment("b")
    llm = of(a, b)
    for _ in range(3):
        assert (await llm.complete("hello", seed=1)).text == "b"
    assert a.requests == []
    assert await answers(llm, 2) == {"fake/a": 1, "fake/b": 1}
    with pytest.raises(ConfigurationError, match="seed"):
        await of(a, Deployment("c", capabilities=few)).complete("hello", seed=1)


async def test_one_whose_quota_is_too_small_is_passed_by():
    a, b = Deployment("a", limits=Limits(tpm=100, sub_window=0)), Deployment("b")
    llm = of(a, b)
    assert (await llm.complete("word " * 500)).text == "b"
    with pytest.raises(RequestTooLargeError):
        await of(a, Deployment("c", limits=Limits(tpm=90, sub_window=0))).complete("word " * 500)


# Streams, deadlines, many


async def test_streams_go_where_there_is_room_until_the_first_token():
    a, b = Deployment("a", InternalServerError("x")), Deployment("b", ["b1", "b2", END])
    llm = of(a, b)
    stream = llm.stream("hello")
    assert "".join([chunk.text async for chunk in stream]) == "b1b2"
    assert (stream.completion.answered_by, len(stream.completion.attempts)) == ("fake/b", 1)
    async with llm.stream("hello") as stream:
        await anext(stream)
        assert [each.under_way for each in llm._path.lanes] == [0, 1]
    limiters = [each.path.limiter for each in llm._path.lanes]
    assert [limiter.snapshot().in_flight for limiter in limiters] == [0, 0]
    cut = of(Deployment("a", ["so", InternalServerError("x")]), Deployment("b", ["so"]))
    with pytest.raises(StreamInterruptedError):
        _ = [chunk async for chunk in cut.stream("hello")]


async def test_a_deadline_holds_over_all():
    a, b = Held("a"), Held("b")
    llm = of(a, b)
    with pytest.raises(TimeoutError):
        await llm.complete("hello", deadline=0.1)
    limiters = [each.path.limiter for each in llm._path.lanes]
    assert [limiter.snapshot().in_flight for limiter in limiters] == [0, 0]
    assert [each.under_way for each in llm._path.lanes] == [0, 0]


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
async def test_a_map_over_a_router(tmp_path, mode):
    def flaky(name):
        draw = random.Random(name)

        def step(request):
            failed = draw.random() < 0.2
            return InternalServerError("x") if failed else said(request.messages[-1].content)

        return step

    a, b = Deployment("a", flaky("a")), Deployment("b", flaky("b"))
    prompts = [f"p{i}" for i in range(200)]
    llm = of(a, b, cooldown=0.001)
    outcomes = await llm.map(prompts, mode=mode, checkpoint=tmp_path / "answers")
    assert [outcome.text for outcome in outcomes] == prompts
    assert min(asked(a, b)) >= 60
    assert all(
        outcome.resumed for outcome in await llm.map(prompts, checkpoint=tmp_path / "answers")
    )
    assert [each.under_way for each in llm._path.lanes] == [0, 0]


# Making one


def test_routers_by_name():
    llm = LLM(
        "openai/gpt-4o", keys=["one", "two"], base_url="http://127.0.0.1:1/v1", limits=Limits(rpm=5)
    )
    limiters = [each.path.limiter for each in llm._path.lanes]
    assert [limiter.limits.rpm for limiter in limiters] == [5, 5]
    assert limiters[0] is not limiters[1]
    assert "one" not in repr(llm)
    own = LLM(Deployment("own"), limits=RateLimiter(Limits(rpm=9)))
    assert LLM([own, Deployment("b")])._path.lanes[0].path.limiter is own.limiter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routing": "magic"}, "routing is one of"),
        ({"routing": "least_cost", "weights": [1, 2]}, "weights are for weighted"),
        ({"weights": [1]}, "as many weights"),
        ({"weights": [1, 0]}, "numbers over 0"),
        ({"cooldown": -1}, "cooldown is"),
        ({"limits": RateLimiter(Limits())}, "a limiter of its own"),
        ({"keys": ["a"]}, "keys go to the providers"),
    ],
)
def test_routers_that_cannot_be(options, message):
    with pytest.raises(ConfigurationError, match=message):
        LLM([Deployment("a"), Deployment("b")], **options)


def test_members_that_cannot_be():
    one = LLM(Deployment("a"), temperature=0.3)
    same = Deployment("b")
    for members, message in (
        ([one, same], "options of calls"),
        ([LLM([same, Deployment("c")]), same], "named one by one"),
        ([same, same], "share one limiter"),
        ([], "no model"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            LLM(members)
    with pytest.raises(ConfigurationError, match="several models or keys"):
        LLM(same, routing="least_busy")
