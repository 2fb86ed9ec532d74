"""Several credentials or deployments of one model, each with limits of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError
from tollway.providers import EmbeddingProvider, InPlaceProvider, embedding_provider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollway.limiter import RateLimiter
    from tollway.retry import CircuitBreaker

__all__ = ["Lane", "providers_of"]


@dataclass(frozen=True, eq=False)
class Lane:
    """One credential or deployment, with its own limits."""

    provider: EmbeddingProvider
    limiter: RateLimiter
    breaker: CircuitBreaker

    @functools.cached_property
    def in_place(self) -> InPlaceProvider | None:
        """The provider, if it can decode answers where they are wanted."""
        return self.provider if isinstance(self.provider, InPlaceProvider) else None

    @property
    def max_in_flight(self) -> int:
        """Requests under way at once."""
        return self.limiter.limits.max_in_flight or self.provider.limits.max_in_flight or 25


def providers_of(
    model: str | EmbeddingProvider | Sequence[str | EmbeddingProvider],
    keys: Sequence[str] | None,
    options: dict[str, Any],
) -> list[EmbeddingProvider]:
    """Return the provider, or all of a pool; see `Embedder`.

    Args:
        model: `provider/model`, or a provider, or several of one model.
        keys: One provider for each, where there are several.
        options: Of the providers that are named.

    Raises:
        ConfigurationError: These cannot be together.
    """
    several: Any = model if isinstance(model, list | tuple) else [model]
    given: list[str | EmbeddingProvider] = list(several)
    if not given:
        raise ConfigurationError("a pool is of one model or more, and this one is empty")
    for each in given:
        if not (isinstance(each, str) or hasattr(each, "quota_key")):
            raise ConfigurationError(
                f"a model is named provider/model, or is a provider, not {type(each).__name__}"
            )
    if options and not all(isinstance(each, str) for each in given):
        raise ConfigurationError("options of the provider go to the provider that is given")
    if keys is not None:
        if isinstance(keys, str) or not keys or not all(keys) or "api_key" in options:
            raise ConfigurationError("keys is a list of one key or more, instead of api_key")
        if not all(isinstance(each, str) for each in given):
            raise ConfigurationError("keys go to the providers that are given")
    credentials: list[dict[str, Any]] = [{"api_key": key} for key in keys or ()] or [{}]
    providers: list[EmbeddingProvider] = []
    for each in given:
        if isinstance(each, str):
            providers += (embedding_provider(each, **options, **key) for key in credentials)
        else:
            providers.append(each)
    _check_pool(providers)
    return providers


def _check_pool(providers: Sequence[EmbeddingProvider]) -> None:
    first = providers[0]
    if len({each.quota_key for each in providers}) < len(providers):
        raise ConfigurationError("two of a pool have the same credential and share one quota")
    for each in providers:
        served = (each.priced_as, each.rules.dimensions)
        if served != (first.priced_as, first.rules.dimensions):
            raise ConfigurationError(
                f"a pool is of one model, not of {first.priced_as} and {each.priced_as}; name the "
                "model of a deployment with base_model"
            )
