"""From what a user says about limits to the limiter that paces the calls."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from tollway.errors import ConfigurationError
from tollway.limiter import AUTO_LIMITS, Limits, RateLimiter, shared_limiter

if TYPE_CHECKING:
    from tollway.providers import ChatProvider, EmbeddingProvider

__all__ = ["limiter_of"]


def limiter_of(
    provider: EmbeddingProvider | ChatProvider,
    limits: Limits | RateLimiter | Literal["auto"] | None,
) -> RateLimiter:
    """Return the limiter that calls of a provider share.

    Args:
        provider: Fills in what the user leaves open about how it judges.
        limits: As the user gave them; see `Embedder`.

    Raises:
        ConfigurationError: It is none of these, or others share the quota with other limits.
    """
    if isinstance(limits, RateLimiter):
        return limits
    defaults = provider.limits
    if limits is None:
        limits = defaults
    elif limits == "auto":
        limits = dataclasses.replace(
            AUTO_LIMITS,
            sub_window=defaults.sub_window,
            max_in_flight=defaults.max_in_flight or AUTO_LIMITS.max_in_flight,
            output_weight=defaults.output_weight,
            cached_free=defaults.cached_free,
        )
    elif isinstance(limits, Limits):  # pyright: ignore[reportUnnecessaryIsInstance]
        # What the user leaves open about how the provider judges, the provider fills in.
        if limits.rpm is limits.tpm is limits.rps is None:
            limits = dataclasses.replace(
                limits,
                rpm=defaults.rpm,
                tpm=defaults.tpm,
                rps=defaults.rps,
                auto=limits.auto or defaults.auto,
            )
        if limits.sub_window is None and limits.rpm is not None:
            limits = dataclasses.replace(limits, sub_window=defaults.sub_window)
        for name in ("max_in_flight", "output_weight", "cached_free"):
            if getattr(limits, name) is None:
                limits = dataclasses.replace(limits, **{name: getattr(defaults, name)})
    else:
        raise ConfigurationError(f"limits must be Limits, a RateLimiter or auto, not {limits!r}")
    return shared_limiter(provider.quota_key, limits)
