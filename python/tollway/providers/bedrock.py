"""Amazon Bedrock: chat through Converse, embeddings of Titan and Cohere, through boto3."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError, ConfigurationError
from tollway.limiter import AUTO_LIMITS
from tollway.providers.base import EmbeddingAnswer, EmbeddingRules
from tollway.providers.bedrock_client import BedrockClient
from tollway.providers.bedrock_wire import ChunkReader, completion_of, converse_arguments
from tollway.providers.frame import AtClient, ChatFrame, Events, Reading
from tollway.providers.openai_models import Model, learned_of
from tollway.providers.rows import rows_of
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tollway.providers.base import ChatFeature, ChatParameter, ChatRequest
    from tollway.types import Completion

__all__ = ["BedrockEmbeddingProvider", "BedrockProvider"]

_FEATURES: frozenset[ChatFeature] = frozenset(
    {"stream", "stream_usage", "system", "images", "tools", "tool_choice", "reasoning"}
)
_SCHEMA: frozenset[ChatFeature] = frozenset({*_FEATURES, "json_schema"})
_PARAMETERS: frozenset[ChatParameter] = frozenset({"temperature", "max_tokens", "top_p", "stop"})
_EFFORT: frozenset[ChatParameter] = frozenset({*_PARAMETERS, "reasoning_effort"})
# https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html: models of Anthropic
# from 4.5 on. Any other is asked in words, and its answer checked.
_HAS_SCHEMA = re.compile(r"claude-[a-z]+-(4-[5-9]|[5-9])")
_HAS_EFFORT = re.compile(r"claude-opus-4-[5-9]|claude-[a-z]+-[5-9](?!\d)")
# Of these what `anthropic.py` says of its own.
_NO_SAMPLING = re.compile(r"claude-opus-4-[78](?!\d)|claude-[a-z]+-[5-9](?!\d)|claude-mythos")
# https://docs.aws.amazon.com/bedrock/latest/userguide/quotas-token-burndown.html: one token that
# these write takes five of the quota. What was charged for max_tokens comes back at the end, and
# what was read from the cache.
_BURNS = re.compile(r"claude-3-7|claude-[a-z]+-[4-9]|claude-mythos")
# What of a conversation CountTokens takes.
_COUNTED = ("messages", "system", "toolConfig", "additionalModelRequestFields")
_TITAN = {"amazon.titan-embed-text-v1": 1536, "amazon.titan-embed-text-v2:0": 1024}


class BedrockProvider(AtClient[BedrockClient], ChatFrame):
    """One chat model of Bedrock.

    Thinking is asked for by `extra_body={"additionalModelRequestFields": {"thinking": {…}}}`; it
    goes back with the answer's `message`, signed as it came. The conversation is cached up to the
    end of a message, system prompts among them, whose `extra` is
    `{"bedrock": {"cachePoint": {"type": "default"}}}`.

    Args:
        model: `anthropic.claude-haiku-4-5-20251001-v1:0`, an inference profile or an ARN.
        options: As `BedrockClient` takes them: `region`, `profile`, `aws_access_key_id`,
            `aws_secret_access_key`, `aws_session_token`, `base_url`, `client`, `errors`.

    Raises:
        ConfigurationError: An address that is none.
    """

    name = "bedrock"

    def __init__(self, model: str, **options: Any) -> None:
        self.model = model
        self._client = BedrockClient(model, **options)
        base_url = self._client.base_url
        parameters = _EFFORT if _HAS_EFFORT.search(model) else _PARAMETERS
        if _NO_SAMPLING.search(model):
            parameters -= {"temperature", "top_p"}
        known = Model(
            features=_SCHEMA if _HAS_SCHEMA.search(model) else _FEATURES, parameters=parameters
        )
        self._learned = learned_of(f"bedrock {base_url}", model, known)
        rules = self._learned.rules(
            token_model=model,
            charges_max_tokens="sum",
            feedback=None,
            price_provider="aws" if base_url is None else None,
            price_model=model,
        )
        self.rules = dataclasses.replace(rules, refunds=True)
        weight = 5 if _BURNS.search(model) else None
        self.limits = dataclasses.replace(AUTO_LIMITS, output_weight=weight, cached_free=True)

    async def _answer(self, request: ChatRequest) -> Completion:
        """Cancellation returns at once; the answer that nobody waits for is read by its thread."""
        answer = await self._client.call("converse", self._arguments(request))
        with Reading(self._where):
            return completion_of(answer, self.model)

    async def _events(self, request: ChatRequest) -> Events:
        events = self._client.events(self._arguments(request), request.timeout)
        return Events(events, ChunkReader().read)

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the tokens of a request's input as Bedrock counts them; costs nothing.

        Counted are models of Anthropic in some regions, by their own ids.

        Raises:
            ProviderError: As `complete`; `BadRequestError` for any other model.
        """
        asked = self._arguments(request)
        told = {name: asked[name] for name in _COUNTED if name in asked}
        arguments = {"modelId": self.model, "input": {"converse": told}}
        with self._failing(request):
            counted = await self._client.call("count_tokens", arguments)
        with Reading(self._where):
            return int(counted["inputTokens"])

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        arguments = converse_arguments(self.model, request)
        # A retry of a request that was built before the model refused a default.
        names = {"temperature": "temperature", "max_tokens": "maxTokens"}
        inference: dict[str, Any] = arguments.get("inferenceConfig") or {}
        for name in request.defaults - self.capabilities.parameters:
            inference.pop(names.get(name, name), None)
        return arguments


