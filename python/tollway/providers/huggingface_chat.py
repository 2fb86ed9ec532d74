"""Chat models of Hugging Face on this machine, through transformers."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from typing import TYPE_CHECKING, Any

from tollway.errors import APITimeoutError, ConfigurationError
from tollway.limiter import Limits
from tollway.providers.base import ChatCapabilities, ChatRules
from tollway.providers.huggingface_models import MODELS, Generated, Generation, LoadedModel
from tollway.providers.messages import openai_tool
from tollway.providers.thinking import ThinkSplitter, split_thinking
from tollway.types import Chunk, Completion, ToolCallDelta, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

    from tollway.providers.base import ChatFeature, ChatParameter, ChatRequest

__all__ = ["HuggingFaceChatProvider"]

_FEATURES: frozenset[ChatFeature] = frozenset(
    {"stream", "stream_usage", "system", "tools", "reasoning"}
)
_PARAMETERS: frozenset[ChatParameter] = frozenset(
    {"temperature", "max_tokens", "top_p", "stop", "seed"}
)


class HuggingFaceChatProvider:
    """One causal language model, in one worker thread.

    The model is loaded with the first call and shared by all who name it with the same options.
    A system prompt that its template refuses goes before the first question. Tools can be used
    where the template has a place for them; an answer with tools is not streamed piece by piece,
    since its calls stand in the text. JSON is asked for in words and checked. Reasoning between
    leading <think> tags is told apart.

    Args:
        model: Name on the hub, such as `Qwen/Qwen3-0.6B`, or a folder.
        device: `cpu`, `cuda`, …; default: where transformers loads it.
        chat_template: In place of the one that comes with the tokenizer.
        max_loaded: Models that the process keeps at most; the least recently used goes first.
        options: Further arguments of `AutoModelForCausalLM.from_pretrained`: `dtype`,
            `device_map`, `revision`, …. Code that comes with a model is not run unless
            `trust_remote_code=True` says so.

    Raises:
        ConfigurationError: transformers or torch is not installed.
    """

    name = "huggingface"
    # One thread: a model's layers use all cores by themselves.
    limits = Limits(max_in_flight=1)

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        chat_template: str | None = None,
        max_loaded: int = 2,
        **options: Any,
    ) -> None:
        if None in map(importlib.util.find_spec, ("torch", "transformers")):
            raise ConfigurationError(
                f"huggingface/{model} needs the extra 'huggingface': "
                "pip install 'tollway[huggingface]'"
            )
        if max_loaded < 1:
            raise ConfigurationError(f"max_loaded is 1 or more, not {max_loaded}")
        self.model = model
        self._make: Callable[[], LoadedModel] = lambda: LoadedModel(
            model, device, options, chat_template
        )
        self._key = (model, device, chat_template, repr(sorted(options.items())))
        self._most = max_loaded
        self.rules = ChatRules(model, price="free")

    def __repr__(self) -> str:
        """Show the model."""
        return f"<HuggingFaceChatProvider {self.model}>"

    @property
    def quota_key(self) -> Hashable:
        """One for the process: chats and embeddings of a model have a thread each."""
        return (self.name, "chat", self.model)

    @property
    def capabilities(self) -> ChatCapabilities:
        """What the model can do; whether it knows tools shows when it is loaded."""
        features = _FEATURES if self._loaded().takes_tools else _FEATURES - {"tools"}
        return ChatCapabilities(features, _PARAMETERS)

    def _loaded(self) -> LoadedModel:
        return MODELS.get(self._key, self._make, self._most)

    async def open(self) -> None:
        """Load the model.

        Raises:
            NotFoundError: There is no such model, or it cannot be read.
        """
        loaded = self._loaded()
        await loaded.worker.run(loaded.load)

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer in the worker thread; see `ChatProvider.complete`.

        Cancellation returns at once; the model stops after the token that it is at.
        """
        asked = self._generation(request, lambda _: None)
        loaded = self._loaded()
        try:
            done = await loaded.worker.run(loaded.generate, asked)
        finally:
            asked.is_stopped.set()
        reasoning, text = split_thinking(done.text) if "think>" in done.text else ("", done.text)
        return Completion(
            text,
            done.finish_reason,
            reasoning,
            done.calls,
            _usage(done),
            model=self.model,
            provider=self.name,
            raw=done,
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in the worker thread, piece by piece; see `ChatProvider.stream`.

        When this is closed, the model stops after the token that it is at.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def emit(piece: str) -> None:
            # A loop that was closed in the meantime takes nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def end(work: asyncio.Task[Generated]) -> None:
            pieces.put_nowait(None)
            # Of a stream that was left, nobody asks how it went.
            if not work.cancelled():
                work.exception()

        asked = self._generation(request, emit)
        loaded = self._loaded()
        work = asyncio.create_task(loaded.worker.run(loaded.generate, asked))
        work.add_done_callback(end)
        splitter = ThinkSplitter()
        try:
            yield Chunk(headers={})
            while (piece := await self._next(pieces, request.timeout)) is not None:
                if not asked.tools:
                    reasoning, text = splitter.feed(piece)
                    if text or reasoning:
                        yield Chunk(text, reasoning)
            done = await work
            if asked.tools:
                reasoning, text = splitter.feed(done.text)
                yield Chunk(text, reasoning)
            reasoning, text = splitter.end()
            calls = tuple(
                ToolCallDelta(number, call.id, call.name, call.arguments)
                for number, call in enumerate(done.calls)
            )
            yield Chunk(text, reasoning, calls, done.finish_reason, _usage(done), self.model)
        finally:
            asked.is_stopped.set()
            work.cancel()

    async def _next(self, pieces: asyncio.Queue[str | None], timeout: float) -> str | None:
        try:
            async with asyncio.timeout(timeout):
                return await pieces.get()
        except TimeoutError as error:
            raise APITimeoutError(
                f"huggingface/{self.model} did not go on within {timeout:g} s"
            ) from error

    async def aclose(self) -> None:
        """Leave the model to the others that use it; it goes when newer ones need its place."""

    def _generation(self, request: ChatRequest, emit: Callable[[str], object]) -> Generation:
        if request.tools and request.tool_choice not in {None, "auto", "none"}:
            raise ConfigurationError(
                f"huggingface/{self.model} takes no tool_choice but auto and none, not "
                f"{request.tool_choice}"
            )
        if request.extra_headers:
            raise ConfigurationError("there is no request to put extra_headers into")
        options: dict[str, Any] = {}
        if request.temperature is not None:
            options["do_sample"] = request.temperature > 0
            if request.temperature > 0:
                options["temperature"] = request.temperature
        if request.top_p is not None and options.get("do_sample", True):
            options |= {"do_sample": True, "top_p": request.top_p}
        tools = () if request.tool_choice == "none" else request.tools
        return Generation(
            request.messages,
            [openai_tool(tool) for tool in tools],
            request.max_tokens,
            request.stop,
            request.seed,
            {**options, **request.extra_body},
            emit,
        )


def _usage(done: Generated) -> Usage:
    return Usage(done.input_tokens, 1, output_tokens=done.output_tokens)
