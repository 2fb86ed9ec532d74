"""One LLM or Embedder for all calls with the same arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tollway.chat import LLM
from tollway.embed import Embedder
from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = [
    "aclose",
    "address_of",
    "azure_options",
    "client_options",
    "first_of",
    "shared_embedder",
    "shared_llm",
]

T = TypeVar("T", LLM, Embedder)

_AZURE_VERSION = "2024-08-01-preview"
_shared: dict[Hashable, LLM | Embedder] = {}


def shared_llm(model: str, **options: Any) -> LLM:
    """Return the LLM of a model and options, made on first use; those that are None are not given.

    The answer's length is the provider's own unless a call names it, as with LightRAG's functions.
    """
    return _one(LLM, model, options, {"max_tokens": None})


def shared_embedder(model: str, **options: Any) -> Embedder:
    """Return the embedder of a model and options, made on first use."""
    return _one(Embedder, model, options, {})


async def aclose() -> None:
    """Close the connections that the functions of this module opened for this event loop.

    A later call opens others.
    """
    for each in [*_shared.values()]:
        await each.aclose()


def first_of(*names: str) -> str | None:
    """Return the first of some environment variables that says something."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def address_of(given: str | None) -> str | None:
    """Return an address, or None for LightRAG's words for the provider's own."""
    return None if not given or given.startswith("DEFAULT_") else given


def azure_options(
    kind: str, base_url: str | None, api_key: str | None, api_version: str | None
) -> dict[str, Any]:
    """Return an Azure provider's options as LightRAG finds them.

    Args:
        kind: `LLM` or `EMBEDDING`.
        base_url: Else from the environment.
        api_key: Else from the environment.
        api_version: Else from the environment.
    """
    own = "AZURE_OPENAI" if kind == "LLM" else "AZURE_EMBEDDING"
    return {
        "azure_endpoint": base_url or first_of(f"{own}_ENDPOINT", f"{kind}_BINDING_HOST"),
        "api_key": api_key or first_of(f"{own}_API_KEY", f"{kind}_BINDING_API_KEY"),
        "api_version": api_version
        or first_of(f"{own}_API_VERSION", "AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION")
        or _AZURE_VERSION,
    }


def client_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what LightRAG gives to the SDK's client as a provider's options.

    Raises:
        ConfigurationError: A member that has no counterpart.
    """
    names = {"default_headers": "headers", "http_client": "http_client"}
    rest = {name: value for name, value in (given or {}).items() if name != "max_retries"}
    unknown = rest.keys() - names.keys()
    if unknown:
        raise ConfigurationError(
            f"of a client's configuration default_headers and http_client are taken, not "
            f"{min(unknown)!r}; give an LLM or Embedder of your own to llm_model_func or "
            "embedding_func"
        )
    return {names[name]: value for name, value in rest.items()}


def _one(
    kind: Callable[..., T], model: str, options: Mapping[str, Any], further: Mapping[str, Any]
) -> T:
    given = {name: value for name, value in options.items() if value is not None}
    key = (kind, model, _frozen(given))
    found = _shared.get(key)
    if found is None:
        found = _shared.setdefault(key, kind(model, **given, **further))
    return cast("T", found)


def _frozen(value: Any) -> Hashable:
    given: Any = value
    if isinstance(value, Mapping):
        return tuple(sorted((name, _frozen(member)) for name, member in given.items()))
    return tuple(map(_frozen, given)) if isinstance(value, list) else cast("Hashable", value)
