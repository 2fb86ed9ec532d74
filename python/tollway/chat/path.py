"""The one path of every request: retry (breaker, deadline), limiter, provider; then its price."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tollway.chat.meter import Meter
from tollway.chat.stream import Assembly, Opened, has_token, next_chunk
from tollway.embed.limits import limiter_of
from tollway.errors import (
    APITimeoutError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    DeadlineExceededError,
    ProviderError,
    StreamInterruptedError,
    TollwayError,
)
from tollway.retry import CallRecord, shared_breaker
from tollway.retry.interrupt import failure_of
from tollway.tokens import TokenCount
from tollway.types import Chunk, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Mapping

    from tollway.limiter import Limits, Permit, RateLimiter
    from tollway.limiter.feedback import Feedback
    from tollway.providers import ChatProvider, ChatRequest
    from tollway.retry import RetryBudget, RetryPolicy
    from tollway.types import Attempt, Completion

__all__ = ["Begun", "Build", "CallPath", "Prepared"]

Build: TypeAlias = "Callable[[ChatProvider], ChatRequest]"
"""Returns a request as one provider takes it, by what is known of it now."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Attempted:
    """What an attempt brought, and what its answer says to the limiter."""

    value: Any
    feedback: Feedback | None
    usage: Usage | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is ready to be sent.

    Attributes:
        build: What made it.
        request: As the provider gets it.
        counted: Its tokens.
        reserved: Output tokens to reserve.
    """

    build: Build
    request: ChatRequest
    counted: TokenCount
    reserved: int


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A stream whose answer has begun, and the permit that it holds.

    Attributes:
        opened: The stream.
        permit: To be settled and released at its end.
        prepared: The request.
        attempts: Those that failed before.
    """

    opened: Opened
    permit: Permit
    prepared: Prepared
    attempts: tuple[Attempt, ...]

    async def aclose(self) -> None:
        """Give it up: close the stream and release the permit."""
        self.permit.release()
        await self.opened.chunks.aclose()


