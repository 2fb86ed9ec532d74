"""One model or router, and what is asked after it: answers a prompt, whole or in pieces."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tollway.chat.fallback import Chain, Fallbacks
from tollway.chat.path import CallPath
from tollway.chat.question import Question
from tollway.chat.router import Router, Routing
from tollway.chat.structured import ask_json, read_format
from tollway.errors import ConfigurationError, TollwayError
from tollway.limiter import RateLimiter
from tollway.providers import ChatProvider, chat_provider
from tollway.retry import RetryPolicy, shared_budget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from tollway.chat.request import CallOptions, Prompt
    from tollway.limiter import Limits
    from tollway.types import Chunk, Completion, Message

__all__ = ["Answering", "Given", "answering_of", "fallbacks_of"]

Given: TypeAlias = "str | ChatProvider | Answering"
"""How a model is given: by its name, as a provider, or ready."""

# Where another model can answer, waiting for this one is soon no more worth while.
_FEW_RETRIES = RetryPolicy(max_retries=2)


class Answering:
    """Answers by a model or router, and by its fallbacks where that fails.

    Args:
        path: What sends to the model or models.
        options: That hold for every call.
        fallbacks: Asked next.
    """

    def __init__(
        self, path: CallPath | Router, options: CallOptions, fallbacks: Fallbacks[Answering]
    ) -> None:
        self.path = path
        self.fallbacks = fallbacks
        self._options = options

    @property
    def model(self) -> str:
        """`provider/model`; of a router that of the first."""
        return self.path.model

    @property
    def paths(self) -> list[CallPath]:
        """What sends to each of the models, without fallbacks."""
        path = self.path
        return [lane.path for lane in path.lanes] if isinstance(path, Router) else [path]

    async def open(self) -> None:
        """Make ready for this event loop."""
        for path in self.paths:
            await path.open()

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self.path.aclose()
        for member in self.fallbacks.all:
            await member.aclose()

    def deployment(self) -> CallPath:
        """Return what a router sends by, for which this is one of several.

        Raises:
            ConfigurationError: It has options of calls, fallbacks or several models of its own:
                they belong to the router.
        """
        if self._options or self.fallbacks or isinstance(self.path, Router):
            raise ConfigurationError(
                f"{self.model} is one of a router's: options of calls and fallbacks go to the LLM "
                "of all, and its models are named one by one"
            )
        return self.path

    async def complete(
        self,
        prompt: Prompt,
        options: CallOptions,
        turns: Sequence[Message] = (),
        *,
        under: CallOptions | None = None,
        until: float | None = None,
        is_budgeted: bool = False,
    ) -> Completion:
        """Answer by this model, or by those after it.

        Args:
            prompt: As in `complete`.
            options: Named for this call.
            turns: What was said since.
            under: Of the `LLM` to which this one is a fallback.
            until: Time of `time.monotonic()` by which the call ends.
            is_budgeted: Whether retries are bounded by the budget of the credential and model.
        """
        named: CallOptions = {**(under or {}), **self._options, **options}
        until = self._earlier(until, named)
        if not self.fallbacks:
            return await self._answer(prompt, named, turns, until, is_budgeted=is_budgeted)
        chain = Chain(self, self.fallbacks, until)
        for member in chain:
            try:
                if member is self:
                    answer = await self._answer(
                        prompt, named, turns, until, is_budgeted=is_budgeted
                    )
                else:
                    answer = await member.complete(
                        prompt, options, turns, under=named, until=until, is_budgeted=is_budgeted
                    )
            except TollwayError as error:
                chain.failed(member, member.model, error)
            else:
                return chain.signed(answer)
        raise AssertionError("unreachable")

    async def _answer(
        self,
        prompt: Prompt,
        named: CallOptions,
        turns: Sequence[Message],
        until: float | None,
        *,
        is_budgeted: bool,
    ) -> Completion:
        wanted = read_format(named.get("response_format"))
        priority = named.get("priority", 0)
        budget = shared_budget(self.path.quota_key) if is_budgeted else None

        async def ask(said: Sequence[Message]) -> Completion:
            question = Question(prompt, named, wanted, [*turns, *said])
            return await self.path.complete(
                question.build, until=until, priority=priority, budget=budget
            )

        return await (ask(()) if wanted is None else ask_json(ask, wanted))

    def stream(
        self,
        prompt: Prompt,
        options: CallOptions,
        *,
        under: CallOptions | None = None,
        until: float | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream by this model, or by those after it until a first token has come.

        Raises:
            ConfigurationError: This model cannot be asked so.
        """
        if not any(path.streams for path in self.paths):
            raise ConfigurationError(f"{self.model} does not stream; call complete")
        named: CallOptions = {**(under or {}), **self._options, **options}
        until = self._earlier(until, named)
        question = Question(prompt, named, read_format(named.get("response_format")))
        first = self.path.stream(
            self.path.prepare(question.build), until=until, priority=named.get("priority", 0)
        )
        if not self.fallbacks:
            return first
        return self._stream_chain(first, prompt, options, named, until)

    async def _stream_chain(
        self,
        first: AsyncGenerator[Chunk, None],
        prompt: Prompt,
        options: CallOptions,
        named: CallOptions,
        until: float | None,
    ) -> AsyncGenerator[Chunk, None]:
        chain = Chain(self, self.fallbacks, until)
        for member in chain:
            try:
                chunks = first
                if member is not self:
                    chunks = member.stream(prompt, options, under=named, until=until)
                begun = await anext(chunks)
            except TollwayError as error:
                chain.failed(member, member.model, error)
                continue
            async with contextlib.aclosing(chunks):
                yield chain.signed_chunk(begun)
                async for chunk in chunks:
                    yield chain.signed_chunk(chunk)
            return

    def _earlier(self, until: float | None, named: CallOptions) -> float | None:
        """Return when a call ends: a fallback's own deadline runs from when it is asked."""
        own = (named if until is None else self._options).get("deadline")
        if own is None:
            return until
        return min(time.monotonic() + own, float("inf") if until is None else until)


