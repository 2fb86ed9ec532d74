"""What LightRAG's constructor takes: its two functions and its tokenizer."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError
from tollway.integrations.lightrag.calls import Answer, History, answer, count
from tollway.tokens import encoding_for_model
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.chat import LLM
    from tollway.embed import Embedder

__all__ = ["embedding_func", "llm_model_func", "made_func", "tokenizer", "vectors_of"]


def llm_model_func(llm: LLM) -> Callable[..., Awaitable[Answer]]:
    """Return what LightRAG calls to have a prompt answered: `LightRAG(llm_model_func=…)`.

    The function takes `(prompt, system_prompt=None, history_messages=None, **kwargs)` and returns
    the answer's text, or with `stream=True` an async iterator of its pieces. Of LightRAG's keyword
    arguments it understands `response_format` (as OpenAI words it), `keyword_extraction`,
    `entity_extraction`, `enable_cot`, `image_inputs`, `token_tracker`, `timeout`, `_priority`
    and `hashing_kv`, which it ignores; further ones are options of a call, or go to the provider.

    Answers that are to be JSON are checked and mended, and asked for again if need be. Thoughts are
    kept apart; with `enable_cot` a stream shows them between `<think>` tags, as LightRAG's own
    functions do. An answer that is cut short is marked, so that LightRAG does not cache it.

    Args:
        llm: Who answers. Give it `max_tokens`: extraction writes long answers.

    Returns:
        An async function. It raises what `LLM.complete` raises, and `BadResponseError` where the
        answer is no text; never an empty one.
    """

    async def function(
        prompt: str,
        system_prompt: str | None = None,
        history_messages: History = None,
        **kwargs: Any,
    ) -> Answer:
        return await answer(llm, prompt, system_prompt, history_messages, kwargs)

    return function


def embedding_func(
    embedder: Embedder, *, embedding_dim: int | None = None, max_token_size: int | None = None
) -> Any:
    """Return LightRAG's `EmbeddingFunc` over an embedder: `LightRAG(embedding_func=…)`.

    Queries are embedded as such where the model or `query_prompt` tells them from documents.

    Args:
        embedder: Who embeds.
        embedding_dim: Length of the vectors, for a model whose length is not known before.
        max_token_size: Tokens that the model takes of a text. Default: as is known of the model.

    Raises:
        ConfigurationError: LightRAG is not installed, or the length is not known.
    """
    dimensions = embedding_dim or embedder.dimensions
    if dimensions is None:
        raise ConfigurationError(
            f"the length of the vectors of {embedder.model} is not known: give embedding_dim"
        )

    async def function(
        texts: Sequence[str], context: str = "document", token_tracker: Any = None
    ) -> NDArray[np.float32]:
        return await vectors_of(embedder, texts, context, token_tracker)

    limit = max_token_size or embedder.provider.rules.window
    return made_func(function, dimensions, limit, embedder.provider.model)


def tokenizer(model: str = "gpt-4o-mini") -> Any:
    """Return LightRAG's `Tokenizer` over a built-in encoding: `LightRAG(tokenizer=…)`.

    LightRAG's own default has tiktoken download its table from the network; this one has it
    already, gives the same ids, and takes special tokens for the text that they are in a document.

    Args:
        model: A model whose encoding is public. LightRAG counts with that of gpt-4o-mini whatever
            model it calls.

    Raises:
        ConfigurationError: LightRAG is not installed, or the model's encoding is not known.
    """
    encoding = encoding_for_model(model)
    utils = _lightrag_utils()

    # LightRAG cuts texts faster by the offsets that it takes tiktoken's encodings to have.
    class Tokenizer(utils.TiktokenTokenizer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            utils.Tokenizer.__init__(self, model, encoding)

        def encode(self, content: str) -> list[int]:
            return encoding.encode_ordinary(content)

    return Tokenizer()


async def vectors_of(
    embedder: Embedder, texts: Sequence[str], context: str, tracker: Any = None
) -> NDArray[Any]:
    """Embed texts as documents, or with `context="query"` as queries.

    Returns:
        Shape (n, d), row i for texts[i].
    """
    provider = embedder.provider
    are_alike = provider.for_queries() is provider and embedder.query_prompt == embedder.prompt
    if context != "query" or are_alike or not texts:
        vectors = await embedder.embed(texts)
    else:
        vectors = await _queries(embedder, texts)
    if tracker is not None:
        tokens = int(embedder.encoding.count_batch(texts).sum())
        count(tracker, Usage(tokens, 1, estimated=True))
    return vectors


async def _queries(embedder: Embedder, texts: Sequence[str]) -> NDArray[Any]:
    import numpy as np  # noqa: PLC0415 - `import tollway` brings in no numpy

    asking = [asyncio.create_task(embedder.embed_query(text)) for text in texts]
    try:
        return np.stack(await asyncio.gather(*asking))
    finally:
        # Where one fails, nobody waits for the others.
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def made_func(
    function: Callable[..., Any], dimensions: int, max_tokens: int | None, model: str
) -> Any:
    """Return LightRAG's `EmbeddingFunc`.

    Raises:
        ConfigurationError: LightRAG is not installed.
    """
    kind = _lightrag_utils().EmbeddingFunc
    said = {
        "embedding_dim": dimensions,
        "func": function,
        "max_token_size": max_tokens,
        # Names the collections of a vector store, as with LightRAG's own functions.
        "model_name": model,
        "supports_asymmetric": True,
    }
    # Older releases have fewer.
    known = {member.name for member in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in said.items() if name in known})


def _lightrag_utils() -> Any:
    try:
        return importlib.import_module("lightrag.utils")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "lightrag":
            raise
        raise ConfigurationError("LightRAG is not installed: pip install lightrag-hku") from error
