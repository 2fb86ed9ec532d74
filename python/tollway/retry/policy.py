"""When to try again after a failure, and when to give up."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, TypeVar, cast, get_args

from tollway import _core
from tollway.errors import ConfigurationError
from tollway.retry import sleeper
from tollway.retry.around import LATER, refuse_later
from tollway.retry.budget import RetryBudget
from tollway.retry.call import Call
from tollway.retry.hedge import Hedge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Unpack

    from tollway.retry.around import Around
    from tollway.types import Attempt

__all__ = ["Clock", "Jitter", "Override", "RetryPolicy", "Rule", "Strategy"]

T = TypeVar("T")

Strategy = Literal[
    "exponential_backoff", "incremental", "linear", "fixed", "random", "decorrelated", "native"
]
Jitter = Literal["none", "full", "equal", "proportional", "additive"]

# A program that sets up no logging sees no lines of ours between its own.
logging.getLogger("tollway.retry").addHandler(logging.NullHandler())


class Override(TypedDict, total=False):
    """What a class of errors has different from the rest of a policy; see `RetryPolicy`."""

    strategy: Strategy
    max_retries: int
    base_delay: float | None
    max_delay: float
    jitter: Jitter


class Rule(NamedTuple):
    """What holds for one class of errors."""

    strategy: Strategy
    jitter: Jitter
    base_delay: float
    max_delay: float
    max_retries: int


class Clock(NamedTuple):
    """Where time comes from; tests pass their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = sleeper.sleep
    sleep_sync: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to try again after a failure, and when to give up.

    Retried are errors whose `retryable` is true (see `tollway.errors`) and those of `retry_on`,
    but none of `give_up_on`. Every other error, and cancellation, passes through untouched and at
    once.

    The wait before retry n = 1, 2, … is d by `strategy`, spread by `jitter`, then capped at
    `max_delay` (twice that after a time-out). What the server asks for (`error.retry_after`) is a
    floor and wins over the cap; more than 600 s of it is not waited for.

    Attributes:
        strategy: `exponential_backoff` base·2^(n-1); `incremental` and `linear` base·n; `fixed`
            base; `random` uniform in [base, max_delay]; `decorrelated` uniform in
            [base, 3·previous wait]; `native` what the server asks for, and where it asks for
            nothing as `exponential_backoff`.
        max_retries: Attempts after the first; 0 for none.
        base_delay: Seconds; None for 1.0, for `linear` 10.0, for `fixed` 60.0.
        max_delay: Seconds.
        jitter: `none` d; `full` uniform in [0, d]; `equal` in [d/2, d]; `proportional` in
            [0.5 d, 1.5 d]; `additive` in [d, 1.1 d]. `random` and `decorrelated` take none.
        deadline: Seconds for a whole call: waiting for permits, attempts, and waits between them.
            A wait that would pass it is not begun. When it comes, a wait for a permit ends, and so
            does an attempt of an async function, by cancellation. A sync function cannot be
            interrupted: the attempt ends on its own, and what it returns counts. None for no limit.
        seed: Seeds the draws of this policy, which its calls take in turn: one call after another
            waits the same whenever the program is run.
        retry_on: Further classes of error to retry, those of tollway included where they are named.
            A group of exceptions is a class of its own.
        give_up_on: Classes of error not to retry, whatever else is said.
        overrides: By class of error (the nearest base class counts), what differs from the fields
            above: `{OverloadedError: {"base_delay": 5.0, "max_retries": 20}}`. `max_retries` is
            compared with all attempts of the call when an error of the class ends one.
        budget: Bounds retries beside successes: a `RetryBudget`, None for no bound, or `auto`: a
            budget shared by all calls of a credential and model in jobs, and none elsewhere.
        hedge: Second attempts beside slow ones; for async functions only.
        on_retry: Called before each wait with the failed attempt, its error and the wait in
            seconds. What it raises ends the call.

    Raises:
        ConfigurationError: A value is out of range; names the field, the value and what is allowed.
    """

    strategy: Strategy = "exponential_backoff"
    max_retries: int = 10
    base_delay: float | None = None
    max_delay: float = 60.0
    jitter: Jitter = "full"
    deadline: float | None = None
    seed: int | None = None
    retry_on: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    give_up_on: tuple[type[Exception], ...] = ()
    overrides: Mapping[type[Exception], Override] = field(
        default_factory=dict[type[Exception], Override], hash=False
    )
    budget: RetryBudget | Literal["auto"] | None = "auto"
    hedge: Hedge | None = None
    on_retry: Callable[[Attempt, Exception, float], object] | None = None
    _clock: Clock = field(default=Clock(), repr=False, compare=False)
    _draw: Callable[[], float] = field(init=False, repr=False, compare=False)
    _rules: dict[type[BaseException], Rule] = field(init=False, repr=False, compare=False)
    # Whether a call that succeeds at once has nothing to note anywhere.
    _is_plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field, settle the base delay and the rule of each class."""
        _check_name("strategy", self.strategy, get_args(Strategy))
        _check_name("jitter", self.jitter, get_args(Jitter))
        if self.base_delay is None:
            object.__setattr__(self, "base_delay", _core.retry_base(self.strategy))
        for name in ("base_delay", "max_delay", "deadline"):
            _check_seconds(name, getattr(self, name), optional=name == "deadline")
        _check_count("max_retries", self.max_retries)
        self._check_objects()
        for name in ("retry_on", "give_up_on"):
            object.__setattr__(self, name, _classes(name, getattr(self, name)))
        object.__setattr__(self, "overrides", dict(self.overrides))
        own = Rule(
            self.strategy, self.jitter, self.base_delay or 0.0, self.max_delay, self.max_retries
        )
        rules: dict[type[BaseException], Rule] = {BaseException: own}
        for kind, override in self.overrides.items():
            rules[kind] = _rule(own, kind, override)
        object.__setattr__(self, "_rules", rules)
        # The module's generator is seeded anew in a forked child: siblings do not wait in step.
        draw = random.random if self.seed is None else random.Random(self.seed).random  # noqa: S311 - a wait is no secret
        object.__setattr__(self, "_draw", draw)
        plain = self.deadline is None and self.hedge is None and self._has_no_budget
        object.__setattr__(self, "_is_plain", plain)

    def _check_objects(self) -> None:
        if not (self._has_no_budget or isinstance(self.budget, RetryBudget)):
            raise ConfigurationError(f"budget={self.budget!r} is not a RetryBudget, None or 'auto'")
        if not (self.hedge is None or isinstance(self.hedge, Hedge)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"hedge={self.hedge!r} is not a Hedge or None")
        if not (self.seed is None or isinstance(self.seed, int)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"seed={self.seed!r} is not a whole number or None")
        if not (self.on_retry is None or callable(self.on_retry)):
            raise ConfigurationError(f"on_retry={self.on_retry!r} is not a function")
        if inspect.iscoroutinefunction(self.on_retry):
            raise ConfigurationError("on_retry is called, not awaited: give a sync function")
        if not isinstance(self.overrides, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"overrides={self.overrides!r} is not a mapping of classes")

    @property
    def _has_no_budget(self) -> bool:
        return self.budget is None or (isinstance(self.budget, str) and self.budget == "auto")

    def rule(self, kind: type[BaseException]) -> Rule:
        """Return what holds for a class of errors, by the nearest base class that has a rule."""
        rules = self._rules
        return next(rules[base] for base in kind.__mro__ if base in rules)

    def decide(
        self,
        rule: Rule,
        retry: int,
        *,
        previous: float | None,
        hint: float | None,
        timed_out: bool,
        remaining: float | None,
    ) -> float | Literal["deadline", "hint"]:
        """Return the wait before retry n in seconds, or why there is none; see `_core.retry_delay`.

        Each call draws once.
        """
        return _core.retry_delay(
            rule.strategy,
            rule.jitter,
            rule.base_delay,
            rule.max_delay,
            retry,
            self._draw(),
            previous=previous,
            hint=hint,
            timed_out=timed_out,
            remaining=remaining,
        )

    async def call(self, function: Callable[[], Awaitable[T]], **around: Unpack[Around]) -> T:
        """Await `function()` until an attempt succeeds, and return its result.

        Args:
            function: Makes one attempt.
            around: Any of these. `limiter`: each attempt reserves of it, retries (ahead of new
                work) and hedges too: `tokens`, a number or a function that is asked before each,
                and `output_tokens`, with `priority`. It is settled with the `usage`
                (`tollway.types.Usage`) of what the attempt returns, if that has one; with
                `keep_permit` it is left to the caller to settle and release the `permit` of the
                `record`. `breaker`: is
                asked before each attempt and told how it ended. `budget`: what `budget="auto"`
                means for this call. `until`: time of `time.monotonic()` that several calls share
                as a deadline; the earlier one counts where the policy has its own. `record`: a
                `CallRecord`, filled in while the call runs.

        Raises:
            RetriesExhaustedError: No attempt is left, or the server asks to wait more than 600 s;
                carries all attempts, and the last error as its cause.
            DeadlineExceededError: The next wait would leave no time before the deadline, or the
                deadline came during a wait or attempt; with the last error as its cause.
            CircuitOpenError: The breaker is open, or opened while this call waited; with what
                opened it as its cause. Nothing more was sent.
            Exception: What is not to be retried, as it was raised.

        Cancellation: passes through at once, in an attempt and in a wait. What cancels an attempt
            from within, without this task, is an `APIConnectionError`.
        """
        if self._is_plain and not around:
            started = self._clock.now()
            try:
                return await function()
            except (Exception, asyncio.CancelledError) as error:
                call = Call(self, self._clock, started, around)
                if not call.judge(error):
                    raise
        else:
            call = Call(self, self._clock, self._clock.now(), around)
        return await call.run(function)

    def call_sync(self, function: Callable[[], T], **around: Unpack[Around]) -> T:
        """Call `function()` as `call` does, blocking the thread while it waits.

        Raises:
            ConfigurationError: The policy hedges; a thread cannot be cancelled.
        """
        if self.hedge is not None:
            raise ConfigurationError("a sync function cannot be hedged: it cannot be cancelled")
        if self._is_plain and not around:
            started = self._clock.now()
            try:
                result = function()
                if type(result) in LATER:
                    refuse_later(result)
            except (Exception, asyncio.CancelledError) as error:
                call = Call(self, self._clock, started, around)
                if not call.judge(error):
                    raise
            else:
                return result
        else:
            call = Call(self, self._clock, self._clock.now(), around)
        return call.run_sync(function)


