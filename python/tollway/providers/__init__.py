"""Providers: their wire formats, rules and errors. One module each."""

from tollway.providers.base import (
    ChatCapabilities,
    ChatProvider,
    ChatRequest,
    ChatRules,
    Checked,
    EmbeddingAnswer,
    EmbeddingProvider,
    EmbeddingRules,
    InPlaceProvider,
)
from tollway.providers.registry import (
    chat_function,
    chat_provider,
    embedding_function,
    embedding_provider,
    register_chat_provider,
    register_provider,
)

__all__ = [
    "ChatCapabilities",
    "ChatProvider",
    "ChatRequest",
    "ChatRules",
    "Checked",
    "EmbeddingAnswer",
    "EmbeddingProvider",
    "EmbeddingRules",
    "InPlaceProvider",
    "chat_function",
    "chat_provider",
    "embedding_function",
    "embedding_provider",
    "register_chat_provider",
    "register_provider",
]
