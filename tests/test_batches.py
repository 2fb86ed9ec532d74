"""mode="batch": every prompt settled, at half the price, whatever becomes of its batch."""

from __future__ import annotations

import asyncio
import dataclasses

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
from chat_fakes import Submitted, llm_of, said
from passing import hold
from tollway import LLM, RetryPolicy
from tollway.chat.question import Question
from tollway.errors import (
    APITimeoutError,
    BadRequestError,
    CheckpointError,
    ConfigurationError,
    ContentFilterError,
    NotFoundError,
    ProviderError,
    RateLimitError,
    RequestTooLargeError,
    RetriesExhaustedError,
    StructuredOutputError,
)
from tollway.simulator import BatchBehaviour, Faults, Simulator, digest


async def source():
    for prompt in PROMPTS:
        await asyncio.sleep(0)
        yield prompt


@BOTH
@pytest.mark.parametrize("prompts", [PROMPTS, "async", []])
async def test_answers_are_in_order(model, prompts):
    async with simulated() as sim:
        outcomes = await run(of(sim, model), source() if prompts == "async" else prompts)
        assert right(prompts and PROMPTS, outcomes)
        assert sim.batches == bool(prompts)
        # Answers came in another order than the prompts.
        records = [record for record in sim.ledger if record.batch]
        assert len({record.batch for record in records}) == bool(prompts)


@BOTH
async def test_batches_are_cut_by_requests_and_told_of(model):
    seen = []
    async with simulated(seconds=0.05) as sim:
        outcomes = await run(
            of(sim, model),
            batch=with_options(max_requests=4),
            progress=lambda now: seen.append(dataclasses.replace(now)),
        )
        assert right(PROMPTS, outcomes)
        assert sim.batches == 3
    states = [now.batches for now in seen]
    assert {state.stage for state in states} == {"submitting", "waiting", "collecting"}
    assert max(state.batches for state in states) == 3
    last = states[-1]
    assert (last.batches, last.waiting, last.submitted, last.finished, last.failed) == (
        0,
        0,
        10,
        10,
        0,
    )
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (10, 10, 0)
    assert [state.submitted for state in states] == sorted(state.submitted for state in states)


async def test_batches_are_cut_by_bytes():
    async with simulated() as sim:
        llm = of(sim)
        api = llm.provider.batches()
        line = len(api.write(Question("x" * 1000, {}).build(llm.provider))) + api.rules.line_bytes
        rules = dataclasses.replace(api.rules, max_bytes=3 * line + 100)
        api.rules = rules
        llm.provider.batches = lambda: api
        prompts = [f"{i} " + "x" * 990 for i in range(7)]
        outcomes = await run(llm, [*prompts, "y" * 10_000])
        assert right(prompts, outcomes[:7])
        assert isinstance(outcomes[7].error, RequestTooLargeError)
        assert sim.batches == 3


@pytest.mark.parametrize(
    ("model", "input_price", "output_price"),
    # https://platform.openai.com/docs/pricing, https://docs.claude.com/en/docs/about-claude/pricing:
    # the column for batches, US dollars a million tokens.
    [(OPENAI, 0.075, 0.30), (ANTHROPIC, 0.50, 2.50)],
)
async def test_half_the_price(model, input_price, output_price):
    async with simulated() as sim:
        llm = of(sim, model)
        provider, _, name = model.partition("/")
        llm.provider.rules = dataclasses.replace(
            llm.provider.rules, price="listed", price_provider=provider, price_model=name
        )
        seen = []
        outcomes = await run(llm, progress=lambda now: seen.append(now.cost))
    for outcome in outcomes:
        usage = outcome.completion.usage
        cost = usage.input_tokens * input_price + usage.output_tokens * output_price
        assert outcome.completion.cost == pytest.approx(cost / 1e6)
    assert seen[-1] == pytest.approx(sum(outcome.completion.cost for outcome in outcomes))


# What goes wrong inside a batch


