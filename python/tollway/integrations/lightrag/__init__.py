"""LightRAG through tollway: paced under the provider's limits, retried, counted.

    from tollway.integrations import lightrag

    rag = LightRAG(
        working_dir="rag",
        llm_model_func=lightrag.llm_model_func(LLM("openai/gpt-4o-mini", max_tokens=9000)),
        embedding_func=lightrag.embedding_func(Embedder("openai/text-embedding-3-small")),
        tokenizer=lightrag.tokenizer(),
    )

LightRAG's own functions are here under their own names too (`gpt_4o_mini_complete`,
`openai_embed`, …), so that an import is all that changes. LightRAG itself is imported only where
one of its classes is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tollway.integrations.lightrag import embeddings as _embeddings
from tollway.integrations.lightrag.completions import (
    anthropic_complete,
    anthropic_complete_if_cache,
    azure_openai_complete,
    azure_openai_complete_if_cache,
    bedrock_complete,
    bedrock_complete_if_cache,
    claude_3_haiku_complete,
    claude_3_opus_complete,
    claude_3_sonnet_complete,
    gemini_complete_if_cache,
    gemini_model_complete,
    gpt_4o_complete,
    gpt_4o_mini_complete,
    nvidia_openai_complete,
    ollama_model_complete,
    openai_complete,
    openai_complete_if_cache,
)
from tollway.integrations.lightrag.environment import from_env
from tollway.integrations.lightrag.functions import (
    embedding_func,
    llm_model_func,
    made_func,
    tokenizer,
)
from tollway.integrations.lightrag.keywords import (
    Keywords,
    extract_keywords,
    extract_keywords_sync,
)
from tollway.integrations.lightrag.shared import aclose

if TYPE_CHECKING:
    azure_openai_embed: Any
    bedrock_embed: Any
    gemini_embed: Any
    ollama_embed: Any
    openai_embed: Any

__all__ = [
    "Keywords",
    "aclose",
    "anthropic_complete",
    "anthropic_complete_if_cache",
    "azure_openai_complete",
    "azure_openai_complete_if_cache",
    "azure_openai_embed",
    "bedrock_complete",
    "bedrock_complete_if_cache",
    "bedrock_embed",
    "claude_3_haiku_complete",
    "claude_3_opus_complete",
    "claude_3_sonnet_complete",
    "embedding_func",
    "extract_keywords",
    "extract_keywords_sync",
    "from_env",
    "gemini_complete_if_cache",
    "gemini_embed",
    "gemini_model_complete",
    "gpt_4o_complete",
    "gpt_4o_mini_complete",
    "llm_model_func",
    "nvidia_openai_complete",
    "ollama_embed",
    "ollama_model_complete",
    "openai_complete",
    "openai_complete_if_cache",
    "openai_embed",
    "tokenizer",
]


def __getattr__(name: str) -> Any:
    """Make LightRAG's `EmbeddingFunc` of a function of embedding when it is first asked for."""
    if name not in _embeddings.DECLARED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = made_func(getattr(_embeddings, name), *_embeddings.DECLARED[name])
    globals()[name] = made
    return made


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
