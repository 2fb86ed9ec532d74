"""What a case of a chat provider is, and what it has to work with.

A case is an async function of a `Bench`; `needs` names the features (`ChatFeature`) or parameters
(`ChatParameter`) that its provider must have. Where it has them not, `refusal` is what the suite
checks instead: that asking for it is refused before anything is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conformance.chat_providers import FAST
from tollway import Tool
from tollway.errors import (
    TollwayError,
)
from tollway.simulator import Faults, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.chat_providers import Entry
    from tollway import LLM

__all__ = ["CASES", "CLOCK", "PERSON", "PIXEL", "WEATHER", "Bench", "Case", "ask", "case", "read"]

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000000000500010d0a2db40000000049454e44ae426082"
)
WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = Tool("get_time", "The time in a city.", WEATHER.parameters)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass
class Bench:
    """One provider, and simulators to try it on."""

    entry: Entry
    sim: Simulator
    llm: LLM

    def simulator(self, **options: Any) -> Simulator:
        return Simulator(**{**self.entry.simulator, **options})

    def make(self, sim: Simulator, **options: Any) -> LLM:
        return self.entry.make(sim, **{"retry": FAST, **options})

    async def faulty(self, fault: str, call: Callable[[LLM], Any], *, times: int = 9) -> Any:
        """Run a call against a simulator in which every request meets a fault.

        Returns:
            What the call returned or raised, and the statuses of what was sent.
        """
        faults = Faults({fault: 1.0})
        async with self.simulator(faults=faults) as sim, self.make(sim) as llm:
            try:
                result = await call(llm)
            except TollwayError as error:
                result = error
            return result, [record.status for record in sim.ledger]


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Bench], Any]
    needs: frozenset[str]
    refused: bool


CASES: list[Case] = []


def case(*needs: str, refused: bool = False):
    """Add a case; `refused` says that without what it needs a `ConfigurationError` is due."""

    def add(run):
        CASES.append(Case(run.__name__, run, frozenset(needs), refused))
        return run

    return add


async def ask(llm):
    return await llm.complete("hello")


async def read(stream):
    return [chunk async for chunk in stream]
