"""A chat model: messages to answers, paced, retried, priced."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from tollway.batch import BatchOptions, under_way
from tollway.bridge import Closing, run_sync
from tollway.chat.answering import answering_of, fallbacks_of
from tollway.chat.availability import Availability, availability_of
from tollway.chat.batch import batch_folder, map_in_batches
from tollway.chat.checkpoint import MapCheckpoint
from tollway.chat.fallback import Fallbacks
from tollway.chat.map import MapMode, MapProgress, Outcome, run_map, without_raw
from tollway.chat.question import Question
from tollway.chat.request import CallOptions, Prompt, check_options, conversation, identity_of
from tollway.chat.router import Router, Routing
from tollway.chat.stream import ChatStream, SyncChatStream
from tollway.chat.structured import read_format
from tollway.chat.tools import OnToolError, ToolRun, read_tool, run_loop
from tollway.errors import CheckpointError, ConfigurationError
from tollway.providers import chat_function
from tollway.types import Message

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence

    from tollway.limiter import Limits, RateLimiter
    from tollway.providers import ChatProvider
    from tollway.retry import RetryPolicy
    from tollway.tokens import TokenCount
    from tollway.types import Completion

__all__ = ["LLM"]


class LLM(Closing):
    """Answers prompts and conversations through one model.

    LLMs of the same provider, address, credential and model share one limiter in a process, and
    one circuit breaker. One object may be used from several threads and event loops.

    Several models or deployments behind one `LLM` are a router: each call goes to one that can take
    it now. Those of `routing` are tried in its order, those without room or cooling down are passed
    by; see `docs/routing.md`.

    Args:
        model: `provider/model`, such as `openai/gpt-4o`, or a provider itself; or several of them,
            or of `LLM`s, as a router.
        llm_model_func: A function of yours that answers prompts instead, async or not, as LightRAG
            calls it (`tollway.providers.functions`); `model` then names what it calls.
        keys: Several keys of the provider, as a router: each has limits of its own.
        routing: `least_busy`, the one of which the smallest part of what it takes at once is under
            way; `weighted` at random by `weights`; `least_cost` by the expected price of the call;
            `least_latency` by a moving estimate of the time that an answer takes. Default:
            `weighted` where there are weights, else `least_busy`.
        weights: Shares of a router's models, in their order.
        cooldown: Seconds for which a router does not ask a model that has failed three times in a
            row, or refused by a limit without saying for how long.
        fallbacks: `provider/model`s, providers or `LLM`s, asked in turn where the model refuses for
            good, its retries are spent, or all of a router cool down. One named by its name takes
            the options of the provider too where it is of the same one; options of calls hold for
            all, those of an `LLM` that is given go before.
        context_window_fallbacks: Asked instead where the conversation is too long for the model.
        content_policy_fallbacks: Asked instead where a content filter refuses it.
        limits: Ceilings to hold, for each of a router; a `RateLimiter` of your own; or `auto`, as
            in `Embedder`. Default: the provider's. Fallbacks have those of their provider.
        retry: When to try again, for every model. Default: `RetryPolicy()`; where there is
            somebody to fall back on, two retries.
        options: Whatever a call takes (`CallOptions`), to hold for every call: `temperature`,
            `max_tokens`, `system_prompt`, …. The rest is for the provider: `api_key`, `base_url`,
            `http_client`, `client`, `errors`, ….

    Raises:
        ConfigurationError: A value, model or key that cannot work. Nothing was sent.
    """

    def __init__(
        self,
        model: str | ChatProvider | Sequence[str | ChatProvider | LLM] | None = None,
        *,
        llm_model_func: Callable[..., Any] | None = None,
        keys: Sequence[str] | None = None,
        routing: Routing | None = None,
        weights: Sequence[float] | None = None,
        cooldown: float = 5.0,
        fallbacks: Sequence[str | ChatProvider | LLM] = (),
        context_window_fallbacks: Sequence[str | ChatProvider | LLM] = (),
        content_policy_fallbacks: Sequence[str | ChatProvider | LLM] = (),
        limits: Limits | RateLimiter | Literal["auto"] | None = None,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        of_calls = {name: options.pop(name) for name in [*options] if name in _CALL_OPTIONS}
        check_options(of_calls)
        self._options = cast("CallOptions", of_calls)
        if llm_model_func is not None:
            if keys is not None or not isinstance(model, str | None):
                raise ConfigurationError("model names what llm_model_func calls; it has no keys")
            model, options = chat_function(llm_model_func, model, **options), {}
        elif model is None:
            raise ConfigurationError("name a model, such as openai/gpt-4o, or give llm_model_func")
        name = model.partition("/")[0] if isinstance(model, str) else None
        chains = (fallbacks, context_window_fallbacks, content_policy_fallbacks)
        after = [fallbacks_of(LLM._unwrapped(each), name, options, keys, retry) for each in chains]
        self._answering = answering_of(
            LLM._unwrapped(model),
            self._options,
            Fallbacks(*after),
            options,
            keys=keys,
            routing=routing,
            weights=weights,
            cooldown=cooldown,
            limits=limits,
            retry=retry,
        )
        self._path = self._answering.path

    @staticmethod
    def _unwrapped(model: Any) -> Any:
        """Return models as they were given, an `LLM` as what answers for it."""
        if isinstance(model, (list, tuple)):
            return [LLM._unwrapped(each) for each in cast("Sequence[Any]", model)]
        return model._answering if isinstance(model, LLM) else model  # noqa: SLF001 - an LLM's own

    def __repr__(self) -> str:
        """Show model and limits; of a router its models."""
        shown: object = self._path if isinstance(self._path, Router) else self.limiter
        return f"<LLM {self.model}, {shown!r}>"

    async def aclose(self) -> None:
        """Close the connections that were opened for this event loop."""
        await self._answering.aclose()

    @property
    def provider(self) -> ChatProvider:
        """Who answers; of a router the first."""
        return self._path.provider

    @property
    def model(self) -> str:
        """`provider/model`; of a router that of the first."""
        return self._path.model

    @property
    def limiter(self) -> RateLimiter:
        """What calls take their permits from; of a router that of the first."""
        return self._path.limiter

    async def available(self, *, timeout: float = 10.0) -> Availability:
        """Say whether the model can be reached, and why not; costs no tokens.

        Asked is the cheapest thing that the provider answers: OpenAI, Azure and compatible
        endpoints for the list of models, Anthropic and Gemini for a count of tokens, Ollama for its
        version and models. So address, key and, but for Azure's deployments and endpoints that list
        nothing, the model's name are checked; whether quota or credit is left is not. Bedrock
        offers nothing of the kind: `ok` is None. Of a router one model is enough; fallbacks are
        not asked.

        Args:
            timeout: Seconds to wait for the answer.

        Returns:
            True where it can be reached, with `reason` and what `models` the server lists. What
            cannot be reached, is not installed or refuses the key is no exception.

        Cancellation: closes the request.
        """
        return await availability_of(self._answering.paths, timeout)

    def available_sync(self, *, timeout: float = 10.0) -> Availability:
        """Say what `available` says, from synchronous code; works inside a running loop too."""
        return run_sync(self.available(timeout=timeout))

    async def complete(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Completion:
        """Answer a prompt or a conversation.

        Args:
            prompt: A text, a message, or a conversation; messages may be mappings in OpenAI's form.
            options: See `CallOptions`.

        Returns:
            The answer, with usage and cost. Look at `finish_reason`, which is
            `length` for an answer cut short at `max_tokens`.

        Raises:
            ConfigurationError: Something the model does not take, or nothing to answer. Nothing
                was sent.
            RequestTooLargeError: The prompt is more than the whole quota. Nothing was sent.
            ProviderError: The provider refused for good.
            CircuitOpenError: It did so before, to another call of this credential and model.
            RetriesExhaustedError: Every attempt failed; carries them, and the last error as cause.
            DeadlineExceededError: `deadline` came first.
            StructuredOutputError: No answer was what `response_format` asks for; carries the last.

        With fallbacks it is the last one's error, whose `attempts` are those of all models.

        Cancellation: safe at every await; a request under way is closed.
        """
        check_options(options)
        return await self._answering.complete(prompt, options)

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
        check_options(options)
        return ChatStream(self._answering.stream(prompt, options))

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
                Gemini, Bedrock for some models): exact and free of charge, but a request, retried
                like any other. Otherwise nothing is sent.
            options: As in `complete`.

        Returns:
            The count; `estimated` says that the model's tokenizer is not public and its tokens
            were not asked for.

        Raises:
            ConfigurationError: The provider has no such endpoint, or as in `complete`.
            TollwayError: As `complete`, where the provider is asked.
        """
        check_options(options)
        named: CallOptions = {**self._options, **options}
        question, path = Question(prompt, named), self._answering.paths[0]
        if not ask_provider:
            return path.prepare(question.build).counted
        deadline = named.get("deadline")
        until = None if deadline is None else time.monotonic() + deadline
        return await path.count(question.build, until=until)

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
        `completion.tool_calls`, for the caller to run. A `tool_choice` by which the loop would
        never end, of a tool that is run or `required` where all are, is for the first answer.

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
        check_options(options)
        named: CallOptions = {**self._options, **options}
        deadline = named.get("deadline")
        until = None if deadline is None else time.monotonic() + deadline
        tools = [read_tool(given) for given in named.get("tools", ())]
        begun = conversation(prompt, named)
        choice, run = named.get("tool_choice"), {each.tool.name for each in tools if each.run}
        is_endless = choice in run or (choice == "required" and len(run) == len(tools))

        async def ask(messages: Sequence[Message]) -> Completion:
            said = messages[len(begun) :]
            asked: CallOptions = (
                {**options, "tool_choice": None} if said and is_endless else options
            )
            return await self._answering.complete(prompt, asked, said, until=until)

        return await run_loop(
            ask,
            begun,
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
        batch: BatchOptions | None = None,
        keep_raw: bool = False,
        **options: Unpack[CallOptions],
    ) -> list[Outcome]:
        """Answer many prompts; one that fails does not stop the others.

        Args:
            prompts: What to answer; drawn when there is room for it.
            concurrency: Prompts under way at once; of them no more are sent than the limiter's
                `max_in_flight` allows.
            mode: `asyncio` sends from this event loop; `threaded` from up to four threads with a
                loop each, for functions of yours that block or an interpreter without its lock;
                `batch` hands them over to the provider's batch API (OpenAI, Azure OpenAI,
                Anthropic): half the price, answers within a day. See `BatchOptions`.
            checkpoint: A file of JSON lines that keeps every answer as it comes. Started again with
                it, only what it does not hold is sent: a changed prompt, option or model is new.
                The file holds prompts' digests and answers, never a key. It survives a process that
                is killed.
            progress: Called after each prompt, from any of the threads, one at a time; with
                `batch` after each look at the batches too.
            batch: How batches are submitted and waited for.
            keep_raw: Whether each `completion` keeps `raw` and `headers`: most of the memory of
                many answers, and of the time that collections of garbage stop everything for. Those
                from a checkpoint have neither.
            options: As in `complete`, for every prompt; `deadline` is each call's own.

        Returns:
            Outcome i for prompt i, with `ok`, `completion`, or `error`, a `TollwayError`.

        Raises:
            ConfigurationError: As `complete` says, of the options. Nothing was sent.
            CheckpointError: The checkpoint is in use, or cannot be read or written.

        Cancellation: requests under way are closed; what was answered is in the checkpoint. Batches
        go on at the provider (or are cancelled there, see `BatchOptions`), and the same call with
        the same checkpoint collects them.
        """
        check_options(options)
        if isinstance(prompts, (str, bytes, Message, Mapping)):
            raise ConfigurationError("map takes many prompts, as a list; complete answers one")
        named: CallOptions = {**self._options, **options}
        wanted = read_format(named.get("response_format"))
        self._path.request(Question([Message("user", "")], named).build)

        def identity(prompt: Prompt) -> Any:
            request = self._path.request(Question(prompt, named).build)
            return [self.model, wanted and wanted.format, identity_of(request, named)]

        async def answer(prompt: Prompt) -> Completion:
            completion = await self._answering.complete(prompt, options, is_budgeted=True)
            return completion if keep_raw else without_raw(completion)

        with contextlib.ExitStack() as stack:
            kept = None
            if checkpoint is not None:
                parse = None if wanted is None else wanted.read
                kept = stack.enter_context(MapCheckpoint(checkpoint, identity, parse))
            folder = None if checkpoint is None else batch_folder(checkpoint)
            if mode == "batch":
                if isinstance(self._path, Router) or self._answering.fallbacks:
                    raise ConfigurationError('mode="batch" is for one model, without fallbacks')
                return await map_in_batches(
                    self._path,
                    prompts,
                    ask=lambda prompt: Question(prompt, named, wanted).build(self.provider),
                    named=named,
                    wanted=wanted,
                    checkpoint=kept,
                    folder=folder,
                    progress=progress,
                    keep_raw=keep_raw,
                    options=batch or BatchOptions(),
                )
            if folder is not None and under_way(folder):
                raise CheckpointError(
                    f'{folder} names batches under way: collect them with mode="batch", or '
                    "delete it to give their answers up"
                )
            return await run_map(
                answer,
                prompts,
                concurrency=concurrency,
                mode=mode,
                checkpoint=kept,
                progress=progress,
                limiter=self.limiter,
                open_=self._answering.open,
                close=self.aclose,
            )

    def map_sync(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 25,
        mode: MapMode = "asyncio",
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Callable[[MapProgress], object] | None = None,
        batch: BatchOptions | None = None,
        keep_raw: bool = False,
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
                batch=batch,
                keep_raw=keep_raw,
                **options,
            )
        )


_CALL_OPTIONS = frozenset(CallOptions.__annotations__)