@BOTH
async def test_what_passes_is_sent_again_in_a_further_batch(model):
    faults = Faults({"500": 0.3, "503": 0.2, "429": 0.1}, seed=3)
    async with simulated(faults=faults) as sim:
        patient = dataclasses.replace(FAST, max_retries=20)
        outcomes = await run(of(sim, model, retry=patient))
        assert right(PROMPTS, outcomes)
        assert sim.batches > 1
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


@BOTH
async def test_attempts_end(model):
    async with simulated(faults=Faults({"500": 1.0})) as sim:
        outcomes = await run(of(sim, model))
        assert sim.batches == 1 + FAST.max_retries
    for outcome in outcomes:
        assert isinstance(outcome.error, RetriesExhaustedError)
        assert outcome.error.__cause__.status == 500


@BOTH
async def test_what_is_refused_for_good_is_not_sent_again(model, tmp_path):
    prompts = [*PROMPTS, "missing"]
    faults = Faults({"content_filter": 0.4}, seed=1)
    async with simulated(faults=faults) as sim:
        outcomes = await run(of(sim, model), prompts, checkpoint=tmp_path / "answers.jsonl")
        errors = [outcome.error for outcome in outcomes if not outcome.ok]
        assert 0 < len(errors) < len(prompts)
        assert {type(error) for error in errors} == {ContentFilterError}
        assert sim.batches == 1
        # The next run tries these alone again.
        again = await run(of(sim, model), prompts, checkpoint=tmp_path / "answers.jsonl")
        assert sum(not outcome.resumed for outcome in again) == len(errors)


@BOTH
async def test_a_batch_that_expires_keeps_what_is_done(model):
    async with simulated(seconds=0.4, window=0.2) as sim:
        outcomes = await run(of(sim, model, retry=RetryPolicy(max_retries=0)))
        done = [outcome for outcome in outcomes if outcome.ok]
        assert 0 < len(done) < len(PROMPTS)
        assert sum(sim.ledger.answered_counts().values()) == len(done)
    for outcome in outcomes:
        if not outcome.ok:
            error = outcome.error.__cause__
            assert isinstance(error, APITimeoutError)
            assert error.code == "batch_expired"
            assert "expired" in str(error)


@BOTH
async def test_what_expired_is_sent_again(model):
    async with simulated(seconds=0.2, window=0.1) as sim:

        def progress(_):
            if any(batch.results for batch in sim._store.batches.values()):
                sim._store.behaviour = BatchBehaviour()

        outcomes = await run(of(sim, model), progress=progress)
        assert sim.batches == 2
        assert right(PROMPTS, outcomes)
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


@BOTH
async def test_a_batch_that_somebody_cancels_says_so(model):
    async with simulated(seconds=5) as sim:

        def cancel(_):
            for batch in sim._store.open_batches:
                batch.began, batch.cancelled = float("-inf"), 2.0

        outcomes = await run(of(sim, model), progress=cancel)
        assert sim.batches == 1
    assert [outcome.ok for outcome in outcomes].count(True) == 4
    errors = [outcome.error for outcome in outcomes if not outcome.ok]
    assert {(type(error), error.code) for error in errors} == {(ProviderError, "batch_cancelled")}


async def test_a_result_that_is_not_there_is_asked_for_again():
    async with simulated() as sim:
        advance = sim._store.advance

        def forgetful(**how):
            advance(**how)
            first = next(iter(sim._store.batches.values()), None)
            if first is not None and first.results:
                first.results = first.results[:8]

        sim._store.advance = forgetful
        assert right(PROMPTS, await run(of(sim)))
        assert sim.batches == 2


@BOTH
async def test_what_a_model_does_not_take_is_learned_inside_a_batch(model):
    name = f"{model}-unheard-of-{id(model)}"
    refuses = frozenset({"temperature"})
    async with Simulator(refuses=refuses) as sim:
        assert right(PROMPTS, await run(of(sim, name) if model == OPENAI else of_claude(sim, name)))
        assert sim.batches == 2


def of_claude(sim, model):
    return LLM(model, base_url=sim.base_url.removesuffix("/v1"), api_key="k", retry=FAST)


@BOTH
async def test_json_is_checked(model):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with simulated() as sim:
        good, bad = await run(
            of(sim, model), ["give n", "[[say nothing of the kind]]"], response_format=schema
        )
    assert good.completion.parsed["n"] > 0
    assert isinstance(bad.error, StructuredOutputError)
    assert bad.error.completion.text == "nothing of the kind"