def answering_of(
    model: Given | Sequence[Given],
    of_calls: CallOptions,
    fallbacks: Fallbacks[Answering],
    options: dict[str, Any],
    *,
    keys: Sequence[str] | None = None,
    routing: Routing | None = None,
    weights: Sequence[float] | None = None,
    cooldown: float = 5.0,
    limits: Limits | RateLimiter | Literal["auto"] | None = None,
    retry: RetryPolicy | None = None,
) -> Answering:
    """Return what answers by a model, or by several as a router; see `LLM`.

    Raises:
        ConfigurationError: As `LLM`.
    """
    if not isinstance(retry, RetryPolicy | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"retry is a RetryPolicy, not {retry!r:.80}")
    # Those for a long conversation or a filter are no help in an outage.
    has_fallback = bool(fallbacks.any)
    policy = retry or (_FEW_RETRIES if has_fallback else RetryPolicy())
    given = list(cast("Sequence[Given]", model)) if isinstance(model, (list, tuple)) else [model]
    paths = _paths(cast("list[Given]", given), keys, limits, policy, options)
    if len(paths) > 1:
        router = Router(
            paths,
            policy,
            routing=routing,
            weights=weights,
            cooldown=cooldown,
            has_fallback=has_fallback,
        )
        return Answering(router, of_calls, fallbacks)
    if routing or weights:
        raise ConfigurationError("routing and weights are for several models or keys")
    return Answering(paths[0], of_calls, fallbacks)


def fallbacks_of(
    given: Sequence[Given],
    provider: str | None,
    options: dict[str, Any],
    keys: Sequence[str] | None,
    retry: RetryPolicy | None,
) -> list[Answering]:
    """Return fallbacks as what answers.

    Args:
        given: As the user gave them.
        provider: Name of the first model's, whose options hold for others of it.
        options: These.
        keys: Its keys, where there are several.
        retry: When to try again; None for the default.

    Raises:
        ConfigurationError: As `LLM`.
    """
    if isinstance(given, str):
        raise ConfigurationError("fallbacks are a list of models, in the order to ask them")
    members: list[Answering] = []
    for number, each in enumerate(given, 1):
        if isinstance(each, Answering):
            members.append(each)
            continue
        policy = retry or (RetryPolicy() if number == len(given) else _FEW_RETRIES)
        is_same = isinstance(each, str) and each.partition("/")[0] == provider
        none: Fallbacks[Answering] = Fallbacks()
        shared: tuple[dict[str, Any], Any] = (options, keys) if is_same else ({}, None)
        members.append(answering_of(each, {}, none, shared[0], keys=shared[1], retry=policy))
    return members


def _paths(
    given: Sequence[Given],
    keys: Sequence[str] | None,
    limits: Limits | RateLimiter | Literal["auto"] | None,
    retry: RetryPolicy,
    options: dict[str, Any],
) -> list[CallPath]:
    """Return what sends to each model, key or deployment."""
    if not given:
        raise ConfigurationError("there is no model to ask")
    if options and not all(isinstance(each, str) for each in given):
        raise ConfigurationError("options of the provider go to the provider that is given")
    if keys is not None and (isinstance(keys, str) or not keys or "api_key" in options):
        raise ConfigurationError("keys is a list of one key or more, instead of api_key")
    if keys is not None and not all(isinstance(each, str) for each in given):
        raise ConfigurationError("keys go to the providers that are given")
    if isinstance(limits, RateLimiter) and len(given) * len(keys or [""]) > 1:
        raise ConfigurationError("each of a router's models has a limiter of its own: give Limits")
    credentials: list[dict[str, Any]] = [{"api_key": key} for key in keys or ()] or [{}]
    paths: list[CallPath] = []
    for each in given:
        if isinstance(each, Answering):
            paths.append(each.deployment())
        elif isinstance(each, str):
            providers = [chat_provider(each, **options, **key) for key in credentials]
            paths += [CallPath(provider, limits, retry) for provider in providers]
        else:
            paths.append(CallPath(each, limits, retry))
    return paths
