"""Limits on requests and tokens, exact in every window, from asyncio and from threads.

The decisions are the core's (`tollway._core.Limiter`); here callers wait. One thread a process
sleeps until the first waiter of any limiter is due, and wakes waiters in the order in which they
were admitted.
"""

from tollway.limiter.bucket import TokenBucket
from tollway.limiter.limiter import RateLimiter
from tollway.limiter.limits import AUTO_LIMITS, Limits
from tollway.limiter.permit import Permit
from tollway.limiter.registry import shared_limiter
from tollway.limiter.shared import (
    Participant,
    SharedLimiter,
    list_shared_limiters,
    look_at_shared_limiter,
)
from tollway.limiter.snapshot import LimiterSnapshot, WindowSnapshot

__all__ = [
    "AUTO_LIMITS",
    "LimiterSnapshot",
    "Limits",
    "Participant",
    "Permit",
    "RateLimiter",
    "SharedLimiter",
    "TokenBucket",
    "WindowSnapshot",
    "list_shared_limiters",
    "look_at_shared_limiter",
    "shared_limiter",
]
