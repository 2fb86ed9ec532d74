"""`retry`: a function that tries again, each time it is called."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, TypedDict, TypeVar, cast, overload

from tollway.errors import ConfigurationError
from tollway.retry.policy import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal, Unpack

    from tollway.limiter import RateLimiter
    from tollway.retry.breaker import CircuitBreaker
    from tollway.retry.budget import RetryBudget
    from tollway.retry.hedge import Hedge
    from tollway.retry.policy import Jitter, Override, Strategy
    from tollway.types import Attempt

__all__ = ["retry"]

F = TypeVar("F", bound="Callable[..., Any]")


class _Permits(TypedDict, total=False):
    limiter: RateLimiter | None
    tokens: int | Callable[..., int]
    breaker: CircuitBreaker | None


class _Options(_Permits, total=False):
    strategy: Strategy
    max_retries: int
    base_delay: float | None
    max_delay: float
    jitter: Jitter
    deadline: float | None
    seed: int | None
    retry_on: tuple[type[Exception], ...]
    give_up_on: tuple[type[Exception], ...]
    overrides: Mapping[type[Exception], Override]
    budget: RetryBudget | Literal["auto"] | None
    hedge: Hedge | None
    on_retry: Callable[[Attempt, Exception, float], object] | None


@overload
def retry(policy: RetryPolicy, /, **around: Unpack[_Permits]) -> Callable[[F], F]: ...
@overload
def retry(function: F, /) -> F: ...
@overload
def retry(**options: Unpack[_Options]) -> Callable[[F], F]: ...
def retry(target: RetryPolicy | Callable[..., Any] | None = None, /, **options: Any) -> object:
    """Retry a function, sync or async, each time it is called.

    Use it as `@retry`, as `@retry(policy)`, or with the fields of `RetryPolicy`:
    `@retry(max_retries=3, retry_on=(OSError,))`. Errors are those of `RetryPolicy.call`.

    Args:
        target: A policy, or the function itself.
        options: The fields of `RetryPolicy`. With a policy or with fields also `limiter`, of which
            each attempt takes a permit of `tokens` (a number, or a function of the call's
            arguments), and `breaker`.

    Raises:
        ConfigurationError: A generator function, whose body runs only after the call; or options
            that `RetryPolicy` refuses.
    """
    around = {name: options.pop(name) for name in _Permits.__annotations__ if name in options}
    if isinstance(target, RetryPolicy):
        if options:
            raise ConfigurationError(f"{', '.join(options)} are fields of the policy that is given")
        return functools.partial(_wrap, target, around)
    policy = RetryPolicy(**options)
    if target is None:
        return functools.partial(_wrap, policy, around)
    return _wrap(policy, around, target)


def _wrap(policy: RetryPolicy, around: dict[str, Any], function: Callable[..., Any]) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        # The decorator stands above them.
        return _wrap_method(policy, around, function)
    if not callable(function):
        raise ConfigurationError(f"retry decorates functions, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(f"{name} is a generator function; retry what it iterates over")
    tokens = around.get("tokens", 0)

    def of_call(attempt: functools.partial[Any]) -> dict[str, Any]:
        if not callable(tokens):
            return around
        # Counted once: the arguments stay the same over all attempts.
        return {**around, "tokens": tokens(*attempt.args, **attempt.keywords)}

    if _is_async(function):

        @functools.wraps(function)
        async def call(*args: object, **kwargs: object) -> object:
            attempt = functools.partial(function, *args, **kwargs)
            return await policy.call(attempt, **of_call(attempt))

        return call
    if policy.hedge is not None:
        raise ConfigurationError("a sync function cannot be hedged: it cannot be cancelled")

    @functools.wraps(function)
    def call_sync(*args: object, **kwargs: object) -> object:
        attempt = functools.partial(function, *args, **kwargs)
        return policy.call_sync(attempt, **of_call(attempt))

    return call_sync


def _wrap_method(policy: RetryPolicy, around: dict[str, Any], method: Any) -> Any:
    return type(method)(_wrap(policy, around, method.__func__))


def _is_async(function: object) -> bool:
    # An object whose class has an async __call__ is as good as a coroutine function.
    call = cast("Any", type(function)).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
