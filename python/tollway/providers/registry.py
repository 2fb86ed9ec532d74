"""From `provider/model` to a provider."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tollway.providers.base import ChatProvider, EmbeddingProvider

__all__ = [
    "chat_function",
    "chat_provider",
    "embedding_function",
    "embedding_provider",
    "register_chat_provider",
    "register_provider",
]

P = TypeVar("P")

# Imported on first use: `import tollway` brings in no provider.
_BUILT_IN = {
    "azure": ("tollway.providers.azure", "AzureProvider"),
    "bedrock": ("tollway.providers.bedrock", "BedrockEmbeddingProvider"),
    "gemini": ("tollway.providers.gemini", "GeminiEmbeddingProvider"),
    "huggingface": ("tollway.providers.huggingface", "HuggingFaceProvider"),
    "litellm": ("tollway.providers.litellm", "LiteLLMEmbeddingProvider"),
    "local": ("tollway.providers.local", "LocalProvider"),
    "ollama": ("tollway.providers.ollama_embeddings", "OllamaEmbeddingProvider"),
    "openai": ("tollway.providers.openai", "OpenAIProvider"),
}
_BUILT_IN_CHAT = {
    "anthropic": ("tollway.providers.anthropic", "AnthropicProvider"),
    "azure": ("tollway.providers.azure_chat", "AzureChatProvider"),
    "bedrock": ("tollway.providers.bedrock", "BedrockProvider"),
    "gemini": ("tollway.providers.gemini", "GeminiProvider"),
    "huggingface": ("tollway.providers.huggingface_chat", "HuggingFaceChatProvider"),
    "litellm": ("tollway.providers.litellm", "LiteLLMProvider"),
    "ollama": ("tollway.providers.ollama", "OllamaProvider"),
    "openai": ("tollway.providers.openai_chat", "OpenAIChatProvider"),
}
# What to name, in errors.
_EXAMPLES = {"embeddings": "openai/text-embedding-3-small", "completions": "openai/gpt-4o"}

_registered: dict[str, Callable[..., EmbeddingProvider]] = {}
_registered_chat: dict[str, Callable[..., ChatProvider]] = {}


def register_provider(name: str, factory: Callable[..., EmbeddingProvider]) -> None:
    """Make `name/model` mean what `factory(model, **options)` returns, in an `Embedder`.

    Args:
        name: Without a slash; replaces a provider of that name.
        factory: Called with the model's name and the options given to the `Embedder`.

    Raises:
        ConfigurationError: The name is empty or has a slash.
    """
    _registered[_checked(name)] = factory


def register_chat_provider(name: str, factory: Callable[..., ChatProvider]) -> None:
    """Make `name/model` mean what `factory(model, **options)` returns, in an `LLM`.

    Args:
        name: Without a slash; replaces a provider of that name.
        factory: Called with the model's name and the options given to the `LLM`.

    Raises:
        ConfigurationError: The name is empty or has a slash.
    """
    _registered_chat[_checked(name)] = factory


def embedding_provider(model: str, **options: Any) -> EmbeddingProvider:
    """Return the provider of `provider/model`.

    Args:
        model: Such as `openai/text-embedding-3-small`.
        options: What the provider takes: `api_key`, `base_url`, `dimensions`, `http_client`. One
            that is None is as if not given.

    Raises:
        ConfigurationError: No such provider or model, or an option that it does not take.
    """
    return _make(model, "embeddings", _BUILT_IN, _registered, options)


def chat_provider(model: str, **options: Any) -> ChatProvider:
    """Return the provider of `provider/model`.

    Args:
        model: Such as `openai/gpt-4o`.
        options: What the provider takes: `api_key`, `base_url`, `http_client`, …. One that is None
            is as if not given.

    Raises:
        ConfigurationError: No such provider or model, or an option that it does not take.
    """
    return _make(model, "completions", _BUILT_IN_CHAT, _registered_chat, options)


def chat_function(function: Callable[..., Any], model: object, **options: Any) -> ChatProvider:
    """Return a function as a provider; see `tollway.providers.functions.FunctionChatProvider`.

    Raises:
        ConfigurationError: It cannot be one, or an option that it does not take.
    """
    return cast("ChatProvider", _function("FunctionChatProvider", function, model, options))


def embedding_function(
    function: Callable[..., Any], model: object, **options: Any
) -> EmbeddingProvider:
    """Return a function as a provider; see `FunctionEmbeddingProvider`, beside it.

    Raises:
        ConfigurationError: It cannot be one, or an option that it does not take.
    """
    made = _function("FunctionEmbeddingProvider", function, model, options)
    return cast("EmbeddingProvider", made)


def _function(
    kind: str, function: Callable[..., Any], model: object, options: Mapping[str, Any]
) -> Any:
    if not (model is None or isinstance(model, str)):
        raise ConfigurationError("give a function or a provider, not both")
    given = {option: value for option, value in options.items() if value is not None}
    provider = getattr(importlib.import_module("tollway.providers.functions"), kind)
    try:
        return provider(function, model, **given)
    except TypeError as error:
        raise ConfigurationError(f"the function as a provider: {error}") from error


def _checked(name: str) -> str:
    if not name or "/" in name:
        raise ConfigurationError(f"a provider's name is a word without a slash, not {name!r}")
    return name


def _make(
    model: str,
    what: str,
    built_in: Mapping[str, tuple[str, str]],
    registered: Mapping[str, Callable[..., P]],
    options: Mapping[str, Any],
) -> P:
    name, slash, rest = model.partition("/")
    known = sorted({*built_in, *registered})
    if not slash or not rest:
        raise ConfigurationError(
            f"a model is named provider/model, such as {_EXAMPLES[what]}, not {model!r}"
        )
    given = {option: value for option, value in options.items() if value is not None}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}/{rest}?" if near else "."
        raise ConfigurationError(
            f"no provider of {what} {name!r}{hint} Known: {', '.join(known)}. An OpenAI-compatible "
            "endpoint is openai/model with base_url"
        )
    factory = registered.get(name)
    if factory is None:
        module, attribute = built_in[name]
        factory = getattr(importlib.import_module(module), attribute)
    try:
        return factory(rest, **given)
    except TypeError as error:
        raise ConfigurationError(f"{name}/{rest}: {error}") from error
