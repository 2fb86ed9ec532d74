"""Maps in batches against a simulator."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from chat_fakes import Submitted
from tollway import LLM, BatchOptions, RetryPolicy
from tollway.simulator import BatchBehaviour, Simulator, reply

OPENAI, ANTHROPIC = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
BOTH = pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
PROMPTS = [f"prompt {i}" for i in range(10)]
# As patient as a test may be.
SOON = BatchOptions(poll=0.01, longest_poll=0.05, settling=0.2)
FAST = RetryPolicy(max_retries=3, base_delay=0.001, max_delay=0.01)


def of(sim, model=OPENAI, **options):
    base_url = sim.base_url.removesuffix("/v1") if model == ANTHROPIC else sim.base_url
    return LLM(model, **{"base_url": base_url, "api_key": "k", "retry": FAST, **options})


def simulated(**behaviour):
    return Simulator(batches=BatchBehaviour(**behaviour))


def with_options(**changed):
    return dataclasses.replace(SOON, **changed)


def right(prompts, outcomes):
    return [o.text for o in outcomes] == [reply(("user", prompt)) for prompt in prompts]


async def run(llm, prompts=PROMPTS, batch=SOON, **options):
    try:
        return await llm.map(prompts, mode="batch", batch=batch, **options)
    finally:
        await llm.aclose()


async def interrupted(llm, path):
    """Run until the first batch is under way, and cancel the run."""
    submitted = Submitted()
    running = asyncio.create_task(run(llm, checkpoint=path, progress=submitted))
    await submitted.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