# What goes wrong around it


@pytest.mark.parametrize("fault", ["500", "503", "disconnect", "truncated"])
@BOTH
async def test_nothing_is_submitted_twice_over_a_bad_line(model, fault):
    """A submission that is not answered may have arrived: it is looked for first."""
    async with Simulator(faults=Faults({fault: 0.3}, seed=5)) as sim:
        patient = dataclasses.replace(FAST, max_retries=50)
        assert right(PROMPTS, await run(of(sim, model, retry=patient)))
        assert sim.batches == 1
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


@BOTH
async def test_an_outage_while_it_is_waited_ends_nothing(model, caplog):
    async with simulated(seconds=0.1) as sim:
        handler, refused = sim._server._handler, 0

        async def handle(request):
            nonlocal refused
            if sim.batches and refused < 3 * (1 + FAST.max_retries):
                refused += 1
                return None
            return await handler(request)

        sim._server._handler = handle
        assert right(PROMPTS, await run(of(sim, model)))
        # One more, unanswered, is the submission's own.
        assert (refused, sim.batches) == (12, 1)
    assert "again later" in caplog.text


async def test_a_batch_that_is_refused_whole_is_an_error(tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated(refused=1) as sim:
        with pytest.raises(BadRequestError, match="nothing of it was done") as caught:
            await run(of(sim), checkpoint=path)
        assert caught.value.code == "invalid_json_line"
        assert not (tmp_path / "answers.jsonl.batches").exists()
        assert right(PROMPTS, await run(of(sim), checkpoint=path))


async def test_a_model_that_is_not_there():
    async with simulated() as sim:
        with pytest.raises(NotFoundError, match="missing-model"):
            await run(of(sim, "openai/missing-model"))
        outcomes = await run(of(sim, ANTHROPIC), extra_body={"max_tokens": "many"})
        assert {type(outcome.error) for outcome in outcomes} == {BadRequestError}


async def test_the_queue_for_tokens_is_learned_and_held():
    """Batches over what may be enqueued are cut again, and wait for each other."""
    async with simulated(seconds=0.05, enqueued_tokens=10) as sim:
        most = 0

        def progress(now):
            nonlocal most
            most = max(most, now.batches.batches if now.batches else 0)

        assert right(PROMPTS, await run(of(sim), progress=progress))
        assert sim.batches > 3
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


async def test_a_queue_that_is_full_of_others_is_waited_for(caplog):
    async with simulated(seconds=3600, enqueued_tokens=1_000) as sim:
        long = "word " * 900
        submitted = Submitted()
        first = asyncio.create_task(run(of(sim), [long], progress=submitted))
        await submitted.wait()
        second = asyncio.create_task(run(of(sim), ["other " * 900]))
        async with asyncio.timeout(60):
            while "Enqueued token limit reached" not in caplog.text:  # noqa: ASYNC110 - it is a log
                await asyncio.sleep(0.01)
        sim._store.behaviour = BatchBehaviour(enqueued_tokens=1_000)
        assert [answer.ok for answer in [*await first, *await second]] == [True, True]


async def test_a_request_over_the_whole_queue_is_an_error():
    async with simulated(enqueued_tokens=100) as sim:
        long, short = await run(of(sim), ["word " * 900, "short"])
    assert isinstance(long.error, RequestTooLargeError)
    assert short.ok


async def test_tokens_are_held_from_the_start_where_they_are_told():
    async with simulated(seconds=0.05, enqueued_tokens=60) as sim:
        outcomes = await run(of(sim), batch=with_options(max_enqueued_tokens=60))
        assert right(PROMPTS, outcomes)
        assert not any(batch.problem for batch in sim._store.batches.values())


async def test_a_full_queue_of_requests_empties_with_our_own():
    async with simulated(seconds=0.05, queue=5) as sim:
        outcomes = await run(of(sim, ANTHROPIC), batch=with_options(max_requests=4))
        assert right(PROMPTS, outcomes)
    async with simulated(queue=5) as sim:
        with pytest.raises(RetriesExhaustedError) as caught:
            await run(of(sim, ANTHROPIC))
        assert isinstance(caught.value.__cause__, RateLimitError)


# Going on


@BOTH
async def test_what_is_interrupted_is_collected_by_the_next_run(model, tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=0.3) as sim:
        await interrupted(of(sim, model), path)
        (batch,) = sim._store.batches
        assert "these batches go on" in caplog.text
        assert batch in caplog.text
        with pytest.raises(CheckpointError, match='mode="batch"'):
            await of(sim, model).map(PROMPTS, checkpoint=path)
        # In another order, one taken out and one added.
        later = [*reversed(PROMPTS[1:]), "one more"]
        assert right(later, await run(of(sim, model), later, checkpoint=path))
        # What nobody asked for any more was paid for, and is kept.
        assert len(path.read_text().splitlines()) == 11
        assert right(PROMPTS, await run(of(sim, model), checkpoint=path))
        assert sim.batches == 2
        assert sim.ledger.answered_counts() == {digest(p): 1 for p in [*PROMPTS, "one more"]}


@BOTH
async def test_batches_are_cancelled_where_that_is_asked_for(model, tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=3600) as sim:
        submitted = Submitted()
        cancelling = with_options(on_interrupt="cancel")
        running = asyncio.create_task(
            run(of(sim, model), batch=cancelling, checkpoint=path, progress=submitted)
        )
        await submitted.wait()
        # A third of it is done by now.
        for batch in sim._store.open_batches:
            batch.began -= 1200
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "were cancelled" in caplog.text
        assert not [batch for batch in sim._store.open_batches if batch.cancelled is None]
        sim._store.advance()
        assert not sim._store.open_batches
        sim._store.behaviour = BatchBehaviour()
        assert right(PROMPTS, await run(of(sim, model), checkpoint=path))
        assert sim.batches == 2
        # What was answered before it was cancelled is not asked again.
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}


