"""Every provider that LiteLLM speaks to: chat and embeddings."""

from __future__ import annotations

import dataclasses
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError
from tollway.providers.base import ALL_PARAMETERS, ChatRules, EmbeddingAnswer, EmbeddingRules
from tollway.providers.frame import AtClient, ChatFrame, Events, Reading
from tollway.providers.litellm_client import LiteLLMClient, caught, sdk
from tollway.providers.openai import DIMENSIONS
from tollway.providers.openai_models import Learned, Model, learned_of
from tollway.providers.openai_wire import ChunkReader, chat_body, completion_of, usage_of
from tollway.providers.rows import rows_of
from tollway.tokens.counts import without_surrogates
from tollway.types import Chunk, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tollway.errors import ProviderError
    from tollway.providers.base import ChatFeature, ChatParameter, ChatRequest
    from tollway.types import Completion, Message

__all__ = ["LiteLLMEmbeddingProvider", "LiteLLMProvider"]

# LiteLLM streams for every provider, and puts a system prompt where each wants it.
_FEATURES: frozenset[ChatFeature] = frozenset({"stream", "stream_usage", "system"})
# What one of LiteLLM's parameters makes possible.
_BY_PARAMETER: dict[str, frozenset[ChatFeature]] = {
    "tools": frozenset({"tools"}),
    "tool_choice": frozenset({"tool_choice"}),
    "response_format": frozenset({"json_mode"}),
}
# Texts a request, by the providers' own documents; LiteLLM does not split them.
_MAX_TEXTS = {"azure": 2048, "cohere": 96, "gemini": 100, "openai": 2048, "voyage": 1000}
_FEW_TEXTS = 64


