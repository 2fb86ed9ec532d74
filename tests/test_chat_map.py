"""map: results in order, errors with them, and nothing sent twice after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from chat_fakes import EVERYTHING, FakeProvider, llm_of, said
from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.errors import (
    BadRequestError,
    CheckpointError,
    ConfigurationError,
    InternalServerError,
)
from tollway.simulator import Faults, Ledger, Simulator, digest, reply

FAST = RetryPolicy(max_retries=4, base_delay=0.001, max_delay=0.01)
PROMPTS = [f"prompt {i}" for i in range(200)]


def right(prompts, outcomes):
    return [o.text for o in outcomes] == [reply(("user", prompt)) for prompt in prompts]


def of(sim, **options):
    limiter = RateLimiter(Limits())
    return LLM("openai/gpt-4o", **{
        "base_url": sim.base_url, "api_key": "k", "limits": limiter, "retry": FAST, **options
    })  # fmt: skip


@pytest.fixture
def sim():
    with Simulator() as sim:
        yield sim


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
@pytest.mark.parametrize("concurrency", [1, 7, 500])
def test_results_are_in_order(sim, mode, concurrency):
    llm = of(sim)
    outcomes = llm.map_sync(PROMPTS, concurrency=concurrency, mode=mode)
    assert right(PROMPTS, outcomes)
    assert all(outcome.ok and not outcome.resumed for outcome in outcomes)
    assert len(sim.ledger) == len(PROMPTS)
    llm.aclose_sync()


async def test_sources_are_drawn_as_they_are_needed(sim):
    drawn = []

    async def source():
        for prompt in PROMPTS:
            drawn.append(prompt)
            await asyncio.sleep(0)
            yield prompt

    most = []

    def progress(now):
        most.append(len(drawn) - now.done)

    async with of(sim) as llm:
        assert right(PROMPTS, await llm.map(source(), concurrency=5, progress=progress))
        assert max(most) <= 5
        assert right(PROMPTS[:3], await llm.map(iter(PROMPTS[:3])))
        assert await llm.map([]) == []
        with pytest.raises(ConfigurationError):
            await llm.map(source(), mode="threaded")


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
async def test_one_that_fails_does_not_stop_the_others(mode):
    def answer(request):
        text = request.messages[-1].content
        return BadRequestError("no") if text.endswith("3") else said(f"{text}!")

    llm, provider = llm_of(answer)
    seen = []
    outcomes = await llm.map(
        ["1", "2", "3", "", "13", "5"], mode=mode, progress=lambda now: seen.append(now.failed)
    )
    assert [outcome.ok for outcome in outcomes] == [True, True, False, False, False, True]
    assert [type(outcome.error) for outcome in outcomes if not outcome.ok] == [
        BadRequestError,
        ConfigurationError,
        BadRequestError,
    ]
    with pytest.raises(BadRequestError):
        _ = outcomes[2].text
    assert (len(seen), max(seen)) == (6, 3)
    assert len(provider.requests) == 5


async def test_options_that_cannot_work_are_refused_at_once():
    llm, provider = llm_of(said("a"))
    for wrong in ({"concurrency": 0}, {"mode": "magic"}, {"response_format": "xml"}):
        with pytest.raises(ConfigurationError):
            await llm.map(["a"], **wrong)
    with pytest.raises(TypeError):
        await llm.map(["a"], colour="red")
    assert provider.requests == []


async def test_progress_adds_up():
    llm, _ = llm_of(said("a"), price="free")
    last = []
    await llm.map(["a"] * 10, progress=last.append)
    now = last[-1]
    assert (now.done, now.total, now.failed, now.resumed) == (10, 10, 0, 0)
    assert (now.usage.requests, now.usage.input_tokens, now.cost) == (10, 70, 0.0)


# The checkpoint


async def test_what_was_answered_is_not_sent_again(sim, tmp_path):
    path = tmp_path / "answers.jsonl"
    async with of(sim) as llm:
        assert right(PROMPTS[:50], await llm.map(PROMPTS[:50], checkpoint=path))
        sent = len(sim.ledger)
        # In another order, with more of them.
        later = PROMPTS[60:20:-1]
        outcomes = await llm.map(later, checkpoint=path)
        assert right(later, outcomes)
        assert len(sim.ledger) - sent == 11
        assert sum(outcome.resumed for outcome in outcomes) == 29
        again = await llm.map(PROMPTS[:50], checkpoint=path)
    first = again[7].completion
    assert (first.finish_reason, first.usage.requests, first.provider) == ("stop", 1, "openai")
    assert oct(path.stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"system_prompt": "s"}, {"response_format": "json"}]
)
async def test_another_request_is_another_key(sim, tmp_path, change):
    path = tmp_path / "answers.jsonl"
    async with of(sim) as llm:
        await llm.map(PROMPTS[:3], checkpoint=path)
        await llm.map(PROMPTS[:3], checkpoint=path, timeout=50.0, priority=3)
        assert len(sim.ledger) == 3
        await llm.map(PROMPTS[:3], checkpoint=path, **change)
        assert len(sim.ledger) == 6


async def test_what_a_model_is_found_not_to_take_changes_no_key(tmp_path):
    without = replace(EVERYTHING, parameters=EVERYTHING.parameters - {"temperature", "max_tokens"})

    def answer(request):
        provider.capabilities = without
        return said(request.messages[0].content)

    path = tmp_path / "answers.jsonl"
    llm, provider = llm_of(answer)
    await llm.map(PROMPTS[:9], checkpoint=path, concurrency=2)
    assert len(provider.requests) == 9
    # Another process has all to learn anew; this one learns on the way.
    for capabilities in (EVERYTHING, without):
        llm, provider = llm_of(answer, capabilities=capabilities)
        outcomes = await llm.map(PROMPTS[:10], checkpoint=path, concurrency=2)
        assert [outcome.text for outcome in outcomes] == PROMPTS[:10]
        assert len(provider.requests) == (capabilities is EVERYTHING)


async def test_equal_prompts_are_told_apart(tmp_path):
    numbers = iter(range(100))
    llm, provider = llm_of(lambda _: said(str(next(numbers))))
    path = tmp_path / "answers.jsonl"
    first = [outcome.text for outcome in await llm.map(["a"] * 5, checkpoint=path, concurrency=1)]
    assert first == list("01234")
    again = await llm.map(["a"] * 7, checkpoint=path, concurrency=1)
    assert [outcome.text for outcome in again] == list("0123456")
    assert len(provider.requests) == 7


async def test_errors_are_not_kept_and_parsed_values_are_parsed_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    llm, provider = llm_of(
        InternalServerError("x"), said('{"a": 1}'), retry=RetryPolicy(max_retries=0)
    )
    options = {"checkpoint": path, "response_format": "json"}
    (outcome,) = await llm.map(["json"], **options)
    assert not outcome.ok
    (outcome,) = await llm.map(["json"], **options)
    assert outcome.completion.parsed == {"a": 1}
    (outcome,) = await llm.map(["json"], **options)
    assert outcome.resumed
    assert outcome.completion.parsed == {"a": 1}
    assert len(provider.requests) == 2


async def test_a_torn_line_is_cut_off_and_a_foreign_one_refused(sim, tmp_path):
    path = tmp_path / "answers.jsonl"
    async with of(sim) as llm:
        await llm.map(PROMPTS[:3], checkpoint=path)
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        assert right(PROMPTS[:3], await llm.map(PROMPTS[:3], checkpoint=path))
        assert len(sim.ledger) == 4
        # What was whole stays as it was; the torn one is asked for again.
        assert path.read_bytes().splitlines()[:2] == whole.splitlines()[:2]
        path.write_text('{"some": "other file"}\n')
        with pytest.raises(CheckpointError, match=":1 is no answer"):
            await llm.map(PROMPTS[:3], checkpoint=path)
        assert path.read_text() == '{"some": "other file"}\n'
        with pytest.raises(CheckpointError, match="cannot open"):
            await llm.map(PROMPTS[:3], checkpoint=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
async def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "answers.jsonl"
    inner = []

    async def second():
        with pytest.raises(CheckpointError, match="another map"):
            await llm.map(["b"], checkpoint=path)
        inner.append(True)
        yield "a"

    llm, _ = llm_of(said("a"))
    assert (await llm.map(second(), checkpoint=path))[0].ok
    assert inner == [True]


async def test_no_key_is_in_the_checkpoint(sim, tmp_path):
    path = tmp_path / "answers.jsonl"
    async with of(sim, api_key="sk-very-secret") as llm:
        await llm.map(PROMPTS[:3], checkpoint=path, extra_headers={"x-other": "hunter2"})
    kept = path.read_text()
    assert "sk-very-secret" not in kept
    assert "hunter2" not in kept
    assert all(json.loads(line)["text"] for line in kept.splitlines())


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
async def test_cancellation_keeps_what_was_answered(tmp_path, mode):
    path = tmp_path / "answers.jsonl"
    with Simulator(latency=0.02) as sim:
        llm = of(sim)
        some = asyncio.Event()
        loop = asyncio.get_running_loop()

        def progress(now):
            if now.done == 20:
                loop.call_soon_threadsafe(some.set)

        task = asyncio.create_task(
            llm.map(PROMPTS, checkpoint=path, mode=mode, concurrency=4, progress=progress)
        )
        await some.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = len(path.read_bytes().splitlines())
        assert 20 <= kept < len(PROMPTS)
        assert right(PROMPTS, await llm.map(PROMPTS, checkpoint=path))
        answered = sim.ledger.answered_counts()
        assert sum(answered.values()) <= len(PROMPTS) + 4
        await llm.aclose()


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
async def test_a_map_that_was_cancelled_has_ended_when_that_is_said(tmp_path, mode):
    path = tmp_path / "answers.jsonl"
    begun, closed = threading.Semaphore(0), []

    class Slow(FakeProvider):
        async def complete(self, request):
            begun.release()
            try:
                await asyncio.sleep(60)
            finally:
                # As a connection takes some turns of its loop to be closed.
                for _ in range(1000):
                    await asyncio.sleep(0)
                closed.append(request)

    llm = LLM(Slow(), limits=RateLimiter(Limits()), retry=FAST)
    task = asyncio.create_task(llm.map(PROMPTS, checkpoint=path, mode=mode, concurrency=4))
    for _ in range(4):
        await asyncio.to_thread(begun.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(closed) == 4
    assert llm.limiter.snapshot().in_flight == 0


CHILD = """
import sys, tollway
base_url, path = sys.argv[1:]
llm = tollway.LLM("openai/gpt-4o", base_url=base_url, api_key="k",
                  limits=tollway.RateLimiter(tollway.Limits()))
