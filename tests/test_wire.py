"""A request counts from when its last byte is written, not from when the SDK is called."""

from __future__ import annotations

import asyncio
import time

import pytest

from conformance import chat_providers
from passing import hold
from tollway import Limits, RateLimiter
from tollway.limiter.permit import Permit
from tollway.simulator import Simulator
from tollway.wire import on_written

TOLD = [
    chat_providers.openai,
    chat_providers.azure,
    chat_providers.azure_v1,
    chat_providers.anthropic,
]


@pytest.fixture(params=TOLD, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def told(monkeypatch):
    """When permits were told that their request is sent."""
    times = []
    sent = Permit.sent

    def record(self):
        times.append(time.monotonic())
        sent(self)

    monkeypatch.setattr(Permit, "sent", record)
    return times


async def test_the_last_byte_is_told_of_before_the_answer(make, told):
    async def until_told(request):
        del request
        async with asyncio.timeout(30):
            while len(told) % 2:  # noqa: ASYNC110 - of another loop
                await asyncio.sleep(0.001)

    async with Simulator() as sim, make(sim, limits=Limits(rpm=1_000)) as llm:
        hold(sim, until_told)
        await llm.complete("one")
        assert len(told) == 2
        async with llm.stream("two") as stream:
            async for _ in stream:
                pass
        assert len(told) == 4
        assert sim.ledger.statuses() == {200: 2}
    assert on_written.get() is None


async def test_what_keeps_a_request_from_the_wire_is_counted(make, told):
    """A loop that stands still between the call and the wire makes the request count later."""
    limiter = RateLimiter(Limits(rps=1))

    async def late(request):
        del request
        time.sleep(0.3)  # noqa: ASYNC251 - as a collection of garbage does

    async with Simulator() as sim, make(sim, limits=limiter) as llm:
        await llm.provider.open()
        llm.provider._clients.get()._client.event_hooks["request"].append(late)
        await llm.complete("one")
        wait = limiter.try_acquire()
        before, written = told
        assert written - before >= 0.3
        # A second and more from when it was written: from its permit 0.7 would be left.
        assert wait > 1 - (time.monotonic() - written)
