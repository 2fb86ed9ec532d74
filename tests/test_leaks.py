"""Nothing stays open: after calls that were answered, failed, left or cancelled."""

from __future__ import annotations

import pytest

from leaks import CONCURRENCY, PROVIDERS, Census, calls, provider, settled
from tollway import RetryPolicy


@pytest.mark.parametrize("name", PROVIDERS)
async def test_calls_leave_nothing_open(name):
    async with provider(name) as (llm, _):
        await llm.aclose()
        before = await settled(llm)
        ends = await calls(llm, 150, seed=2)
        kinds = {"answered", "streamed", "left", "cancelled", "RetriesExhaustedError"}
        assert kinds | {"StreamInterruptedError"} <= set(ends), ends
        # Connections are kept for the next calls, each with an end here and one in the server.
        open_now = Census.take(llm)
        assert open_now.files <= before.files + 8 * CONCURRENCY
        assert open_now.permits == 0
        await llm.aclose()
        assert await settled(llm, before) == before


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_client_that_is_dropped_closes_what_it_opened(name):
    async with provider(name) as (kept, sim):
        await kept.aclose()
        before = await settled(kept)
        dropped = PROVIDERS[name].make(sim, retry=RetryPolicy(max_retries=9, base_delay=0.001))
        assert (await dropped.complete("hello")).text
        del dropped
        assert await settled(kept, before) == before