class LiteLLMProvider(AtClient[LiteLLMClient], ChatFrame):
    """One chat model behind LiteLLM.

    Each call goes through `litellm.acompletion`, its retries off and nothing dropped in silence.
    LiteLLM is imported on the first call, which takes seconds (for a model that is named alone, as
    `gpt-4o`, at once, to ask whose it is); what its tables say of the model is
    what is taken to be possible. Connections are LiteLLM's own, shared by all who use it in the
    process, and stay open. Where the answer has no finish reason LiteLLM makes one up: of a stream
    that is noticed, of a whole answer it cannot be.

    Args:
        model: As LiteLLM names it: `groq/llama-3.3-70b-versatile`.
        base_model: The model that a deployment serves, by which tokens are counted and priced.
        options: As `LiteLLMClient` takes them: `api_key`, `base_url`, `errors`, and further
            arguments of LiteLLM's calls.

    Raises:
        ConfigurationError: An address that is none.
    """

    name = "litellm"

    def __init__(
        self,
        model: str,
        *,
        base_model: str | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self._client = LiteLLMClient(model, **options)
        served = base_model or self._client.name
        is_listed = self._client.is_own_address
        self.rules = ChatRules(
            served,
            feedback=self._client.feedback,
            price="listed" if is_listed else "unknown",
            price_provider=self._client.kind,
            price_model=served,
        )
        self.limits = self._client.limits

    @cached_property
    def _learned(self) -> Learned:  # type: ignore[override]
        # LiteLLM is imported when it is asked for.
        known = _model_of(self._client.name, self._client.kind)
        place = f"litellm {self._client.base_url}"
        return learned_of(place, self.model, known, max_tokens="max_tokens")

    async def _answer(self, request: ChatRequest) -> Completion:
        answer = await sdk().acompletion(**self._arguments(request))
        headers = self._client.headers_of(answer)
        with Reading(self._where):
            parsed: dict[str, Any] = _with_refusal(answer.model_dump())
            completion = completion_of(parsed, headers, self.name, model=self.model, split=True)
            thoughts = _thoughts(parsed["choices"][0]["message"])
        usage = completion.usage
        if not usage.total_tokens:
            usage = Usage(requests=1, estimated=True)
        return dataclasses.replace(
            completion, usage=usage, extra={"litellm": thoughts} if thoughts else {}, raw=answer
        )

    async def _events(self, request: ChatRequest) -> Events:
        arguments = {**self._arguments(request), "stream": True}
        if "stream_usage" in self.capabilities.features:
            arguments["stream_options"] = {"include_usage": True}
        pieces = await sdk().acompletion(**arguments)
        headers = self._client.headers_of(pieces)
        reader = _Reader(pieces)
        return Events(pieces, reader.read, headers, headers["x-request-id"] or None, reader.end)

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        messages = [_message(message) for message in request.messages]
        written = chat_body(
            self.model, dataclasses.replace(request, messages=messages), self._learned
        )
        arguments = {**self._client.arguments, **written, "timeout": request.timeout}
        if request.extra_headers:
            arguments["extra_headers"] = dict(request.extra_headers)
        return arguments

    def _failure(self, error: Exception, timeout: float) -> ProviderError | None:
        del timeout  # LiteLLM's own message has it
        return self._client.failure(error) if isinstance(error, caught()) else None


class LiteLLMEmbeddingProvider(AtClient[LiteLLMClient]):
    """One embedding model behind LiteLLM.

    Args:
        model: As LiteLLM names it: `voyage/voyage-3.5`.
        dimensions: Shorter vectors, where the model can.
        base_model: The model that a deployment serves, by which tokens are counted and priced.
        max_texts: Texts a request. Default: what the provider documents, else 64.
        options: As `LiteLLMClient` takes them.

    Raises:
        ConfigurationError: An address that is none.
    """

    name = "litellm"

    def __init__(
        self,
        model: str,
        *,
        dimensions: int | None = None,
        base_model: str | None = None,
        max_texts: int | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self._client = LiteLLMClient(model, **options)
        self._served = base_model or self._client.name
        self._asked: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        is_openai = self._served in DIMENSIONS
        self.rules = EmbeddingRules(
            exact=is_openai,
            max_texts=max_texts or _MAX_TEXTS.get(self._client.kind, _FEW_TEXTS),
            max_request_tokens=300_000 if is_openai else None,
            max_text_tokens=8191 if is_openai else None,
            dimensions=dimensions or DIMENSIONS.get(self._served),
            input_type=options.get("input_type"),
            price="listed" if self._client.is_own_address else "unknown",
        )
        self.limits = self._client.limits

    @property
    def priced_as(self) -> str:
        """The provider behind LiteLLM and its model."""
        return f"{self._client.kind}/{self._served}"

    def for_queries(self) -> LiteLLMEmbeddingProvider:
        """Return itself: queries are embedded as documents are, unless `input_type` is given."""
        return self

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts; see `EmbeddingProvider.embed`."""
        inputs = [without_surrogates(text) for text in texts]
        try:
            answer = await sdk().aembedding(
                **{**self._client.arguments, **self._asked, "input": inputs, "timeout": 600.0}
            )
        except caught() as error:
            raise self._client.failure(error) from None
        given: list[Any] = [_members(row) for row in getattr(answer, "data", None) or ()]
        if len(given) != len(texts):
            raise BadResponseError(
                f"{self._client.where} answered {len(given)} vectors for {len(texts)} texts"
            )
        rows: list[Any] = [None] * len(texts)
        for number, row in enumerate(given):
            place = row.get("index")
            if not (isinstance(place, int) and 0 <= place < len(rows)):
                place = number
            rows[place] = row.get("embedding")
        vectors, bad_rows = rows_of(rows, self.rules.dimensions)
        usage = usage_of(_members(getattr(answer, "usage", None)))
        if not usage.input_tokens:
            usage = Usage(requests=1, estimated=True)
        headers = self._client.headers_of(answer)
        feedback = self._client.feedback.read(200, headers, now=time.time())
        return EmbeddingAnswer(vectors, bad_rows, usage, feedback)


class _Reader(ChunkReader):
    """Reads the pieces of one stream of LiteLLM's."""

    def __init__(self, pieces: Any) -> None:
        super().__init__(split=True)
        self._pieces = pieces
        self._blocks: list[dict[str, Any]] = []

    def read(self, event: Any) -> Chunk | None:
        parsed: dict[str, Any] = _with_refusal(event.model_dump())
        self._blocks += _blocks_of(parsed)
        chunk = super().read(parsed)
        return chunk and _as_sent(chunk, self._pieces, self._blocks)


def _model_of(model: str, kind: str) -> Model:
    """Return what LiteLLM's tables say of a model; of one that they do not know, the best."""
    litellm = sdk()
    try:
        supported = set(litellm.get_supported_openai_params(model, custom_llm_provider=kind) or ())
    except caught():
        supported = {*ALL_PARAMETERS, *_BY_PARAMETER}
    features: set[ChatFeature] = set(_FEATURES)
    for name, possible in _BY_PARAMETER.items():
        if name in supported:
            features |= possible
    try:
        info: Mapping[str, Any] = litellm.get_model_info(model, custom_llm_provider=kind)
    except Exception:  # noqa: BLE001 - it raises a bare Exception, or one that is private
        info = {"supports_vision": True, "supports_response_schema": "json_mode" in features}
    if info.get("supports_vision"):
        features.add("images")
    if info.get("supports_response_schema") and "json_mode" in features:
        features.add("json_schema")
    if "claude" in model:
        # It is held to schemas alone; asked for any JSON, LiteLLM asks for nothing.
        features.discard("json_mode")
    features.add("reasoning")
    parameters: set[ChatParameter] = {name for name in ALL_PARAMETERS if name in supported}
    if "max_completion_tokens" in supported:
        parameters.add("max_tokens")
    return Model(features=features, parameters=parameters)


def _message(message: Message) -> Message:
    """Return a message with what LiteLLM wants back in OpenAI's place."""
    own = message.extra.get("litellm")
    return dataclasses.replace(message, extra={"openai": own} if own else {})


def _members(value: Any) -> dict[str, Any]:
    if hasattr(value, "model_dump"):
        return cast("dict[str, Any]", value.model_dump())
    return dict(value or {})


def _with_refusal(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with the refusal where OpenAI has it."""
    for choice in answer.get("choices") or ():
        said: dict[str, Any] = choice.get("message") or choice.get("delta") or {}
        own: dict[str, Any] = said.get("provider_specific_fields") or {}
        if own.get("refusal"):
            said["refusal"] = own["refusal"]
    return answer


def _blocks_of(piece: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices: list[dict[str, Any]] = piece.get("choices") or []
    delta: dict[str, Any] = choices[0].get("delta") or {} if choices else {}
    return delta.get("thinking_blocks") or []


def _thoughts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signed thoughts of an answer of Anthropic's, to be sent back as they came."""
    blocks = message.get("thinking_blocks")
    return {"thinking_blocks": blocks} if blocks else {}


def _as_sent(chunk: Chunk, pieces: Any, blocks: Sequence[Mapping[str, Any]]) -> Chunk:
    """Return a piece without what LiteLLM made up, and at the end with the signed thoughts."""
    if chunk.usage is not None and not any(
        getattr(kept, "usage", None) for kept in getattr(pieces, "chunks", ())
    ):
        chunk = dataclasses.replace(chunk, usage=Usage(requests=1, estimated=True))
    if chunk.finish_reason is None:
        return chunk
    names = ("received_finish_reason", "intermittent_finish_reason")
    if not any(getattr(pieces, name, None) for name in names):
        return dataclasses.replace(chunk, finish_reason=None)
    signature = next((block["signature"] for block in blocks if block.get("signature")), None)
    if signature is None:
        return chunk
    thought = "".join(block.get("thinking") or "" for block in blocks)
    whole = {"type": "thinking", "thinking": thought, "signature": signature}
    return dataclasses.replace(chunk, extra={"litellm": {"thinking_blocks": [whole]}})
