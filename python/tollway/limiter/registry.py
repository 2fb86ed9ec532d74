"""The limiters of this process by what they hold: a provider, an address, a credential, a model."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import TYPE_CHECKING

from tollway.errors import ConfigurationError
from tollway.limiter.limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tollway.limiter.limits import Limits

__all__ = ["shared_limiter"]

_shared: weakref.WeakValueDictionary[Hashable, RateLimiter] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_limiter(key: Hashable, limits: Limits) -> RateLimiter:
    """Return the process's limiter for `key`, made with `limits` when it is the first.

    Args:
        key: What shares a quota: provider, base URL, credential's fingerprint, model.
        limits: The limits; the same for all who share the key while one of them lives.

    Raises:
        ConfigurationError: The key's limiter lives and has other limits.
    """
    with _shared_lock:
        limiter = _shared.get(key)
        if limiter is not None and limiter.limits != limits:
            # An exception and its frames may hold one that nobody uses any more.
            del limiter
            gc.collect()
            limiter = _shared.get(key)
        if limiter is None:
            limiter = _shared[key] = RateLimiter(limits)
        elif limiter.limits != limits:
            raise ConfigurationError(
                f"these calls share one quota that is held with {limiter.limits}, not {limits}; "
                "give the same limits, or one RateLimiter to both"
            )
        return limiter


def _after_fork() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
