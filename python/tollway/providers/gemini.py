"""Google's Gemini at AI Studio and Vertex: chat and embeddings, through the official SDK."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tollway.errors import BadResponseError, ConfigurationError
from tollway.limiter import AUTO_LIMITS, Limits
from tollway.limiter.feedback import GEMINI_FEEDBACK
from tollway.providers.base import (
    ALL_FEATURES,
    ALL_PARAMETERS,
    CHECK_TIMEOUT,
    ChatRequest,
    Checked,
    EmbeddingAnswer,
    EmbeddingRules,
)
from tollway.providers.frame import AtClient, ChatFrame, Events, Reading
from tollway.providers.gemini_client import GeminiClient, caught, shown
from tollway.providers.gemini_wire import (
    ChunkReader,
    completion_of,
    contents_and_config,
)
from tollway.providers.openai_models import Model, learned_of
from tollway.providers.rows import rows_of
from tollway.types import Message, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollway.errors import ProviderError
    from tollway.providers.base import ChatFeature, ChatParameter
    from tollway.types import Completion

__all__ = ["GeminiEmbeddingProvider", "GeminiProvider"]

_PLAIN: frozenset[ChatFeature] = ALL_FEATURES - {"reasoning"}
_PARAMETERS: frozenset[ChatParameter] = ALL_PARAMETERS - {"reasoning_effort", "parallel_tool_calls"}
_EFFORT: frozenset[ChatParameter] = frozenset({*_PARAMETERS, "reasoning_effort"})
# https://ai.google.dev/gemini-api/docs/models; the first that fits counts.
_MODELS = {
    "gemini-2.0": Model(1_048_576, 8_192, _PLAIN, _PARAMETERS),
    "gemini-2.5": Model(1_048_576, 65_536, ALL_FEATURES, _EFFORT),
    "gemini-3": Model(1_048_576, 65_536, ALL_FEATURES, _EFFORT),
    "gemma-3": Model(None, None, frozenset({"stream", "stream_usage", "images"}), _PARAMETERS),
}
_UNKNOWN = Model(None, None, ALL_FEATURES, _EFFORT)

# https://ai.google.dev/gemini-api/docs/embeddings: dimensions and tokens a text.
_EMBEDDINGS = {
    "gemini-embedding-001": (3072, 2_048),
    "gemini-embedding-2": (3072, 8_192),
    "text-embedding-005": (768, 2_048),
    "text-multilingual-embedding-002": (768, 2_048),
}
_MAX_TEXTS = 100


class GeminiProvider(AtClient[GeminiClient], ChatFrame):
    """One chat model of Gemini.

    What it signs of its thoughts goes back with the answer's `message`. `reasoning_effort` is the
    thinking level, or for models of 2.5 the budget that Google gives for it.

    Args:
        model: `gemini-2.5-flash`.
        options: As `GeminiClient` takes them: `api_key`, `vertexai`, `project`, `location`,
            `credentials`, `base_url`, `client`, `headers`, `errors`.

    Raises:
        ConfigurationError: No key or project, or an address that is none.
    """

    name = "gemini"

    def __init__(self, model: str, **options: Any) -> None:
        self.model = model
        self._client = GeminiClient(model, **options)
        family = next((name for name in _MODELS if model.startswith(name)), None)
        known = _UNKNOWN if family is None else _MODELS[family]
        self._learned = learned_of(f"gemini {self._client.quota_key!r}", model, known)
        is_own = self._client.is_own_address
        self.rules = self._learned.rules(
            token_model=model,
            charges_max_tokens="no",
            feedback=GEMINI_FEEDBACK,
            price_provider="google" if is_own else None,
            price_model=model,
        )
        self.limits = AUTO_LIMITS if is_own else Limits(max_in_flight=25)

    async def _answer(self, request: ChatRequest) -> Completion:
        contents, config = self._arguments(request)
        models = self._client.models()
        answer = await models.generate_content(model=self.model, contents=contents, config=config)
        with Reading(self._where):
            return completion_of(answer, self.model)

    async def _events(self, request: ChatRequest) -> Events:
        contents, config = self._arguments(request)
        pieces = await self._client.models().generate_content_stream(
            model=self.model, contents=contents, config=config
        )
        return Events(pieces, ChunkReader(self.model).read)

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the tokens of a request's messages as Gemini counts them; costs a request.

        System prompts and tools are counted at Vertex alone: AI Studio's count has no place for
        them.

        Raises:
            ProviderError: As `complete`.
        """
        models = self._client.models()
        contents, config = self._arguments(request)
        told: dict[str, Any] = {"http_options": config["http_options"]}
        if self._client.is_vertex:
            names = ("system_instruction", "tools")
            told |= {name: config[name] for name in names if name in config}
        with self._failing(request):
            counted = await models.count_tokens(model=self.model, contents=contents, config=told)
        with Reading(self._where):
            return int(counted.total_tokens)

    async def check(self) -> Checked:
        """Have the tokens of one word counted, which costs nothing.

        Raises:
            ProviderError: As `complete`; `NotFoundError` where there is no such model.
        """
        await self.count_tokens(ChatRequest((Message("user", "Hi"),), timeout=CHECK_TIMEOUT))
        return Checked("a count of tokens", has_model=True)

    def _arguments(self, request: ChatRequest) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        capabilities = self.capabilities
        contents, config = contents_and_config(
            self.model,
            request,
            thoughts="reasoning" in capabilities.features,
            has_system="system" in capabilities.features,
        )
        # A retry of a request that was built before the model refused a default.
        for name in request.defaults - capabilities.parameters:
            config.pop("max_output_tokens" if name == "max_tokens" else name, None)
        return contents, config

    def _refused(self, message: str, request: ChatRequest) -> str | None:
        is_asked = request.reasoning_effort or "thinking" in str(request.extra_body).lower()
        # Nobody asked it to show its thoughts.
        if "thinking" in message.lower() and not is_asked:
            return self._learned.forget("reasoning", "does not think")
        if "Developer instruction" in message:
            return self._learned.forget("system", "takes no system prompts")
        return super()._refused(message, request)

    def _failure(self, error: Exception, timeout: float) -> ProviderError | None:
        return self._client.failure(error, timeout) if isinstance(error, caught()) else None


