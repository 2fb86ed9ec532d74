"""A chat model: messages to answers, paced, retried, priced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from tollway.bridge import run_sync
from tollway.chat.path import CallPath
from tollway.chat.request import (
    DEFAULTS,
    CallOptions,
    Prompt,
    build_request,
    check_options,
    conversation,
)
from tollway.chat.stream import ChatStream, SyncChatStream
from tollway.errors import ConfigurationError
from tollway.providers import ChatProvider, chat_provider
from tollway.retry import RetryPolicy

if TYPE_CHECKING:
    from types import TracebackType

    from tollway.limiter import Limits, RateLimiter
    from tollway.providers import ChatRequest
    from tollway.types import Completion

__all__ = ["LLM"]


class LLM:
    """Answers prompts and conversations through one model.

    LLMs of the same provider, address, credential and model share one limiter in a process, and
    one circuit breaker. One object may be used from several threads and event loops.

    Args:
        model: `provider/model`, such as `openai/gpt-4o`, or a provider itself.
        limits: Ceilings to hold; or a `RateLimiter` of your own. Default: the provider's.
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
        limits: Limits | RateLimiter | None = None,
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

    async def aclose(self) -> None:
        """Close the connections that were opened for this event loop."""
        await self.provider.aclose()

    def aclose_sync(self) -> None:
        """Close the connections that synchronous calls opened; later calls open others."""
        run_sync(self.aclose())

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

        Cancellation: safe at every await; a request under way is closed.
        """
        merged = self._merge(options)
        return await self._path.complete(self._request(prompt, merged), until=_until(merged))

    def complete_sync(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Completion:
        """Answer as `complete` does, from synchronous code; works inside a running loop too."""
        return run_sync(self.complete(prompt, **options))

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> ChatStream:
        """Answer piece by piece, as the pieces come.

        What fails before the first token is retried as in `complete`; after it nothing is sent
        again, since the caller has seen the beginning of the answer.

        Args:
            prompt: As in `complete`.
            options: As in `complete`; `deadline` holds to the end of the stream.

        Returns:
            What to iterate over. Its steps raise what `complete` raises, and
            `StreamInterruptedError` where the answer breaks off after its first token.

        Raises:
            ConfigurationError: As in `complete`.
        """
        if "stream" not in self.provider.capabilities.features:
            raise ConfigurationError(f"{self.model} does not stream; call complete")
        merged = self._merge(options)
        return ChatStream(self._path.stream(self._request(prompt, merged), until=_until(merged)))

    def stream_sync(self, prompt: Prompt, **options: Unpack[CallOptions]) -> SyncChatStream:
        """Answer as `stream` does, from synchronous code: `for chunk in llm.stream_sync(…)`."""
        return SyncChatStream(self.stream(prompt, **options))

    def _merge(self, options: CallOptions) -> CallOptions:
        """Return what was named for this call or for all."""
        check_options(options)
        return cast("CallOptions", {**self._options, **options})

    def _request(self, prompt: Prompt, named: CallOptions) -> ChatRequest:
        options = cast("CallOptions", {**DEFAULTS, **named})
        return build_request(
            conversation(prompt, options),
            options,
            named,
            tools=(),
            response_format=None,
            capabilities=self.provider.capabilities,
            model=self.model,
        )


_CALL_OPTIONS = frozenset(CallOptions.__annotations__)


def _until(options: CallOptions) -> float | None:
    deadline = options.get("deadline")
    return None if deadline is None else time.monotonic() + deadline