llm.map_sync([f"prompt {i}" for i in range(200)], checkpoint=path, concurrency=5)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_at_any_moment_nothing_is_paid_twice(tmp_path):
    path = tmp_path / "answers.jsonl"
    kills = 3
    with Simulator(latency=0.01) as sim:
        for kill in range(kills):
            wanted = (kill + 1) * 30
            command = [sys.executable, "-c", textwrap.dedent(CHILD), sim.base_url, str(path)]
            with subprocess.Popen(command) as child:
                while len(sim.ledger) < wanted and child.poll() is None:
                    pass
                os.kill(child.pid, signal.SIGKILL)
        llm = of(sim)
        assert right(PROMPTS, llm.map_sync(PROMPTS, checkpoint=path))
        llm.aclose_sync()
        answered = sim.ledger.answered_counts()
    assert all(answered[digest(prompt)] >= 1 for prompt in PROMPTS)
    assert sum(answered.values()) <= len(PROMPTS) + kills * 5


def test_faults_on_the_way_change_no_result(tmp_path):
    rates = {"500": 0.1, "disconnect": 0.1, "truncated": 0.1, "error_body": 0.1, "unfinished": 0.1}
    with Simulator(faults=Faults(rates, seed=3)) as sim:
        llm = of(sim, retry=RetryPolicy(max_retries=30, base_delay=0.0, budget=None))
        assert right(PROMPTS, llm.map_sync(PROMPTS, concurrency=20))
        llm.aclose_sync()
        assert isinstance(sim.ledger, Ledger)
        assert len(sim.ledger) > len(PROMPTS)


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
@pytest.mark.parametrize(
    ("limits", "prompts", "expected"),
    [
        # 10 a second: each waits for its tenth of the first one, and the others for its end.
        ({"rpm": 600, "sub_window": 1.0}, 13, [n / 10 for n in range(1, 11)] + [1.0, 1.0]),
        ({"rpm": 600, "sub_window": (10.0, 1.0)}, 11, [n / 10 for n in range(1, 11)]),
        # As many as fit into it are not held up.
        ({"rpm": 600, "sub_window": 1.0}, 10, []),
        ({"rpm": 600, "sub_window": 0}, 13, []),
        ({"sub_window": 1.0}, 13, []),
    ],
)
def test_the_first_begin_apart_where_a_second_is_judged(
    monkeypatch, mode, limits, prompts, expected
):
    pauses, sleep = [], asyncio.sleep

    async def note(seconds, *result):
        if seconds:
            pauses.append(seconds)
        return await sleep(0, *result)

    monkeypatch.setattr(asyncio, "sleep", note)
    # A clock that stands still.
    monkeypatch.setattr("tollway.chat.map.time", SimpleNamespace(monotonic=lambda: 7.0))
    llm, _ = llm_of(said("yes"), limits=RateLimiter(Limits(**limits)))
    outcomes = llm.map_sync([f"p{i}" for i in range(prompts)], concurrency=13, mode=mode)
    assert all(outcome.ok for outcome in outcomes)
    assert sorted(pauses) == pytest.approx(expected)
