"""mode="batch": what is submitted once stays one, and what is paid for is kept or told of."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time

import pytest

from batch_fakes import (
    ANTHROPIC,
    BOTH,
    FAST,
    OPENAI,
    PROMPTS,
    interrupted,
    of,
    right,
    run,
    simulated,
    with_options,
)
from tollway.errors import BadRequestError, ProviderError, RequestTooLargeError
from tollway.retry import Hedge
from tollway.simulator import BatchBehaviour, digest


@BOTH
async def test_a_slow_submission_is_not_hedged(model):
    hedge = Hedge(after=0.001)
    for _ in range(100):
        hedge.budget.deposit()
    async with simulated() as sim:
        handler = sim._server._handler

        async def handle(request):
            await asyncio.sleep(0.05)
            return await handler(request)

        sim._server._handler = handle
        outcomes = await run(of(sim, model, retry=dataclasses.replace(FAST, hedge=hedge)))
        assert right(PROMPTS, outcomes)
        assert sim.batches == 1
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


async def test_one_long_request_among_short_ones_does_not_hold_them_up():
    prompts = [*PROMPTS[:5], "word " * 1000, *PROMPTS[5:]]
    async with simulated(enqueued_tokens=500) as sim:
        async with asyncio.timeout(60):
            outcomes = await run(of(sim), prompts)
        assert isinstance(outcomes.pop(5).error, RequestTooLargeError)
        assert right(PROMPTS, outcomes)
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


@BOTH
async def test_a_prompt_that_cannot_be_written_does_not_stop_the_others(model):
    unwritable = [{"role": "user", "content": [{"type": "other", "value": object()}]}]
    async with simulated() as sim:
        first, *others = await run(of(sim, model), [unwritable, *PROMPTS])
    assert isinstance(first.error, ProviderError)
    assert isinstance(first.error.__cause__, TypeError)
    assert right(PROMPTS, others)


async def test_what_progress_raises_is_no_error_of_a_prompt(tmp_path):
    path, seen = tmp_path / "kept.jsonl", []

    def failing(progress):
        seen.append(progress.done)
        if len(seen) == 3:
            raise RuntimeError("stop")

    async with simulated() as sim:
        assert right(PROMPTS, await run(of(sim), checkpoint=path))
        with pytest.raises(RuntimeError, match="stop"):
            await run(of(sim), checkpoint=path, progress=failing)
    assert seen == [1, 2, 3]


async def test_what_a_cancelled_batch_has_no_result_for_is_not_paid_for_again():
    async with simulated(seconds=5) as sim:
        advance = sim._store.advance

        def silent(**how):
            advance(**how)
            for batch in sim._store.batches.values():
                # Of what was not answered but one has a line, by which it shows as cancelled.
                kept = [each for each in batch.results or () if each.kind == "answered"]
                if batch.results is not None and len(kept) < len(batch.results):
                    batch.results = [*kept, dataclasses.replace(batch.results[-1])]

        def cancel(_):
            for batch in sim._store.open_batches:
                batch.began, batch.cancelled = float("-inf"), 2.0

        sim._store.advance = silent
        outcomes = await run(of(sim), progress=cancel)
        assert sim.batches == 1
    assert [outcome.ok for outcome in outcomes].count(True) == 4
    errors = [outcome.error for outcome in outcomes if not outcome.ok]
    assert {(type(error), error.code) for error in errors} == {(ProviderError, "batch_cancelled")}


@BOTH
async def test_what_is_asked_in_another_form_meanwhile_is_kept_as_it_was(model, tmp_path):
    path = tmp_path / "answers.jsonl"
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with simulated(seconds=0.2) as sim:
        await interrupted(of(sim, model), path)
        (other,) = await run(of(sim, model), ["give n"], checkpoint=path, response_format=schema)
        assert other.completion.parsed["n"] > 0
        again = await run(of(sim, model), checkpoint=path)
        assert right(PROMPTS, again)
        assert all(outcome.resumed for outcome in again)


async def test_a_kept_answer_that_is_of_no_use_any_more_is_asked_for_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with simulated() as sim:
        options = {"checkpoint": path, "response_format": schema}
        await run(of(sim), ["give n"], **options)
        kept = json.loads(path.read_text())
        path.write_text(json.dumps({**kept, "text": "no JSON at all"}) + "\n")
        (outcome,) = await run(of(sim), ["give n"], **options)
        assert outcome.completion.parsed["n"] > 0
        assert not outcome.resumed


async def test_a_run_that_fails_tells_of_the_batches_that_go_on(tmp_path, caplog):
    for path in (None, tmp_path / "answers.jsonl"):
        caplog.clear()
        async with simulated(seconds=30) as sim:

            def refuse(now, sim=sim):
                if now.batches is not None and now.batches.batches == 2:
                    last = list(sim._store.batches.values())[-1]
                    last.problem = ("invalid_json_line", "This line is not parseable.")

            batch = with_options(max_requests=5)
            with pytest.raises(BadRequestError, match="nothing of it was done"):
                await run(of(sim), batch=batch, checkpoint=path, progress=refuse)
            (first, _) = sim._store.batches
            assert f"batches go on and are charged: {first}." in caplog.text
            assert ("Without a checkpoint" in caplog.text) == (path is None)


@BOTH
async def test_an_outage_at_the_start_of_the_next_run_ends_nothing(model, tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=0.1) as sim:
        await interrupted(of(sim, model), path)
        handler, refused = sim._server._handler, 0

        async def handle(request):
            nonlocal refused
            if refused < 3 * (1 + FAST.max_retries):
                refused += 1
                return None
            return await handler(request)

        sim._server._handler = handle
        assert right(PROMPTS, await run(of(sim, model), checkpoint=path))
        assert sim.batches == 1
    assert "again later" in caplog.text


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
async def test_answers_say_who_gave_them(model, tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated() as sim:
        for _ in range(2):
            outcomes = await run(of(sim, model), checkpoint=path)
            assert {outcome.completion.answered_by for outcome in outcomes} == {model}


async def test_an_answer_that_names_no_batch_is_looked_for():
    async with simulated() as sim:
        handler, has_lied = sim._server._handler, False

        async def handle(request):
            nonlocal has_lied
            response = await handler(request)
            if request.method == "POST" and request.path.endswith("/batches") and not has_lied:
                has_lied = True
                return dataclasses.replace(response, body=b"{}")
            return response

        sim._server._handler = handle
        assert right(PROMPTS, await run(of(sim)))
        assert (has_lied, sim.batches) == (True, 1)


async def test_a_clock_that_was_set_back_holds_nothing_up(tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=3600) as sim:
        await interrupted(of(sim), path)
        (named,) = (tmp_path / "answers.jsonl.batches").glob("*.json")
        entry = json.loads(named.read_bytes())
        # As if the process had been killed before it knew, and nothing had arrived.
        named.write_text(json.dumps({**entry, "attempted": time.time() + 1e6, "batch": None}))
        sim._store.batches.clear()
        sim._store.behaviour = BatchBehaviour()
        async with asyncio.timeout(60):
            assert right(PROMPTS, await run(of(sim), checkpoint=path))
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


@BOTH
async def test_a_batch_from_before_a_clock_was_set_back_is_found(model, tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=3600) as sim:
        await interrupted(of(sim, model), path)
        (named,) = (tmp_path / "answers.jsonl.batches").glob("*.json")
        entry = json.loads(named.read_bytes())
        named.write_text(json.dumps({**entry, "attempted": time.time() + 1e6, "batch": None}))
        (batch,) = sim._store.batches.values()
        batch.created -= 7200
        sim._store.behaviour = BatchBehaviour()
        async with asyncio.timeout(60):
            assert right(PROMPTS, await run(of(sim, model), checkpoint=path))
        assert sim.batches == 1
