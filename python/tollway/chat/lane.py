"""Permits of one call: each attempt has its own, and settles it with what it used."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from tollway.limiter import Permit, RateLimiter
    from tollway.limiter.feedback import Feedback
    from tollway.types import Usage

__all__ = ["Attempted", "Lane"]


@dataclass(frozen=True, slots=True)
class Attempted:
    """What an attempt brought, and what its answer says about limits."""

    value: Any
    feedback: Feedback | None


class Held:
    """One attempt's permit, held while its request is under way."""

    def __init__(self, lane: Lane, reservation: Any, permit: Permit) -> None:
        self._lane = lane
        self._reservation = reservation
        self._permit = permit

    def sent(self) -> None:
        """Say that the request goes out now."""
        self._permit.sent()

    def settle(self, usage: Usage) -> None:
        """Replace what was reserved by what was used, as far as the provider gives back."""
        used = usage.output_tokens
        if not self._lane.refunds:
            used = max(used, self._permit.tokens + self._permit.output_tokens - usage.input_tokens)
        self._permit.settle(
            {
                "input_tokens": usage.input_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": used,
            }
        )

    async def leave(self) -> None:
        """End the reservation; one that was not sent comes back."""
        self._permit.cancel()
        await self._reservation.__aexit__(None, None, None)


class Lane:
    """The limiter as the retries of one call use it: `acquire` before an attempt, then `learn`.

    Args:
        limiter: What permits come from.
        tokens: Input tokens of each attempt.
        output_tokens: Output tokens to reserve for each.
        priority: Of the call.
        refunds: Whether the provider gives back what an answer did not use.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        tokens: int,
        output_tokens: int,
        *,
        priority: int,
        refunds: bool,
    ) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self._output_tokens = output_tokens
        self._priority = priority
        self.refunds = refunds
        self._ready: deque[Held] = deque()

    async def __aenter__(self) -> Self:
        """Return itself; what no attempt has taken comes back at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give back what no attempt has taken."""
        while self._ready:
            await self._ready.popleft().leave()

    async def acquire(self, tokens: int = 0) -> None:
        """Wait for an attempt's permit."""
        del tokens  # the sum of what is reserved
        reservation = self._limiter.reserve(
            self._tokens, self._output_tokens, priority=self._priority
        )
        self._ready.append(Held(self, reservation, await reservation.__aenter__()))

    def take(self) -> Held:
        """Return the permit of the attempt that begins."""
        return self._ready.popleft()

    def learn(self, feedback: Feedback, **attempt: Any) -> None:
        """Have the limiter take in what an answer says; see `RateLimiter.learn`."""
        self._limiter.learn(feedback, **attempt)
