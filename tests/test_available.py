"""available: what can be reached, what cannot, and why; never an exception."""

from __future__ import annotations

import asyncio

import pytest

from chat_fakes import FakeProvider, llm_of, said
from conformance.chat_providers import ENTRIES, KEY
from tollway import LLM, Limits, RateLimiter
from tollway.errors import APIConnectionError, AuthenticationError
from tollway.providers import Checked
from tollway.simulator import Simulator

BY_NAME = {entry.name: entry for entry in ENTRIES}
CHECKED = [entry for entry in ENTRIES if entry.name != "bedrock"]


@pytest.fixture
def sim():
    with Simulator(api_keys={KEY}) as sim:
        yield sim


@pytest.mark.parametrize("entry", CHECKED, ids=lambda entry: entry.name)
async def test_each_provider_says_that_it_is_there(sim, entry):
    async with entry.make(sim) as llm:
        found = await llm.available()
    assert (found.ok, bool(found)) == (True, True), found.reason
    assert found.seconds > 0
    # Nothing was asked that costs anything.
    assert sim.ledger.worst_window(3600) == (0, 0)


@pytest.mark.parametrize(
    "entry",
    # At Vertex there is no key.
    [entry for entry in CHECKED if entry.name != "gemini vertex"],
    ids=lambda entry: entry.name,
)
async def test_a_wrong_key_is_a_reason(sim, entry):
    wrong = "sk-wrong-0123456789"
    async with entry.make(sim, api_key=wrong) as llm:
        found = await llm.available()
    assert found.ok is False
    assert "Error: " in found.reason
    assert wrong not in found.reason


@pytest.mark.parametrize("entry", CHECKED, ids=lambda entry: entry.name)
async def test_what_does_not_listen_is_a_reason(entry):
    with Simulator() as sim:
        llm = entry.make(sim)
    found = await llm.available()
    assert found.ok is False
    assert "APIConnectionError" in found.reason
    await llm.aclose()


async def test_what_offers_no_free_check_is_not_known(sim):
    async with BY_NAME["bedrock"].make(sim) as llm:
        found = await llm.available()
    assert (found.ok, bool(found)) == (None, False)
    assert "no check that is free" in found.reason


async def test_a_model_that_is_not_there(sim):
    address = sim.base_url.removesuffix("/v1")
    async with LLM("ollama/nothing", base_url=address, api_key=KEY) as llm:
        found = await llm.available()
    assert found.ok is False
    assert "there is no model of this name; there are" in found.reason
    assert found.models
    async with LLM("openai/nothing-listed", base_url=sim.base_url, api_key=KEY) as llm:
        found = await llm.available()
    # An endpoint may know more names than it lists.
    assert (found.ok, "does not tell" in found.reason) == (True, True)


class Checking(FakeProvider):
    """A fake that can be checked."""

    def __init__(self, name, found):
        super().__init__(said(name), model=name)
        self.found = found

    async def check(self):
        if isinstance(self.found, Exception):
            raise self.found
        await asyncio.sleep(self.found if isinstance(self.found, float) else 0)
        return self.found


def made(name, found):
    return LLM(Checking(name, found), limits=RateLimiter(Limits()))


def test_one_of_a_router_is_enough():
    there = made("b", Checked("its list", has_model=True, models=("b",)))
    found = LLM([made("a", APIConnectionError("gone")), there]).available_sync()
    assert (found.ok, found.models) == (True, ("b",))
    assert found.reason == (
        "fake/a: APIConnectionError: gone; fake/b: answered when asked for its list"
    )
    assert (
        LLM([made("a", APIConnectionError("gone")), llm_of(said(""))[0]]).available_sync().ok
        is None
    )
    gone = LLM([made("a", APIConnectionError("x")), made("b", AuthenticationError("y"))])
    assert gone.available_sync().ok is False


async def test_one_that_does_not_answer_and_one_that_refused_before():
    found = await made("a", 3600.0).available(timeout=0.05)
    assert (found.ok, found.reason) == (False, "no answer within 0.05 s")
    llm, provider = llm_of(AuthenticationError("no key"))
    with pytest.raises(AuthenticationError):
        await llm.complete("hello")
    found = await llm.available()
    assert found.reason.startswith("CircuitOpenError: fake/gpt-4o is not asked")
    assert len(provider.requests) == 1
