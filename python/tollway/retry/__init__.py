"""Retrying calls: what to wait between attempts, when to stop asking, and when to give up.

`retry` decorates a function, `RetryPolicy` says when to try again. `RetryBudget` bounds how many
retries there are beside the successes, `CircuitBreaker` stops all calls of a credential that is
refused for good, `Hedge` sends a second attempt beside a slow one, `CallRecord` tells what a call
did.
"""

from __future__ import annotations

import sys
from types import ModuleType

from tollway.retry.around import CallRecord
from tollway.retry.breaker import CircuitBreaker, shared_breaker
from tollway.retry.budget import RetryBudget, shared_budget
from tollway.retry.decorator import retry
from tollway.retry.hedge import Hedge
from tollway.retry.policy import Jitter, Override, RetryPolicy, Strategy

__all__ = [
    "CallRecord",
    "CircuitBreaker",
    "Hedge",
    "Jitter",
    "Override",
    "RetryBudget",
    "RetryPolicy",
    "Strategy",
    "retry",
    "shared_breaker",
    "shared_budget",
]


class _Decorator(ModuleType):
    """Makes `tollway.retry` the decorator although it is this module too, once that is imported."""

    __call__ = staticmethod(retry)


sys.modules[__name__].__class__ = _Decorator
