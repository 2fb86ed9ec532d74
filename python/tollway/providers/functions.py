"""Functions of the user's own as providers: `LLM(llm_model_func=…)`, `Embedder(embedding_func=…)`.

A function gets what LightRAG gives to its `llm_model_func` and `embedding_func`, as far as its
signature takes it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from typing import TYPE_CHECKING, Any, cast, get_args

from tollway.errors import BadResponseError, ConfigurationError, TollwayError
from tollway.limiter import Limits
from tollway.providers.base import (
    ChatCapabilities,
    ChatFeature,
    ChatParameter,
    ChatRules,
    EmbeddingAnswer,
    EmbeddingRules,
)
from tollway.providers.errors import OPENAI_ERRORS
from tollway.providers.function_calls import Function, name_of, pieces_of
from tollway.providers.function_errors import error_of_function
from tollway.providers.messages import only_text, openai_message, text_of
from tollway.providers.rows import rows_of, wrong_length
from tollway.providers.thinking import ThinkSplitter, split_thinking
from tollway.providers.turns import split_system
from tollway.tokens.models import find_encoding_name
from tollway.types import Chunk, Completion, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.providers.base import ChatRequest
    from tollway.providers.errors import ErrorTable
    from tollway.types import Message

__all__ = ["FunctionChatProvider", "FunctionEmbeddingProvider"]

_PARAMETERS: tuple[ChatParameter, ...] = get_args(ChatParameter)


class FunctionChatProvider:
    """A function that answers prompts, such as LightRAG's `llm_model_func`.

    It is called as `function(prompt, system_prompt=…, history_messages=[…], …)` and returns the
    answer: a text, an iterator of its pieces, async or not, or a `Completion`, whose usage then
    counts. It may be async; one that is not runs in a thread. It gets the parameters that the user
    named, if its signature takes them; `extra_body` holds further arguments. It streams if it
    yields, or takes `stream`. A system prompt or history that it does not take stands before the
    prompt. What it raises becomes an error of `tollway.errors`, by its HTTP status or its class.

    Args:
        function: Answers one prompt.
        model: `provider/model`: what the function calls, by which answers are counted, priced and
            kept in checkpoints. Without it: `function/NAME`, counted by an estimate.
        errors: What a status and code mean, where that is not what they mean at OpenAI.

    Raises:
        ConfigurationError: It is no function, or the model's name is none.
    """

    # As for every address of which nothing is known.
    limits = Limits(max_in_flight=25)

    def __init__(
        self,
        function: Callable[..., Any],
        model: str | None = None,
        *,
        errors: ErrorTable = OPENAI_ERRORS,
    ) -> None:
        self._function = called = Function(function)
        self.name, self.model = name_of(function, model)
        self._errors = errors
        features: set[ChatFeature] = {"system", "reasoning"}
        if called.yields or called.takes("stream"):
            features.add("stream")
        # One that takes anything may send it on to a server that refuses it.
        if "response_format" in called.named:
            features.add("json_mode")
        parameters: set[ChatParameter] = {name for name in _PARAMETERS if called.takes(name)}
        self.capabilities = ChatCapabilities(features, parameters)
        self.rules = ChatRules(
            token_model=self.model,
            price="unknown" if model is None else "listed",
            price_provider=self.name,
            price_model=self.model,
        )

    def __repr__(self) -> str:
        """Show the model."""
        return f"<FunctionChatProvider {self.name}/{self.model}>"

    @property
    def quota_key(self) -> Hashable:
        """The function and the model."""
        return ("function", self._function.key, self.name, self.model)

    async def open(self) -> None:
        """Do nothing."""

    async def complete(self, request: ChatRequest) -> Completion:
        """Call the function and return its answer; see `ChatProvider.complete`.

        Cancellation cancels an async function, and abandons the thread of another.
        """
        try:
            result = await self._call(request, is_stream=False)
            if isinstance(result, Completion):
                model, provider = result.model or self.model, result.provider or self.name
                return dataclasses.replace(result, model=model, provider=provider)
            written = "".join([piece async for piece in pieces_of(result)])
        except TollwayError:
            raise
        except Exception as error:
            raise self._error(error) from error
        # LightRAG's own functions so mark an answer that is cut short.
        is_cut = type(result).__name__ == "TruncatedResponse"
        reasoning, text = split_thinking(written)
        if not written.strip():
            raise BadResponseError(f"{self.name}/{self.model}: the function returned no text")
        return Completion(
            text,
            "length" if is_cut else "stop",
            reasoning=reasoning,
            usage=Usage(requests=1, estimated=True),
            model=self.model,
            provider=self.name,
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Call the function and return the pieces of its answer; see `ChatProvider.stream`."""
        splitter = ThinkSplitter()
        try:
            result = await self._call(request, is_stream=True)
            if isinstance(result, Completion):
                yield Chunk(result.text, result.reasoning, usage=result.usage)
                yield Chunk(finish_reason=result.finish_reason)
                return
            pieces = pieces_of(result, timeout=request.timeout)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    reasoning, text = splitter.feed(piece)
                    yield Chunk(text, reasoning)
        except TollwayError:
            raise
        except Exception as error:
            raise self._error(error) from error
        reasoning, text = splitter.end()
        yield Chunk(text, reasoning)
        yield Chunk(finish_reason="stop")

    async def aclose(self) -> None:
        """Do nothing: what the function opened is its own."""

    async def _call(self, request: ChatRequest, *, is_stream: bool) -> Any:
        function = self._function
        prompt, arguments = self._said(request.messages)
        for name in _PARAMETERS:
            value = getattr(request, name)
            if name not in request.defaults and value not in (None, ()):
                arguments[name] = list(value) if name == "stop" else value
        if request.response_format is not None:
            arguments["response_format"] = {"type": "json_object"}
        if request.extra_headers:
            arguments["extra_headers"] = dict(request.extra_headers)
        arguments.update(request.extra_body)
        if is_stream and function.takes("stream"):
            arguments["stream"] = True
        unknown = [name for name in arguments if not function.takes(name)]
        if unknown:
            raise ConfigurationError(f"the function {self.model} takes no {unknown[0]!r}")
        # The time of a whole answer is held where it is asked for.
        timeout = request.timeout if is_stream else None
        return await function(prompt, arguments, timeout=timeout)

    def _said(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        """Return the prompt, and the arguments for what was said before it."""
        instructions, (*history, last) = split_system(messages)
        system = [text_of(message) for message in instructions]
        if last.role != "user":
            raise ConfigurationError(
                f"the function {self.model} answers a user's message, not one of {last.role}"
            )
        for message in messages:
            only_text(message, f"the function {self.model}")
        prompt, arguments = text_of(last), dict[str, Any]()
        if history and self._function.takes("history_messages"):
            arguments["history_messages"] = [openai_message(message) for message in history]
        elif history:
            said = [f"{message.role}: {text_of(message)}" for message in (*history, last)]
            prompt = "\n\n".join(said)
        if system and self._function.takes("system_prompt"):
            arguments["system_prompt"] = "\n\n".join(system)
        elif system:
            prompt = "\n\n".join([*system, prompt])
        return prompt, arguments

    def _error(self, error: Exception) -> TollwayError:
        return error_of_function(error, f"{self.name}/{self.model}", self._errors)


class FunctionEmbeddingProvider:
    """A function that embeds texts, such as LightRAG's `embedding_func`.

    It is called as `function(texts)` and returns a vector for each: an array of shape (n, d), or n
    lists of numbers. It may be async; one that is not runs in a thread. One that names an argument
    `context` is told `document` or `query`. What it raises becomes an error of `tollway.errors`.

    Args:
        function: Embeds a list of texts. Of LightRAG's `EmbeddingFunc`, what it says of itself
            holds where nothing else is given.
        model: `provider/model`: what the function calls, by which texts are counted, priced and
            kept in jobs. Without it: `function/NAME`.
        dimensions: Length of its vectors; else that of the first.
        max_texts: Texts that it takes at once.
        max_text_tokens: Tokens that it takes of a text; longer ones are cut.
        errors: What a status and code mean, where that is not what they mean at OpenAI.

    Raises:
        ConfigurationError: It is no function, or the model's name is none.
    """

    limits = Limits(max_in_flight=25)

    def __init__(
        self,
        function: Callable[..., Any],
        model: str | None = None,
        *,
        dimensions: int | None = None,
        max_texts: int = 2048,
        max_text_tokens: int | None = None,
        errors: ErrorTable = OPENAI_ERRORS,
    ) -> None:
        self._function = Function(function)
        self.name, self.model = name_of(function, model)
        self._errors = errors
        is_asymmetric = (
            getattr(function, "supports_asymmetric", False) or "context" in self._function.named
        )
        self._arguments = {"context": "document"} if is_asymmetric else {}
        encoding = find_encoding_name(self.model)
        self.rules = EmbeddingRules(
            encoding=encoding or "cl100k_base",
            exact=encoding is not None,
            max_texts=max_texts,
            max_text_tokens=max_text_tokens or getattr(function, "max_token_size", None),
            dimensions=dimensions or getattr(function, "embedding_dim", None),
            input_type=self._arguments.get("context"),
            price="unknown" if model is None else "listed",
        )

    def __repr__(self) -> str:
        """Show the model."""
        return f"<FunctionEmbeddingProvider {self.name}/{self.model}>"

    @property
    def quota_key(self) -> Hashable:
        """The function and the model."""
        return ("function", self._function.key, self.name, self.model)

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> FunctionEmbeddingProvider:
        """Return what tells the function that texts are queries, if it asks."""
        if not self._arguments:
            return self
        asking = copy.copy(self)
        asking._arguments = {"context": "query"}  # noqa: SLF001 - its own class
        asking.rules = dataclasses.replace(self.rules, input_type="query")
        return asking

    async def open(self) -> None:
        """Do nothing."""

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Call the function; see `EmbeddingProvider.embed`.

        Cancellation cancels an async function, and abandons the thread of another.
        """
        try:
            given = await self._function(list(texts), self._arguments)
        except TollwayError:
            raise
        except Exception as error:
            model = f"{self.name}/{self.model}"
            raise error_of_function(error, model, self._errors) from error
        vectors, bad_rows = self._rows(given, len(texts))
        return EmbeddingAnswer(vectors, bad_rows, Usage(requests=1, estimated=True))

    def _rows(self, given: Any, count: int) -> tuple[NDArray[np.float32], list[tuple[int, str]]]:
        import numpy as np  # noqa: PLC0415 - `import tollway` brings in no numpy

        try:
            if len(given) != count:
                raise BadResponseError(f"the function gave {len(given)} rows for {count} texts")
            if not hasattr(given, "__array__"):
                return rows_of(cast("Sequence[Any]", given), self.rules.dimensions)
            # A copy: the function may go on with its own.
            vectors = np.array(given, np.float32)
        except (TypeError, ValueError) as error:
            raise BadResponseError(f"the function gave no rows of numbers: {error}") from error
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise BadResponseError(
                f"the function gave an array of shape {vectors.shape} for {count} texts"
            )
        size = self.rules.dimensions
        if size and vectors.shape[1] != size:
            raise wrong_length(vectors.shape[1], size)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        vectors[bad] = np.nan
        return vectors, [(row, "a value is not a number") for row in bad]

    async def aclose(self) -> None:
        """Do nothing: what the function opened is its own."""