class BedrockEmbeddingProvider(AtClient[BedrockClient]):
    """One embedding model of Bedrock: Titan, one text a request, or Cohere, up to 96.

    Args:
        model: `amazon.titan-embed-text-v2:0`, `cohere.embed-multilingual-v3`.
        dimensions: Shorter vectors, where the model can; of unit length.
        input_type: For models of Cohere, what the vectors are for: `search_document`,
            `search_query`, `classification`, `clustering`.
        options: As `BedrockClient` takes them.

    Raises:
        ConfigurationError: A model of another family, or an address that is none.
    """

    name = "bedrock"

    def __init__(
        self,
        model: str,
        *,
        dimensions: int | None = None,
        input_type: str = "search_document",
        **options: Any,
    ) -> None:
        self.model = model
        self._client = BedrockClient(model, **options)
        self._is_titan = "titan-embed-text" in model
        if not self._is_titan and "cohere.embed" not in model:
            raise ConfigurationError(
                f"bedrock/{model} is no embedding model of Titan or Cohere: the others' requests "
                "are not known"
            )
        self._dimensions = dimensions
        self._input_type = input_type
        full = _TITAN.get(model[model.find("amazon.") :]) if self._is_titan else None
        is_third = "-v3" in model
        # https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html
        # and …/model-parameters-embed-v3.html
        self.rules = EmbeddingRules(
            max_texts=1 if self._is_titan else 96,
            max_text_tokens=8_192 if self._is_titan else 512 if is_third else 128_000,
            dimensions=dimensions or full or (1024 if is_third else None),
            input_type=None if self._is_titan else input_type,
            price="listed" if self._client.base_url is None else "unknown",
        )
        self.limits = AUTO_LIMITS

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> BedrockEmbeddingProvider:
        """Return itself, or for models of Cohere what says that texts are queries."""
        if self._is_titan or self._input_type != "search_document":
            return self
        queries = copy.copy(self)
        queries._input_type = "search_query"  # noqa: SLF001 - a copy of this object
        return queries

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts; see `EmbeddingProvider.embed`."""
        arguments = {
            "modelId": self.model,
            "body": json.dumps(self._body(texts)),
            "contentType": "application/json",
            "accept": "application/json",
        }
        answer = await self._client.call("invoke_model", arguments)
        try:
            parsed: dict[str, Any] = json.loads(answer["body"])
        except ValueError as error:
            raise BadResponseError(f"bedrock/{self.model} answered what is no JSON") from error
        given: Any = [parsed.get("embedding")] if self._is_titan else parsed.get("embeddings")
        if isinstance(given, dict):
            given = cast("dict[str, Any]", given).get("float")
        rows: list[list[float] | None] = list(given or ())
        if len(rows) != len(texts):
            raise BadResponseError(
                f"bedrock/{self.model} answered {len(rows)} vectors for {len(texts)} texts"
            )
        vectors, bad_rows = rows_of(rows, self.rules.dimensions)
        headers: Mapping[str, str] = answer["ResponseMetadata"].get("HTTPHeaders") or {}
        counted = parsed.get("inputTextTokenCount") or headers.get(
            "x-amzn-bedrock-input-token-count"
        )
        usage = Usage(input_tokens=int(counted or 0), requests=1, estimated=counted is None)
        return EmbeddingAnswer(vectors, bad_rows, usage)

    def _body(self, texts: Sequence[str]) -> dict[str, Any]:
        if self._is_titan:
            body: dict[str, Any] = {"inputText": texts[0]}
            if "-v1" not in self.model:
                body["normalize"] = True
                if self._dimensions is not None:
                    body["dimensions"] = self._dimensions
            return body
        # Too long a text is an error, not the vector of its beginning.
        body = {"texts": list(texts), "input_type": self._input_type, "truncate": "NONE"}
        if "-v3" not in self.model:
            body["embedding_types"] = ["float"]
            if self._dimensions is not None:
                body["output_dimension"] = self._dimensions
        return body