class GeminiEmbeddingProvider(AtClient[GeminiClient]):
    """One embedding model of Gemini.

    Args:
        model: `gemini-embedding-001`.
        task_type: What the vectors are for: `RETRIEVAL_DOCUMENT`, `RETRIEVAL_QUERY`,
            `SEMANTIC_SIMILARITY`, `CLASSIFICATION`, `CLUSTERING`, …. Texts to be found and the
            questions that find them want different ones.
        dimensions: Shorter vectors; they are scaled to unit length again, as Google's are only
            in full.
        title: Of the documents, with `RETRIEVAL_DOCUMENT`.
        options: As `GeminiClient` takes them.

    Raises:
        ConfigurationError: No key or project, or more dimensions than the model has.
    """

    name = "gemini"

    def __init__(
        self,
        model: str,
        *,
        task_type: str | None = None,
        dimensions: int | None = None,
        title: str | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self._client = GeminiClient(model, **options)
        full, most_tokens = _EMBEDDINGS.get(model, (None, None))
        if full is not None and dimensions is not None and not 1 <= dimensions <= full:
            raise ConfigurationError(f"gemini/{model} has 1 to {full} dimensions, not {dimensions}")
        self._config = {
            name: value
            for name, value in (
                ("task_type", task_type),
                ("output_dimensionality", dimensions),
                ("title", title),
            )
            if value is not None
        }
        self._is_cut = dimensions is not None and dimensions != full
        # At Vertex one text a request for models of Gemini:
        # https://cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings
        alone = self._client.is_vertex and model.startswith("gemini")
        is_own = self._client.is_own_address
        self.rules = EmbeddingRules(
            max_texts=1 if alone else _MAX_TEXTS,
            max_request_tokens=20_000 if self._client.is_vertex else None,
            max_text_tokens=most_tokens,
            dimensions=dimensions or full,
            input_type=task_type,
            price="listed" if is_own else "unknown",
        )
        self.limits = AUTO_LIMITS if is_own else Limits(max_in_flight=25)

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> GeminiEmbeddingProvider:
        """Return what says that texts are questions, where `task_type` says that they answer."""
        if self._config.get("task_type") != "RETRIEVAL_DOCUMENT":
            return self
        queries = copy.copy(self)
        queries._config = {**self._config, "task_type": "RETRIEVAL_QUERY"}  # noqa: SLF001 - a copy
        queries._config.pop("title", None)  # noqa: SLF001 - a copy of this object
        return queries

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts; see `EmbeddingProvider.embed`."""
        models = self._client.models()
        config = {**self._config, "http_options": {"retry_options": {"attempts": 1}}}
        # A list of strings is one document to models that take more than text.
        contents = [{"role": "user", "parts": [{"text": text}]} for text in texts]
        try:
            answer = await models.embed_content(
                model=self.model,
                contents=list(texts) if self._client.is_vertex else contents,
                config=config,
            )
        except caught() as error:
            raise self._client.failure(error, 600.0) from shown(error)
        given: list[Any] = list(answer.embeddings or ())
        if len(given) != len(texts):
            raise BadResponseError(
                f"gemini/{self.model} answered {len(given)} vectors for {len(texts)} texts"
            )
        vectors, bad_rows = rows_of(
            [row.values for row in given], self.rules.dimensions, normalize=self._is_cut
        )
        return EmbeddingAnswer(vectors, bad_rows, _embedding_usage(answer, given))


def _embedding_usage(answer: Any, given: Sequence[Any]) -> Usage:
    """Return the tokens that Vertex reports text by text, or AI Studio for newer models."""
    counted = getattr(getattr(answer, "usage_metadata", None), "prompt_token_count", None)
    if counted is None:
        counts: list[Any] = [getattr(row.statistics, "token_count", None) for row in given]
        counted = None if None in counts else int(sum(counts, 0.0))
    return Usage(input_tokens=counted or 0, requests=1, estimated=counted is None)
