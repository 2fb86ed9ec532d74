"""From `provider/model` to a provider."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tollway.providers.base import EmbeddingProvider

__all__ = ["embedding_provider", "register_provider"]

# Imported on first use: `import tollway` brings in no provider.
_BUILT_IN = {
    "azure": ("tollway.providers.azure", "AzureProvider"),
    "huggingface": ("tollway.providers.huggingface", "HuggingFaceProvider"),
    "local": ("tollway.providers.local", "LocalProvider"),
    "ollama": ("tollway.providers.ollama", "OllamaProvider"),
    "openai": ("tollway.providers.openai", "OpenAIProvider"),
}
_registered: dict[str, Callable[..., EmbeddingProvider]] = {}


def register_provider(name: str, factory: Callable[..., EmbeddingProvider]) -> None:
    """Make `name/model` mean what `factory(model, **options)` returns.

    Args:
        name: Without a slash; replaces a provider of that name.
        factory: Called with the model's name and the options given to the `Embedder`.

    Raises:
        ConfigurationError: The name is empty or has a slash.
    """
    if not name or "/" in name:
        raise ConfigurationError(f"a provider's name is a word without a slash, not {name!r}")
    _registered[name] = factory


def embedding_provider(model: str, **options: Any) -> EmbeddingProvider:
    """Return the provider of `provider/model`.

    Args:
        model: Such as `openai/text-embedding-3-small`.
        options: What the provider takes: `api_key`, `base_url`, `dimensions`, `http_client`. One
            that is None is as if not given.

    Raises:
        ConfigurationError: No such provider or model, or an option that it does not take.
    """
    name, slash, rest = model.partition("/")
    known = sorted({*_BUILT_IN, *_registered})
    if not slash or not rest:
        raise ConfigurationError(
            f"a model is named provider/model, such as openai/text-embedding-3-small, not {model!r}"
        )
    given = {option: value for option, value in options.items() if value is not None}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}/{rest}?" if near else "."
        raise ConfigurationError(
            f"no provider {name!r}{hint} Known: {', '.join(known)}. An OpenAI-compatible endpoint "
            "is openai/model with base_url"
        )
    factory = _registered.get(name)
    if factory is None:
        module, attribute = _BUILT_IN[name]
        factory = getattr(importlib.import_module(module), attribute)
    try:
        return factory(rest, **given)
    except TypeError as error:
        raise ConfigurationError(f"{name}/{rest}: {error}") from error
