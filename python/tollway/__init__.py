"""Push millions of texts through language-model APIs: exact limits, exact tokens, nothing lost.

Names are imported on first use: `import tollway` brings in neither numpy nor an HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tollway.batch import BatchOptions, BatchProgress
    from tollway.chat import (
        LLM,
        Availability,
        CallOptions,
        ChatStream,
        ItemOutcome,
        MapProgress,
        Outcome,
        Roles,
        SyncChatStream,
        Template,
        ToolRun,
        batch_items,
        batch_items_sync,
    )
    from tollway.embed import (
        Document,
        Embedder,
        JobReport,
        Plan,
        embed_job,
        embed_job_async,
        embed_stream,
        embed_stream_sync,
        read_documents,
        to_arrow,
    )
    from tollway.limiter import Limits, RateLimiter, TokenBucket
    from tollway.providers import register_chat_provider, register_provider
    from tollway.retry import (
        CallRecord,
        CircuitBreaker,
        Hedge,
        RetryBudget,
        RetryPolicy,
        retry,
    )
    from tollway.tokens import (
        Encoding,
        HuggingFaceTokenizer,
        TokenCount,
        TokenEstimator,
        count_messages,
        encoding_for_model,
        encoding_name_for_model,
        fit_messages,
        get_encoding,
        list_encoding_names,
        tokenizer_for_model,
    )
    from tollway.types import (
        Chunk,
        Completion,
        ImagePart,
        JsonFormat,
        Message,
        TextPart,
        Tool,
        ToolCall,
        Usage,
    )

__all__ = [
    "LLM",
    "Availability",
    "BatchOptions",
    "BatchProgress",
    "CallOptions",
    "CallRecord",
    "ChatStream",
    "Chunk",
    "CircuitBreaker",
    "Completion",
    "Document",
    "Embedder",
    "Encoding",
    "Hedge",
    "HuggingFaceTokenizer",
    "ImagePart",
    "ItemOutcome",
    "JobReport",
    "JsonFormat",
    "Limits",
    "MapProgress",
    "Message",
    "Outcome",
    "Plan",
    "RateLimiter",
    "RetryBudget",
    "RetryPolicy",
    "Roles",
    "SyncChatStream",
    "Template",
    "TextPart",
    "TokenBucket",
    "TokenCount",
    "TokenEstimator",
    "Tool",
    "ToolCall",
    "ToolRun",
    "Usage",
    "batch_items",
    "batch_items_sync",
    "count_messages",
    "embed_job",
    "embed_job_async",
    "embed_stream",
    "embed_stream_sync",
    "encoding_for_model",
    "encoding_name_for_model",
    "fit_messages",
    "get_encoding",
    "list_encoding_names",
    "read_documents",
    "register_chat_provider",
    "register_provider",
    "retry",
    "to_arrow",
    "tokenizer_for_model",
]

_HOMES = {
    "BatchOptions": "tollway.batch",
    "BatchProgress": "tollway.batch",
    "ToolRun": "tollway.chat",
    "Outcome": "tollway.chat",
    "Availability": "tollway.chat",
    "Roles": "tollway.chat",
    "Template": "tollway.chat",
    "ItemOutcome": "tollway.chat",
    "batch_items": "tollway.chat",
    "batch_items_sync": "tollway.chat",
    "MapProgress": "tollway.chat",
    "LLM": "tollway.chat",
    "CallOptions": "tollway.chat",
    "ChatStream": "tollway.chat",
    "SyncChatStream": "tollway.chat",
    "Completion": "tollway.types",
    "Chunk": "tollway.types",
    "ImagePart": "tollway.types",
    "JsonFormat": "tollway.types",
    "Message": "tollway.types",
    "TextPart": "tollway.types",
    "Tool": "tollway.types",
    "ToolCall": "tollway.types",
    "Usage": "tollway.types",
    "register_chat_provider": "tollway.providers",
    "Document": "tollway.embed",
    "Embedder": "tollway.embed",
    "JobReport": "tollway.embed",
    "Plan": "tollway.embed",
    "embed_job": "tollway.embed",
    "embed_job_async": "tollway.embed",
    "embed_stream": "tollway.embed",
    "embed_stream_sync": "tollway.embed",
    "read_documents": "tollway.embed",
    "to_arrow": "tollway.embed",
    "Limits": "tollway.limiter",
    "RateLimiter": "tollway.limiter",
    "TokenBucket": "tollway.limiter",
    "register_provider": "tollway.providers",
    "CallRecord": "tollway.retry",
    "CircuitBreaker": "tollway.retry",
    "Hedge": "tollway.retry",
    "RetryBudget": "tollway.retry",
    "RetryPolicy": "tollway.retry",
    "retry": "tollway.retry",
    "Encoding": "tollway.tokens",
    "HuggingFaceTokenizer": "tollway.tokens",
    "TokenCount": "tollway.tokens",
    "TokenEstimator": "tollway.tokens",
    "count_messages": "tollway.tokens",
    "encoding_for_model": "tollway.tokens",
    "encoding_name_for_model": "tollway.tokens",
    "fit_messages": "tollway.tokens",
    "get_encoding": "tollway.tokens",
    "list_encoding_names": "tollway.tokens",
    "tokenizer_for_model": "tollway.tokens",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("tollway")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tollway' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
