"""Streams: pieces of an answer as they come, and the answer that they make."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Self

from tollway.bridge import run_sync
from tollway.errors import DeadlineExceededError
from tollway.types import Chunk, Completion, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Any

    from tollway.types import FinishReason

__all__ = ["Assembly", "ChatStream", "Opened", "SyncChatStream", "has_token", "next_chunk"]


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A stream whose answer has begun.

    Attributes:
        chunks: What is still to come.
        first: What has come.
    """

    chunks: AsyncGenerator[Chunk, None]
    first: list[Chunk]


async def next_chunk(chunks: AsyncGenerator[Chunk, None], until: float | None) -> Chunk | None:
    """Return the next piece, or None at the end.

    Raises:
        DeadlineExceededError: `until`, a time of `time.monotonic()`, came first.
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


def has_token(chunk: Chunk) -> bool:
    """Whether a piece shows anything of the answer."""
    return bool(chunk.text or chunk.reasoning or chunk.tool_calls)


@dataclasses.dataclass(slots=True)
class _Call:
    """A call of a tool of which more may come."""

    id: str = ""
    name: str = ""
    arguments: list[str] = dataclasses.field(default_factory=list[str])
    extra: dict[str, Any] = dataclasses.field(default_factory=dict[str, "Any"])


class Assembly:
    """Puts the pieces of one answer together."""

    def __init__(self, provider: str, model: str) -> None:
        self._provider = provider
        self._model = model
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._extra: dict[str, Any] = {}
        self._headers: Any = {}
        self._request_id: str | None = None
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        """Add a piece."""
        if chunk.text:
            self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        for delta in chunk.tool_calls:
            call = self._calls.setdefault(delta.index, _Call())
            call.id = delta.id or call.id
            call.name = delta.name or call.name
            call.arguments.append(delta.arguments)
            call.extra.update(delta.extra)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.usage = chunk.usage or self.usage
        self._model = chunk.model or self._model
        self._request_id = chunk.request_id or self._request_id
        if chunk.headers is not None:
            self._headers = chunk.headers
        if chunk.extra:
            self._extra.update(chunk.extra)

    def completion(self) -> Completion:
        """Return the answer so far, without its cost; unfinished, its reason is `error`."""
        return Completion(
            "".join(self._text),
            self.finish_reason or "error",
            reasoning="".join(self._reasoning),
            tool_calls=tuple(
                ToolCall(call.id, call.name, "".join(call.arguments), call.extra)
                for _, call in sorted(self._calls.items())
            ),
            usage=self.usage or Usage(requests=1, estimated=True),
            model=self._model,
            provider=self._provider,
            request_id=self._request_id,
            extra=self._extra,
            headers=self._headers,
        )


class ChatStream:
    """The pieces of one answer, to be iterated over once: `async for chunk in stream`.

    The request is sent with the first step. The last piece has the whole answer as `completion`,
    with its usage and cost. A stream that is not read to its end is to be closed, best by `async
    with`; closing ends the request and its connection.

    Attributes:
        completion: The whole answer once it is there; None before.
    """

    def __init__(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        self._chunks = chunks
        self.completion: Completion | None = None

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Chunk:
        """Return the next piece.

        Raises:
            StreamInterruptedError: The stream broke off after its first token; carries what came.
            TollwayError: As `LLM.complete`, before the first token.
        """
        chunk = await anext(self._chunks)
        if chunk.completion is not None:
            self.completion = chunk.completion
        return chunk

    async def aclose(self) -> None:
        """End the request if it is under way; later steps end at once."""
        await self._chunks.aclose()

    async def __aenter__(self) -> Self:
        """Return itself; `aclose` is called at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close as `aclose` does."""
        await self.aclose()


class SyncChatStream:
    """A `ChatStream` for synchronous code: `for chunk in stream`."""

    def __init__(self, stream: ChatStream) -> None:
        self._stream = stream

    @property
    def completion(self) -> Completion | None:
        """The whole answer once it is there; None before."""
        return self._stream.completion

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Chunk:
        """Return the next piece; see `ChatStream.__anext__`."""
        chunk = run_sync(self._next())
        if chunk is None:
            raise StopIteration
        return chunk

    async def _next(self) -> Chunk | None:
        # A StopAsyncIteration would not pass through a future.
        return await anext(self._stream, None)

    def close(self) -> None:
        """End the request if it is under way."""
        run_sync(self._stream.aclose())

    def __enter__(self) -> Self:
        """Return itself; `close` is called at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close as `close` does."""
        self.close()