def _rule(own: Rule, kind: Any, override: Override) -> Rule:
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise ConfigurationError(f"overrides={kind!r} is not a class of errors")
    where = f"overrides[{kind.__name__}]"
    unknown = sorted(set(override) - Override.__annotations__.keys())
    if unknown:
        raise ConfigurationError(
            f"{where}={unknown[0]!r} is not one of {', '.join(Override.__annotations__)}"
        )
    strategy = override.get("strategy", own.strategy)
    _check_name(f"{where}.strategy", strategy, get_args(Strategy))
    base = override.get("base_delay")
    if base is None:
        base = own.base_delay if "strategy" not in override else _core.retry_base(strategy)
    rule = Rule(
        strategy,
        override.get("jitter", own.jitter),
        base,
        override.get("max_delay", own.max_delay),
        override.get("max_retries", own.max_retries),
    )
    _check_name(f"{where}.jitter", rule.jitter, get_args(Jitter))
    _check_seconds(f"{where}.base_delay", rule.base_delay, optional=False)
    _check_seconds(f"{where}.max_delay", rule.max_delay, optional=False)
    _check_count(f"{where}.max_retries", rule.max_retries)
    return rule


def _classes(field_name: str, given: object) -> tuple[type[Exception], ...]:
    kinds = tuple(cast("Iterable[object]", given)) if isinstance(given, Iterable) else (given,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(f"{field_name}={given!r} holds what is no class of errors")
    return cast("tuple[type[Exception], ...]", kinds)


def _check_name(field_name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{field_name}={value!r} is not one of {', '.join(allowed)}")


def _check_count(field_name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigurationError(f"{field_name}={value!r} is not a whole number from 0 to 2^32 - 1")


def _check_seconds(field_name: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (math.isfinite(value) and value >= 0)
    ):
        raise ConfigurationError(f"{field_name}={value!r} is not a finite number of seconds ≥ 0")
