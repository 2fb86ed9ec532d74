"""What a test does with each request that comes to a simulator, before it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tollway.simulator import Simulator


def hold(sim: Simulator, until: Callable[[object], Awaitable[object]]) -> None:
    """Have each request wait for `until(request)`, which runs in the simulator's loop."""
    handler = sim._server._handler

    async def handle(request):
        await until(request)
        return await handler(request)

    sim._server._handler = handle


def arrivals(sim: Simulator) -> list[object]:
    """A list that grows with each request that has come in, answered or not."""
    seen: list[object] = []

    async def note(request: object) -> None:
        seen.append(request)

    hold(sim, note)
    return seen
