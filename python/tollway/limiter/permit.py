"""Reservations: what a request is expected to take, until it is known what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tollway import _core
    from tollway.limiter.limiter import RateLimiter

__all__ = ["Permit", "Reservation"]


class Permit:
    """A reservation that was admitted; made by `RateLimiter.reserve` and `RateLimiter.hold`.

    Attributes:
        tokens: Input tokens reserved.
        output_tokens: Output tokens reserved.
    """

    __slots__ = (
        "_cached_free",
        "_core",
        "_generation",
        "_is_released",
        "_is_sent",
        "_is_settled",
        "_limiter",
        "_stamp",
        "output_tokens",
        "tokens",
    )

    def __init__(
        self, limiter: RateLimiter, core: _core.Limiter, stamp: int, tokens: int, output_tokens: int
    ) -> None:
        self.tokens = tokens
        self.output_tokens = output_tokens
        self._limiter = limiter
        self._core = core
        self._stamp = stamp
        self._cached_free = bool(limiter.limits.cached_free)
        self._is_sent = False
        self._is_settled = False
        self._is_released = False
        # A forked child has none of its parent's requests under way.
        self._generation = limiter.generation

    def sent(self) -> None:
        """Say that the request goes out now: from here on it counts, whatever becomes of it.

        One sent so long after its permit that half the margin of the windows does not cover it is
        charged at this time instead. Say it again once the last byte is written, where an HTTP
        client tells; then that time counts.
        """
        if not self._is_settled:
            self._is_sent = True
            self._stamp = self._core.sent(self._stamp, self.tokens, self.output_tokens)

    def settle(self, usage: Mapping[str, Any] | object) -> None:
        """Replace what was reserved by what the provider counted.

        What was not used comes back to the windows that it was taken from; what was used beyond is
        charged now. Later calls do nothing.

        Args:
            usage: Has `input_tokens`, and `output_tokens` where the request was for output, as
                attributes or as keys; `cached_tokens` are part of the input tokens, and do not
                count where the limits say `cached_free`. A number that is missing or None is as
                reserved (of cached tokens: 0).

        Raises:
            ConfigurationError: A number is not a whole number from 0. The reservation stands.
        """
        if self._is_settled:
            return
        tokens = _read(usage, "input_tokens", self.tokens)
        if self._cached_free:
            tokens = max(0, tokens - _read(usage, "cached_tokens", 0))
        output_tokens = _read(usage, "output_tokens", self.output_tokens)
        self._is_settled = True
        self._core.settle(self._stamp, self.tokens, self.output_tokens, tokens, output_tokens)
        self._limiter.serve_soon()

    def cancel(self) -> None:
        """Give everything back, the request included, if it was neither sent nor settled."""
        if not self._is_sent and not self._is_settled:
            self._is_settled = True
            self._core.refund(self._stamp, self.tokens, self.output_tokens)
            self._limiter.serve_soon()

    def release(self) -> None:
        """Say that the request is under way no more: of `max_in_flight`, another may begin.

        Later calls do nothing. What it took stays taken; `settle` may also come afterwards.
        """
        if not self._is_released:
            self._is_released = True
            if self._generation == self._limiter.generation:
                self._limiter.end_lease(self._core)


def _read(usage: Mapping[str, Any] | object, name: str, missing: int) -> int:
    get = getattr(usage, "get", None)
    value = getattr(usage, name, None) if get is None else get(name)
    if value is None:
        return missing
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ConfigurationError(f"{name} must be a whole number from 0, not {value!r}")
    return value


class Reservation:
    """The wait for a permit and the time for which it is held, by `with` or `async with`."""

    __slots__ = (
        "_is_begun",
        "_limiter",
        "_permit",
        "_priority",
        "_timeout",
        "output_tokens",
        "tokens",
    )

    def __init__(
        self,
        limiter: RateLimiter,
        tokens: int,
        output_tokens: int,
        priority: int,
        timeout: float | None,
    ) -> None:
        self.tokens = tokens
        self.output_tokens = output_tokens
        self._limiter = limiter
        self._priority = priority
        self._timeout = timeout
        self._is_begun = False
        self._permit: Permit | None = None

    async def __aenter__(self) -> Permit:
        """Wait in this task; see `RateLimiter.reserve`."""
        self._begin()
        try:
            self._permit = await self._limiter.hold(
                self.tokens, self.output_tokens, priority=self._priority, timeout=self._timeout
            )
        except BaseException:
            self._is_begun = False
            raise
        return self._permit

    def __enter__(self) -> Permit:
        """Wait in this thread; see `RateLimiter.reserve`."""
        self._begin()
        try:
            self._permit = self._limiter.hold_sync(
                self.tokens, self.output_tokens, priority=self._priority, timeout=self._timeout
            )
        except BaseException:
            self._is_begun = False
            raise
        return self._permit

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the reservation; one that was not sent comes back where the block raised."""
        self._end(is_failed=kind is not None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the reservation; one that was not sent comes back where the block raised."""
        self._end(is_failed=kind is not None)

    def _begin(self) -> None:
        if self._is_begun:
            # It has room for one permit; the other would never be released.
            raise RuntimeError("this reservation is under way; call reserve() for each request")
        self._is_begun = True

    def _end(self, *, is_failed: bool) -> None:
        self._is_begun = False
        permit, self._permit = self._permit, None
        if permit is not None:
            if is_failed:
                permit.cancel()
            permit.release()