class CallPath:
    """Sends requests to one provider.

    Args:
        provider: Who answers.
        limits: As `LLM` takes them.
        retry: When to try again.
    """

    def __init__(
        self,
        provider: ChatProvider,
        limits: Limits | RateLimiter | Literal["auto"] | None,
        retry: RetryPolicy,
    ) -> None:
        self.provider = provider
        self.retry = retry
        self.limiter = limiter_of(provider, limits)
        self.breaker = shared_breaker(provider.quota_key, self.model)
        self._meter = Meter(provider)
        self._is_ready = False

    @property
    def model(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.provider.model}"

    @property
    def streams(self) -> bool:
        """Whether the model answers piece by piece."""
        return "stream" in self.provider.capabilities.features

    @property
    def quota_key(self) -> Hashable:
        """What shares one quota."""
        return self.provider.quota_key

    async def open(self) -> None:
        """Make ready for this event loop, with all that the first request would load.

        Half a second may pass, which must not lie between a permit and the wire.
        """
        await self.provider.open()
        if not self._is_ready:
            self._meter.cost(Usage(requests=1))
            self._is_ready = True

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self.provider.aclose()

    def request(self, build: Build) -> ChatRequest:
        """Return the request as the model takes it.

        Raises:
            ConfigurationError: The model does not take what is asked for.
        """
        return build(self.provider)

    def prepare(self, build: Build) -> Prepared:
        """Return the request that is to be sent, with what it will take.

        Raises:
            ConfigurationError: The model does not take what is asked for.
        """
        request = self.request(build)
        counted = self._meter.count(request)
        reserved = self._meter.reserve(request, counted, self.limiter.current_limits)
        return Prepared(build, request, counted, reserved)

    def again(self, prepared: Prepared) -> Prepared | None:
        """Return a refused request as it is built now, or None where that changes nothing.

        An endpoint that cannot be held to JSON, say, has just been found to.
        """
        now = self.prepare(prepared.build)
        return None if now.request == prepared.request else now

    async def complete(
        self,
        build: Build,
        *,
        until: float | None = None,
        priority: int = 0,
        budget: RetryBudget | None = None,
    ) -> Completion:
        """Send a request until it is answered; see `LLM.complete`.

        Args:
            build: Makes it.
            until: Time of `time.monotonic()` by which the call ends.
            priority: Higher ones get their permit first.
            budget: Bounds retries beside those of the policy.
        """
        prepared = self.prepare(build)
        await self.open()
        while True:
            try:
                return await self.send(
                    prepared,
                    self.retry,
                    self.limiter,
                    until=until,
                    priority=priority,
                    budget=budget,
                )
            except BadRequestError:
                changed = self.again(prepared)
                if changed is None:
                    raise
                prepared = changed

    async def send(
        self,
        prepared: Prepared,
        retry: RetryPolicy,
        limiter: RateLimiter,
        *,
        until: float | None = None,
        priority: int = 0,
        budget: RetryBudget | None = None,
    ) -> Completion:
        """Send a request by a policy and return the answer, its price, and what failed before."""
        provider, request = self.provider, prepared.request
        counted, reserved = prepared.counted, prepared.reserved

        async def attempt() -> _Attempted:
            timeout = asyncio.timeout(request.timeout)
            try:
                async with timeout:
                    answer = await provider.complete(request)
            except TimeoutError as error:
                if not timeout.expired():
                    raise
                raise APITimeoutError(
                    f"{self.model} did not answer within {request.timeout:g} s"
                ) from error
            answer = self._meter.priced(answer, counted)
            self._meter.learn(answer.usage, counted)
            charged = self._meter.charged(answer.usage, int(counted) + reserved)
            return _Attempted(answer, self._feedback(answer.headers), charged)

        record = CallRecord()
        try:
            done = await retry.call(
                attempt,
                limiter=limiter,
                tokens=int(counted),
                output_tokens=reserved,
                priority=priority,
                breaker=self.breaker,
                budget=budget,
                until=until,
                record=record,
            )
        except TollwayError as error:
            self._tell(error, record)
            raise
        answer = cast("Completion", done.value)
        if record.attempts:
            answer = dataclasses.replace(answer, attempts=self._named(record))
        return answer

    async def count(self, build: Build, *, until: float | None = None) -> TokenCount:
        """Return the tokens of a request as the provider's own endpoint counts them.

        Such endpoints have limits of their own, which the limiter knows nothing of.

        Raises:
            ConfigurationError: The provider has none.
        """
        count_tokens = getattr(self.provider, "count_tokens", None)
        if count_tokens is None:
            raise ConfigurationError(
                f"{self.model} has no endpoint that counts: leave out ask_provider"
            )
        prepared = self.prepare(build)
        await self.open()
        counted: int = await self.retry.call(
            lambda: count_tokens(prepared.request), breaker=self.breaker, until=until
        )
        self._meter.learn_count(prepared.counted, counted)
        return TokenCount(counted)

    async def stream(
        self, prepared: Prepared, *, until: float | None = None, priority: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        """Send a request and pass on its pieces; see `LLM.stream`."""
        await self.open()
        while True:
            try:
                begun = await self.begin(
                    prepared, self.retry, self.limiter, until=until, priority=priority
                )
                break
            except BadRequestError:
                changed = self.again(prepared)
                if changed is None:
                    raise
                prepared = changed
        async with contextlib.aclosing(self.rest(begun, until)) as rest:
            async for chunk in rest:
                yield chunk

    async def begin(
        self,
        prepared: Prepared,
        retry: RetryPolicy,
        limiter: RateLimiter,
        *,
        until: float | None = None,
        priority: int = 0,
    ) -> Begun:
        """Send a request by a policy until the first token of its answer has come."""
        record = CallRecord()
        opened: list[Opened] = []
        kept: Opened | None = None

        async def attempt() -> _Attempted:
            done = await self._open_stream(prepared.request)
            opened.append(done.value)
            return done

        try:
            done = await retry.call(
                attempt,
                limiter=limiter,
                tokens=int(prepared.counted),
                output_tokens=prepared.reserved,
                priority=priority,
                keep_permit=True,
                breaker=self.breaker,
                until=until,
                record=record,
            )
            begun = kept = cast("Opened", done.value)
        except TollwayError as error:
            self._tell(error, record)
            raise
        finally:
            # A race of hedged attempts that is cancelled at its end leaves one that has begun.
            if kept is None and record.permit is not None:
                record.permit.release()
            for each in opened:
                if each is not kept:
                    await each.chunks.aclose()
        permit = record.permit
        assert permit is not None
        return Begun(begun, permit, prepared, self._named(record))

    async def rest(self, begun: Begun, until: float | None) -> AsyncGenerator[Chunk, None]:
        """Pass on the pieces of an answer that has begun, and the whole answer at the end."""
        opened, permit, counted = begun.opened, begun.permit, begun.prepared.counted
        assembly = Assembly(self.provider.name, self.provider.model)
        try:
            async with contextlib.aclosing(opened.chunks):
                async for chunk in self._pieces(opened, assembly, counted, until):
                    yield chunk
            if assembly.finish_reason is None:
                raise self._interrupted(assembly, counted, None)
            answer = self._meter.priced(assembly.completion(), counted)
            self._meter.learn(answer.usage, counted)
            answer = dataclasses.replace(answer, attempts=begun.attempts)
            yield Chunk(usage=answer.usage, completion=answer)
        finally:
            # Of one that was left or broke off, what had come.
            usage = self._meter.priced(assembly.completion(), counted).usage
            permit.settle(self._meter.charged(usage, int(counted) + begun.prepared.reserved))
            permit.release()

    def cost(self, prepared: Prepared) -> float | None:
        """Return what a request is expected to cost, US dollars; None where no price is known."""
        return self._meter.expected_cost(prepared.request, prepared.counted)

    def _tell(self, error: TollwayError, record: CallRecord) -> None:
        """Have an error that ends a call at once tell of the attempts before it, too."""
        if not error.attempts:
            error.attempts = self._named(record)

    def _named(self, record: CallRecord) -> tuple[Attempt, ...]:
        return tuple(dataclasses.replace(made, model=self.model) for made in record.attempts)

    async def _pieces(
        self, opened: Opened, assembly: Assembly, counted: TokenCount, until: float | None
    ) -> AsyncGenerator[Chunk, None]:
        """Pass on what shows something, and put it all together."""
        for chunk in opened.first:
            assembly.add(chunk)
            if has_token(chunk) or chunk.finish_reason is not None:
                yield chunk
        while True:
            try:
                piece = await next_chunk(opened.chunks, until)
            except (ProviderError, DeadlineExceededError, asyncio.CancelledError) as error:
                failure = failure_of(error)
                if not isinstance(failure, Exception):
                    raise
                # What comes after the end of the answer adds at most its usage.
                if assembly.finish_reason is not None:
                    return
                raise self._interrupted(assembly, counted, failure) from failure
            if piece is None:
                return
            assembly.add(piece)
            if has_token(piece) or piece.finish_reason is not None:
                yield piece

    async def _open_stream(self, request: ChatRequest) -> _Attempted:
        """Return a stream and its pieces up to the first that shows something, or to its end."""
        chunks = self.provider.stream(request)
        first: list[Chunk] = []
        is_begun = False
        try:
            async for chunk in chunks:
                first.append(chunk)
                is_begun = is_begun or chunk.finish_reason is not None
                if has_token(chunk):
                    is_begun = True
                    break
            if not is_begun:
                self._refuse_empty()
        except BaseException:
            await chunks.aclose()
            raise
        none: Mapping[str, str] = {}
        headers = next((chunk.headers for chunk in first if chunk.headers is not None), none)
        return _Attempted(Opened(chunks, first), self._feedback(headers))

    def _refuse_empty(self) -> None:
        raise BadResponseError(f"the stream of {self.model} ended before its answer began")

    def _interrupted(
        self, assembly: Assembly, counted: TokenCount, error: Exception | None
    ) -> StreamInterruptedError:
        partial = self._meter.priced(assembly.completion(), counted)
        why = f": {error}" if error is not None else " without a finish reason"
        return StreamInterruptedError(
            f"the stream of {self.model} ended after {len(partial.text):,} characters{why}; what "
            "arrived is in partial, and nothing was sent again",
            partial=partial,
            status=getattr(error, "status", None),
            code=getattr(error, "code", None),
            request_id=partial.request_id,
            retry_after=getattr(error, "retry_after", None),
        )

    def _feedback(self, headers: Mapping[str, str]) -> Feedback | None:
        table = self.provider.rules.feedback
        return None if table is None else table.read(200, headers, now=time.time())