async def test_a_batch_of_another_model_is_not_given_up(tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=5) as sim:
        await interrupted(of(sim), path)
        with pytest.raises(CheckpointError, match="openai/gpt-4o-mini"):
            await run(of(sim, "openai/gpt-4o"), checkpoint=path)
        sim._store.batches.clear()
        with pytest.raises(CheckpointError, match="knows no batch"):
            await run(of(sim), checkpoint=path)
        assert list((tmp_path / "answers.jsonl.batches").iterdir())


async def test_no_secret_and_no_stranger_reads_what_is_kept(tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated(seconds=5) as sim:
        submitted = Submitted()
        llm = of(sim, api_key="sk-secret")
        running = asyncio.create_task(run(llm, checkpoint=path, progress=submitted))
        await submitted.wait()
        folder = tmp_path / "answers.jsonl.batches"
        assert folder.stat().st_mode & 0o077 == 0
        for file in folder.iterdir():
            assert b"sk-secret" not in file.read_bytes()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_who_has_no_batch_api_says_who_has():
    llm, _ = llm_of(said("a"))
    with pytest.raises(ConfigurationError, match="openai, azure and anthropic"):
        await llm.map(["a"], mode="batch")


async def test_interrupted_in_the_middle_of_a_submission(tmp_path, caplog):
    path = tmp_path / "answers.jsonl"
    async with Simulator(batches=BatchBehaviour()) as sim:
        interrupted = asyncio.Event()

        async def until(request):
            if request.method == "POST" and request.path.endswith("/batches"):
                await interrupted.wait()

        hold(sim, until)
        running = asyncio.create_task(run(of(sim), checkpoint=path))
        # The file is there; the batch is on its way.
        await asyncio.sleep(0)
        folder = tmp_path / "answers.jsonl.batches"
        async with asyncio.timeout(30):
            while not list(folder.glob("*.json")):  # noqa: ASYNC110 - of another's making
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        interrupted.set()
        assert "perhaps one more of 10 requests" in caplog.text
        assert right(PROMPTS, await run(of(sim), checkpoint=path))
        assert sim.ledger.answered_counts() == {digest(prompt): 1 for prompt in PROMPTS}
