"""The one path of every request: retry (breaker, deadline), limiter, provider; then its price."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

from tollway.chat.stream import Assembly, has_token
from tollway.embed.embedder import limiter_of
from tollway.errors import (
    APITimeoutError,
    BadResponseError,
    DeadlineExceededError,
    ProviderError,
    StreamInterruptedError,
)
from tollway.providers.messages import openai_message, openai_tool
from tollway.retry import shared_breaker
from tollway.tokens import count_messages, tokenizer_for_model
from tollway.tokens.estimate import TokenEstimator
from tollway.types import Chunk, Usage
from tollway.usage import cost_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tollway.limiter import Limits, RateLimiter
    from tollway.providers import ChatProvider, ChatRequest
    from tollway.retry import CallRecord, RetryBudget, RetryPolicy
    from tollway.tokens import TokenCount
    from tollway.types import Completion

__all__ = ["CallPath"]

# Tokens of an answer that are expected before the first one has come, and the weight of each
# further answer in what is expected then.
_FIRST_EXPECTED = 500
_WEIGHT = 0.1


class CallPath:
    """Sends requests to one provider.

    Args:
        provider: Who answers.
        limits: As `LLM` takes them.
        retry: When to try again.
    """

    def __init__(
        self, provider: ChatProvider, limits: Limits | RateLimiter | None, retry: RetryPolicy
    ) -> None:
        self.provider = provider
        self.retry = retry
        self.limiter = limiter_of(provider, limits)
        self.breaker = shared_breaker(provider.quota_key, self.model)
        self._expected = float(_FIRST_EXPECTED)

    @property
    def model(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.provider.model}"

    async def complete(
        self,
        request: ChatRequest,
        *,
        until: float | None = None,
        budget: RetryBudget | None = None,
        record: CallRecord | None = None,
    ) -> Completion:
        """Send a request until it is answered; see `LLM.complete`.

        Args:
            request: What to send.
            until: Time of `time.monotonic()` by which the call ends.
            budget: Bounds retries beside those of the policy.
            record: Filled in while the call runs.
        """
        provider = self.provider
        counted = self._count(request)
        await provider.open()

        async def attempt() -> Completion:
            timeout = asyncio.timeout(request.timeout)
            try:
                async with timeout:
                    return await provider.complete(request)
            except TimeoutError as error:
                if not timeout.expired():
                    raise
                raise APITimeoutError(
                    f"{self.model} did not answer within {request.timeout:g} s"
                ) from error

        answer = await self.retry.call(
            attempt,
            limiter=self.limiter,
            tokens=self._charge(request, counted),
            breaker=self.breaker,
            budget=budget,
            until=until,
            record=record,
        )
        return self._settled(answer, counted)

    async def stream(
        self, request: ChatRequest, *, until: float | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Send a request and pass on its pieces; see `LLM.stream`."""
        counted = self._count(request)
        await self.provider.open()
        assembly = Assembly(self.provider.name, self.provider.model)
        chunks, first = await self.retry.call(
            lambda: self._open_stream(request),
            limiter=self.limiter,
            tokens=self._charge(request, counted),
            breaker=self.breaker,
            until=until,
        )
        async with contextlib.aclosing(chunks):
            for chunk in first:
                assembly.add(chunk)
                if has_token(chunk) or chunk.finish_reason is not None:
                    yield chunk
            while True:
                try:
                    piece = await _next(chunks, until)
                except (ProviderError, DeadlineExceededError) as error:
                    # What comes after the end of the answer adds at most its usage.
                    if assembly.finish_reason is not None:
                        break
                    raise self._interrupted(assembly, counted, error) from error
                if piece is None:
                    break
                assembly.add(piece)
                if has_token(piece) or piece.finish_reason is not None:
                    yield piece
        if assembly.finish_reason is None:
            raise self._interrupted(assembly, counted, None)
        answer = self._settled(assembly.completion(), counted)
        yield Chunk(usage=answer.usage, completion=answer)

    async def _open_stream(
        self, request: ChatRequest
    ) -> tuple[AsyncGenerator[Chunk, None], list[Chunk]]:
        """Return a stream and its pieces up to the first that shows something, or to its end."""
        chunks = self.provider.stream(request)
        first: list[Chunk] = []
        is_finished = False
        try:
            async for chunk in chunks:
                first.append(chunk)
                is_finished = is_finished or chunk.finish_reason is not None
                if has_token(chunk):
                    return chunks, first
        except BaseException:
            await chunks.aclose()
            raise
        if not is_finished:
            raise BadResponseError(f"the stream of {self.model} ended before its answer began")
        return chunks, first

    def _interrupted(
        self, assembly: Assembly, counted: TokenCount, error: Exception | None
    ) -> StreamInterruptedError:
        partial = self._settled(assembly.completion(), counted)
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

    # Tokens and money

    def _count(self, request: ChatRequest) -> TokenCount:
        return count_messages(
            [openai_message(message) for message in request.messages],
            self.provider.rules.token_model,
            [openai_tool(tool) for tool in request.tools] or None,
        )

    def _charge(self, request: ChatRequest, counted: int) -> int:
        """Return the tokens to take a permit for: what the provider charges, or what is likely."""
        rules = self.provider.rules
        most = request.max_tokens or rules.max_output_tokens
        expected = round(self._expected)
        if most is not None:
            expected = min(expected, most)
        tokens = counted + expected
        if most is not None and rules.charges_max_tokens == "sum":
            tokens = counted + most
        elif most is not None and rules.charges_max_tokens == "larger":
            tokens = max(tokens, most)
        quota = self.limiter.limits.tpm
        # An answer's share alone never makes a request too large: it is mostly air.
        return tokens if quota is None else max(counted, min(tokens, quota))

    def _settled(self, answer: Completion, counted: TokenCount) -> Completion:
        """Return an answer with its usage and cost, and learn from what it says."""
        provider, usage = self.provider, answer.usage
        rules = provider.rules
        tokenizer = tokenizer_for_model(rules.token_model)
        if usage.estimated:
            written = answer.reasoning + answer.text
            written += "".join(call.name + call.arguments for call in answer.tool_calls)
            usage = dataclasses.replace(
                usage, input_tokens=int(counted), output_tokens=int(tokenizer.count(written))
            )
        elif isinstance(tokenizer, TokenEstimator):
            tokenizer.learn(counted.basis, usage.input_tokens - usage.input_image_tokens)
        self._expected += (usage.output_tokens - self._expected) * _WEIGHT
        cost = answer.cost if answer.cost is not None else self._cost(usage)
        return dataclasses.replace(answer, usage=usage, cost=cost)

    def _cost(self, usage: Usage) -> float | None:
        rules = self.provider.rules
        if rules.price == "listed":
            return cost_of(rules.price_provider, rules.price_model, usage)
        return 0.0 if rules.price == "free" else None


async def _next(chunks: AsyncGenerator[Chunk, None], until: float | None) -> Chunk | None:
    """Return the next piece, or None at the end.

    Raises:
        DeadlineExceededError: `until` came first.
    """
    if until is None:
        return await anext(chunks, None)
    timeout = asyncio.timeout(until - time.monotonic())
    try:
        async with timeout:
            return await anext(chunks, None)
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlineExceededError("the deadline came in the middle of the answer") from error
