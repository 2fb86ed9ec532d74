"""Several deployments, keys or models behind one `LLM`: each call goes to one that can take it.

Deployments keep limiters and circuit breakers of their own, shared with whoever else uses them. A
call is sent where a permit is to be had at once, in the order of the routing. Where none has room,
it waits in the queues of all of them, takes the first permit that is given and leaves the others.
So the order decides as long as there is room, and no quota is left unused while calls wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

from tollway.chat.lane import Lane
from tollway.chat.turn import ONCE, Turn
from tollway.errors import (
    ConfigurationError,
    RetriesExhaustedError,
    StreamInterruptedError,
    TollwayError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence

    from tollway.chat.path import Begun, Build, CallPath, Prepared
    from tollway.limiter import RateLimiter
    from tollway.providers import ChatProvider, ChatRequest
    from tollway.retry import RetryBudget, RetryPolicy
    from tollway.types import Chunk, Completion

__all__ = ["Router", "Routing"]

T = TypeVar("T")

Routing: TypeAlias = Literal["least_busy", "weighted", "least_cost", "least_latency"]


class Router:
    """Sends requests to one of several deployments; in the place of a `CallPath`.

    Args:
        paths: The deployments.
        retry: When to try again once all that may be asked have failed.
        routing: In which order they are tried.
        weights: For `weighted`: their shares.
        cooldown: Seconds for which one is not asked after failures.
        has_fallback: Where all cool down, leave the call to a fallback at once instead of waiting.

    Raises:
        ConfigurationError: No such routing, weights that are none, or two with one quota.
    """

    def __init__(
        self,
        paths: Sequence[CallPath],
        retry: RetryPolicy,
        *,
        routing: Routing | None = None,
        weights: Sequence[float] | None = None,
        cooldown: float = 5.0,
        has_fallback: bool = False,
    ) -> None:
        self.routing: Routing = routing or ("weighted" if weights else "least_busy")
        shares = list(weights) if weights else [1.0] * len(paths)
        _check(paths, self.routing, shares, has_weights=weights is not None, cooldown=cooldown)
        self.retry = retry
        self.lanes = [
            Lane(path, cooldown, share) for path, share in zip(paths, shares, strict=True)
        ]
        self.is_patient = not has_fallback
        self._draw: Callable[[], float] = random.random
        self._serial = itertools.count(1)

    def __repr__(self) -> str:
        """Show the deployments."""
        return f"<Router {self.routing}: {', '.join(map(repr, self.lanes))}>"

    @property
    def provider(self) -> ChatProvider:
        """That of the first."""
        return self.lanes[0].path.provider

    @property
    def limiter(self) -> RateLimiter:
        """That of the first."""
        return self.lanes[0].path.limiter

    @property
    def model(self) -> str:
        """`provider/model` of the first."""
        return self.lanes[0].path.model

    @property
    def quota_key(self) -> Hashable:
        """Those of all."""
        return tuple(lane.path.quota_key for lane in self.lanes)

    async def complete(
        self,
        build: Build,
        *,
        until: float | None = None,
        priority: int = 0,
        budget: RetryBudget | None = None,
    ) -> Completion:
        """Send a request until it is answered; see `CallPath.complete`."""
        turn = Turn(self, build, "complete", priority, until)

        async def send(lane: Lane, prepared: Prepared, limiter: RateLimiter) -> Completion:
            with lane.request():
                return await lane.path.send(prepared, ONCE, limiter)

        answer = await self._call(turn, send, until, budget)
        return dataclasses.replace(answer, attempts=tuple(turn.attempts))

    async def stream(
        self,
        prepared: Prepared,
        *,
        until: float | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[Chunk, None]:
        """Send a request and pass on the pieces of its answer; see `CallPath.stream`."""
        turn = Turn(self, prepared.build, "stream", priority, until)
        every: list[Begun] = []
        kept: Begun | None = None

        async def send(lane: Lane, prepared: Prepared, limiter: RateLimiter) -> tuple[Lane, Begun]:
            with lane.request():
                every.append(await lane.path.begin(prepared, ONCE, limiter))
            return lane, every[-1]

        try:
            lane, begun = await self._call(turn, send, until, None)
            kept = begun
        finally:
            # A race of hedged rounds that is cancelled at its end leaves one that has begun.
            for each in every:
                if each is not kept:
                    await each.aclose()
        begun = dataclasses.replace(begun, attempts=tuple(turn.attempts))
        with lane.request():
            try:
                async with contextlib.aclosing(lane.path.rest(begun, until)) as rest:
                    async for chunk in rest:
                        yield chunk
            except StreamInterruptedError as error:
                lane.failed(error)
                raise

    def request(self, build: Build) -> ChatRequest:
        """Return the request as the first deployment gets it that takes it; see `prepare`."""
        for lane in self.lanes[:-1]:
            with contextlib.suppress(ConfigurationError):
                return lane.path.request(build)
        return self.lanes[-1].path.request(build)

    def prepare(self, build: Build) -> Prepared:
        """Return the request as the first deployment gets it that takes it.

        Raises:
            ConfigurationError: None takes it.
        """
        for lane in self.lanes[:-1]:
            with contextlib.suppress(ConfigurationError):
                return lane.path.prepare(build)
        return self.lanes[-1].path.prepare(build)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        for lane in self.lanes:
            await lane.path.provider.aclose()

    async def _call(
        self,
        turn: Turn,
        send: Callable[[Lane, Prepared, RateLimiter], Awaitable[T]],
        until: float | None,
        budget: RetryBudget | None,
    ) -> T:
        try:
            return await self.retry.call(lambda: turn.round(send), until=until, budget=budget)
        except RetriesExhaustedError as error:
            attempts = tuple(turn.attempts)
            raise RetriesExhaustedError(
                f"{len(attempts)} attempts at {len({made.model for made in attempts})} models or "
                f"deployments failed: {error}",
                attempts,
            ) from error.__cause__
        except TollwayError as error:
            error.attempts = tuple(turn.attempts)
            raise

    def choose(self, lane: Lane) -> None:
        """Note that a lane was chosen."""
        lane.chosen = next(self._serial)

    def order(self, lanes: Sequence[Lane], turn: Turn, now: float) -> list[Lane]:
        """Return deployments as they are to be tried.

        One that has failed lately goes first while nothing is under way to it, to show whether it
        works again: the call goes elsewhere if it does not. After that it goes last.
        """
        keys = {lane: self._key(lane, turn, now) for lane in lanes}

        def place(lane: Lane) -> tuple[int, float, float, int]:
            rank = 0 if not lane.is_doubtful else 1 if lane.under_way else -1
            return (rank, *keys[lane], lane.chosen)

        return sorted(lanes, key=place)

    def _key(self, lane: Lane, turn: Turn, now: float) -> tuple[float, float]:
        if self.routing == "weighted":
            # The largest of u^(1/w) is lane i with probability w_i by the sum of all: Efraimidis
            # and Spirakis, "Weighted random sampling with a reservoir", 2006.
            return (-(self._draw() ** (1 / lane.weight)), 0.0)
        if self.routing == "least_latency":
            return (lane.seconds(turn.kind, now), lane.load())
        if self.routing == "least_cost":
            return (turn.cost(lane), lane.load())
        return (lane.load(), 0.0)


def _check(
    paths: Sequence[CallPath],
    routing: str,
    shares: Sequence[float],
    *,
    has_weights: bool,
    cooldown: float,
) -> None:
    if routing not in get_args(Routing):
        raise ConfigurationError(
            f"routing is one of {', '.join(get_args(Routing))}, not {routing!r}"
        )
    if has_weights and routing != "weighted":
        raise ConfigurationError(f"weights are for weighted routing, not for {routing}")
    if len(shares) != len(paths):
        raise ConfigurationError(
            f"{len(paths)} deployments need as many weights, not {len(shares)}"
        )
    if not all(0 < share < float("inf") for share in shares):
        raise ConfigurationError(f"weights are numbers over 0, not {list(shares)}")
    if not 0 <= cooldown < float("inf"):
        raise ConfigurationError(f"cooldown is a number of seconds, not {cooldown!r}")
    if len({id(path.limiter) for path in paths}) < len(paths):
        raise ConfigurationError(
            "two deployments share one limiter: name each once, with limits of its own"
        )
