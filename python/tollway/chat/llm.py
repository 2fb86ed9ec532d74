"""A chat model: messages to answers, paced, retried, priced."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from tollway.bridge import Closing, run_sync
from tollway.chat.checkpoint import MapCheckpoint
from tollway.chat.map import MapMode, MapProgress, Outcome, run_map
from tollway.chat.path import CallPath
from tollway.chat.request import (
    DEFAULTS,
    CallOptions,
    Prompt,
    build_request,
    check_options,
    conversation,
    identity_of,
)
from tollway.chat.stream import ChatStream, SyncChatStream
from tollway.chat.structured import ask_json, instructed, mentions_json, read_format
from tollway.chat.tools import OnToolError, ToolRun, read_tool, run_loop
from tollway.errors import ConfigurationError
from tollway.providers import ChatProvider, chat_provider
from tollway.retry import RetryPolicy, shared_budget
from tollway.types import Message

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence

    from tollway.limiter import Limits, RateLimiter
    from tollway.providers import ChatRequest
    from tollway.retry import RetryBudget
    from tollway.tokens import TokenCount
    from tollway.types import Completion, JsonFormat

__all__ = ["LLM"]


class LLM(Closing):
    """Answers prompts and conversations through one model.

    LLMs of the same provider, address, credential and model share one limiter in a process, and
    one circuit breaker. One object may be used from several threads and event loops.

    Args:
        model: `provider/model`, such as `openai/gpt-4o`, or a provider itself.
        limits: Ceilings to hold; a `RateLimiter` of your own; or `auto`, as in `Embedder`. Default:
            the provider's.
        retry: When to try again. Default: `RetryPolicy()`.
        options: Whatever a call takes (`CallOptions`), to hold for every call: `temperature`,
            `max_tokens`, `system_prompt`, …. The rest is for the provider: `api_key`, `base_url`,
            `http_client`, `client`, `errors`, ….

    Raises:
        ConfigurationError: A value, model or key that cannot work. Nothing was sent.
    """

    def __init__(
        self,
        model: str | ChatProvider,
        *,
        limits: Limits | RateLimiter | Literal["auto"] | None = None,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        of_calls = {name: options.pop(name) for name in [*options] if name in _CALL_OPTIONS}
        check_options(of_calls)
        self._options = cast("CallOptions", of_calls)
        if isinstance(model, str):
            self.provider: ChatProvider = chat_provider(model, **options)
        elif options:
            raise ConfigurationError("options of the provider go to the provider that is given")
        else:
            self.provider = model
        self._path = CallPath(self.provider, limits, retry or RetryPolicy())

    def __repr__(self) -> str:
        """Show model and limits."""
        return f"<LLM {self.model}, {self.limiter!r}>"

    async def aclose(self) -> None:
        """Close the connections that were opened for this event loop."""
        await self.provider.aclose()

    @property
    def model(self) -> str:
        """`provider/model`."""
        return self._path.model

    @property
    def limiter(self) -> RateLimiter:
        """What calls take their permits from."""
        return self._path.limiter

    async def complete(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Completion:
        """Answer a prompt or a conversation.

        Args:
            prompt: A text, a message, or a conversation; messages may be mappings in OpenAI's form.
            options: See `CallOptions`.

        Returns:
            The answer, with usage and cost. Look at `finish_reason`: `length` is an answer cut
            short at `max_tokens`.

        Raises:
            ConfigurationError: Something the model does not take, or nothing to answer. Nothing
                was sent.
            RequestTooLargeError: The prompt is more than the whole quota. Nothing was sent.
            ProviderError: The provider refused for good.
            CircuitOpenError: It did so before, to another call of this credential and model.
            RetriesExhaustedError: Every attempt failed; carries them, and the last error as cause.
            DeadlineExceededError: `deadline` came first.
            StructuredOutputError: No answer was what `response_format` asks for; carries the last.

        Cancellation: safe at every await; a request under way is closed.
        """
        return await self._complete(prompt, self._merge(options))

    def complete_sync(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Completion:
        """Answer as `complete` does, from synchronous code; works inside a running loop too."""
        return run_sync(self.complete(prompt, **options))

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> ChatStream:
        """Answer piece by piece, as the pieces come.

        What fails before the first token is retried as in `complete`; after it nothing is sent
        again, since the caller has seen the beginning of the answer.

        Args:
            prompt: As in `complete`.
            options: As in `complete`; `deadline` holds to the end of the stream. A
                `response_format` is asked for, but what comes is not checked.

        Returns:
            What to iterate over. Its steps raise what `complete` raises, and
            `StreamInterruptedError` where the answer breaks off after its first token.

        Raises:
            ConfigurationError: As in `complete`.
        """
        if "stream" not in self.provider.capabilities.features:
            raise ConfigurationError(f"{self.model} does not stream; call complete")
        named = self._merge(options)
        messages = conversation(prompt, named)
        response_format = None
        asked = named.get("response_format")
        if asked is not None:
            wanted = read_format(asked)
            response_format = wanted.native(self.provider.capabilities)
            if response_format != wanted.format or not mentions_json(messages):
                messages = instructed(messages, wanted.format)
        request = self._request(messages, named, response_format)
        priority = named.get("priority", 0)
        return ChatStream(self._path.stream(request, until=_until(named), priority=priority))

    def stream_sync(self, prompt: Prompt, **options: Unpack[CallOptions]) -> SyncChatStream:
        """Answer as `stream` does, from synchronous code: `for chunk in llm.stream_sync(…)`."""
        return SyncChatStream(self.stream(prompt, **options))

    async def count_tokens(
        self, prompt: Prompt, *, ask_provider: bool = False, **options: Unpack[CallOptions]
    ) -> TokenCount:
        """Return the input tokens of a prompt with its system prompt, history and tools.

        Args:
            prompt: As in `complete`.
            ask_provider: Whether to send it to the provider's own endpoint that counts (Anthropic,
                Gemini): exact and free of charge, but a request, retried like any other. Otherwise
                nothing is sent.
            options: As in `complete`.

        Returns:
            The count; `estimated` says that the model's tokenizer is not public and its tokens
            were not asked for.

        Raises:
            ConfigurationError: The provider has no such endpoint, or as in `complete`.
            TollwayError: As `complete`, where the provider is asked.
        """
        named = self._merge(options)
        request = self._request(conversation(prompt, named), named)
        if not ask_provider:
            return self._path.count_locally(request)
        return await self._path.count(request, until=_until(named))

    async def run_tools(
        self,
        prompt: Prompt,
        *,
        max_rounds: int = 10,
        on_tool_error: OnToolError = "result",
        **options: Unpack[CallOptions],
    ) -> ToolRun:
        """Answer a prompt, running the tools that the model calls until it calls no more.

        Calls of one answer run at the same time, functions that are not async in threads. A tool
        that is only described (a `Tool` or a pydantic model) ends the loop: its call is in
        `completion.tool_calls`, for the caller to run.

        Args:
            prompt: As in `complete`.
            max_rounds: How often at most tools are run.
            on_tool_error: Whether an exception of a tool becomes its `result`, which the model
                sees, or is to `raise`.
            options: As in `complete`; `tools` among them.

        Raises:
            ToolLoopError: The model still calls tools after `max_rounds`.
            Exception: Of a tool, where `on_tool_error` is `raise`; the others are run to their end.
            TollwayError: As in `complete`.

        Cancellation: cancels the request or the async tools under way; threads end on their own.
        """
        if max_rounds < 1 or on_tool_error not in {"result", "raise"}:
            raise ConfigurationError("max_rounds is 1 or more, on_tool_error result or raise")
        named = self._merge(options)
        until = _until(named)
        tools = [read_tool(given) for given in named.get("tools", ())]

        async def ask(messages: Sequence[Message]) -> Completion:
            return await self._path.complete(self._request(messages, named), until=until)

        return await run_loop(
            ask,
            conversation(prompt, named),
            tools,
            max_rounds=max_rounds,
            on_error=on_tool_error,
        )

    def run_tools_sync(
        self,
        prompt: Prompt,
        *,
        max_rounds: int = 10,
        on_tool_error: OnToolError = "result",
        **options: Unpack[CallOptions],
    ) -> ToolRun:
        """Run tools as `run_tools` does, from synchronous code."""
        return run_sync(
            self.run_tools(prompt, max_rounds=max_rounds, on_tool_error=on_tool_error, **options)
        )

    async def map(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        concurrency: int = 25,
        mode: MapMode = "asyncio",
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Callable[[MapProgress], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Outcome]:
        """Answer many prompts; one that fails does not stop the others.

        Args:
            prompts: What to answer; drawn when there is room for it.
            concurrency: Prompts under way at once.
            mode: `asyncio` sends from this event loop; `threaded` from up to four threads with a
                loop each, for functions of yours that block or an interpreter without its lock.
            checkpoint: A file of JSON lines that keeps every answer as it comes. Started again with
                it, only what it does not hold is sent: a changed prompt, option or model is new.
                The file holds prompts' digests and answers, never a key. It survives a process that
                is killed.
            progress: Called after each prompt, from any of the threads, one at a time.
            options: As in `complete`, for every prompt; `deadline` is each call's own.

        Returns:
            Outcome i for prompt i: `ok`, `completion`, or `error`, a `TollwayError`.

        Raises:
            ConfigurationError: As `complete` says, of the options. Nothing was sent.
            CheckpointError: The checkpoint is in use, or cannot be read or written.

        Cancellation: requests under way are closed; what was answered is in the checkpoint.
        """
        named = self._merge(options)
        asked = named.get("response_format")
        wanted = None if asked is None else read_format(asked)
        self._request([Message("user", "")], named)
        budget = shared_budget(self.provider.quota_key)

        def identity(prompt: Prompt) -> Any:
            request = self._request(conversation(prompt, named), named)
            return [self.model, wanted and wanted.format, identity_of(request)]

        async def answer(prompt: Prompt) -> Completion:
            return await self._complete(prompt, named, budget)

        with contextlib.ExitStack() as stack:
            kept = None
            if checkpoint is not None:
                parse = None if wanted is None else wanted.read
                kept = stack.enter_context(MapCheckpoint(checkpoint, identity, parse))
            return await run_map(
                answer,
                prompts,
                concurrency=concurrency,
                mode=mode,
                checkpoint=kept,
                progress=progress,
                close=self.provider.aclose,
            )

    def map_sync(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 25,
        mode: MapMode = "asyncio",
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Callable[[MapProgress], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Outcome]:
        """Answer many prompts as `map` does, from synchronous code."""
        return run_sync(
            self.map(
                prompts,
                concurrency=concurrency,
                mode=mode,
                checkpoint=checkpoint,
                progress=progress,
                **options,
            )
        )

    async def _complete(
        self, prompt: Prompt, named: CallOptions, budget: RetryBudget | None = None
    ) -> Completion:
        messages, until = conversation(prompt, named), _until(named)
        asked = named.get("response_format")

        async def ask(said: Sequence[Message], held_to: JsonFormat | None = None) -> Completion:
            request = self._request(said, named, held_to)
            return await self._path.complete(
                request, until=until, priority=named.get("priority", 0), budget=budget
            )

        if asked is None:
            return await ask(messages)
        return await ask_json(ask, messages, read_format(asked), self.provider)

    def _merge(self, options: CallOptions) -> CallOptions:
        """Return what was named for this call or for all."""
        check_options(options)
        return cast("CallOptions", {**self._options, **options})

    def _request(
        self,
        messages: Sequence[Message],
        named: CallOptions,
        response_format: JsonFormat | None = None,
    ) -> ChatRequest:
        given = named.get("tools")
        return build_request(
            messages,
            cast("CallOptions", {**DEFAULTS, **named}),
            named,
            tools=[read_tool(tool).tool for tool in given] if given else (),
            response_format=response_format,
            capabilities=self.provider.capabilities,
            model=self.model,
        )


_CALL_OPTIONS = frozenset(CallOptions.__annotations__)


def _until(options: CallOptions) -> float | None:
    deadline = options.get("deadline")
    return None if deadline is None else time.monotonic() + deadline
