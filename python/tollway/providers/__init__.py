"""Providers: their wire formats, rules and errors. One module each."""

from tollway.providers.base import EmbeddingAnswer, EmbeddingProvider, EmbeddingRules
from tollway.providers.registry import embedding_provider, register_provider

__all__ = [
    "EmbeddingAnswer",
    "EmbeddingProvider",
    "EmbeddingRules",
    "embedding_provider",
    "register_provider",
]
