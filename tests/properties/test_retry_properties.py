"""Whatever fails and however: bounded attempts, bounded waits, and the last error is told."""

from __future__ import annotations

import asyncio
import math
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from tollway import _core, errors
from tollway.retry import Jitter, RetryPolicy, Strategy
from tollway.retry.policy import Clock

# The core keeps durations to the nanosecond.
seconds = st.integers(0, 10**10).map(lambda microseconds: microseconds / 1e6)
draws = st.floats(0, 1, exclude_max=True)
names = st.sampled_from(get_args(Strategy)), st.sampled_from(get_args(Jitter))


def by_the_book(strategy, jitter, base, cap, n, draw, previous):
    """The formulas of the documentation, in the plainest Python."""
    if strategy == "random":
        return min(base, cap) + (cap - min(base, cap)) * draw
    if strategy == "decorrelated":
        high = max(base, 3 * min(previous, cap)) if previous is not None else 3 * min(base, cap)
        return min(cap, base + (max(base, high) - base) * draw)
    delay = {
        "exponential_backoff": base * 2.0 ** min(n - 1, 900),
        "native": base * 2.0 ** min(n - 1, 900),
        "incremental": base * n,
        "linear": base * n,
        "fixed": base,
    }[strategy]
    low, high = {
        "none": (1, 1),
        "full": (0, 1),
        "equal": (0.5, 1),
        "proportional": (0.5, 1.5),
        "additive": (1, 1.1),
    }[jitter]
    return min(cap, delay * (low + (high - low) * draw))


@given(*names, seconds, seconds, st.integers(1, 2**32 - 1), draws, st.none() | seconds)
def test_the_core_computes_what_the_documentation_says(
    strategy, jitter, base, cap, n, draw, previous
):
    wait = _core.retry_delay(strategy, jitter, base, cap, n, draw, previous=previous)
    expected = by_the_book(strategy, jitter, base, cap, n, draw, previous)
    assert math.isclose(wait, expected, rel_tol=1e-6, abs_tol=1e-6)
    assert 0 <= wait <= cap + 1e-6


failures = st.builds(
    lambda error, hint: error("failed", retry_after=hint),
    st.sampled_from([errors.RateLimitError, errors.APITimeoutError, errors.BadResponseError]),
    st.none() | st.floats(0, 700),
)


@given(
    *names,
    st.lists(failures, min_size=1, max_size=8),
    st.booleans(),
    st.integers(0, 6),
    st.floats(0, 100),
    st.floats(0, 100),
    st.none() | st.floats(0.001, 400),
    st.floats(0, 5),
    st.integers(),
    st.booleans(),
)
def test_a_call_keeps_its_promises(
    strategy, jitter, errors_met, succeeds, retries, base, cap, deadline, takes, seed, in_loop
):
    now = 0.0
    starts, waits = [], []

    def sleep(wait):
        nonlocal now
        now += wait
        waits.append(wait)

    async def sleep_async(wait):
        sleep(wait)

    def attempt():
        nonlocal now
        starts.append(now)
        now += takes
        if len(starts) > len(errors_met) and succeeds:
            return "done"
        raise errors_met[(len(starts) - 1) % len(errors_met)]

    async def attempt_async():
        return attempt()

    policy = RetryPolicy(
        strategy=strategy,
        jitter=jitter,
        max_retries=retries,
        base_delay=base,
        max_delay=cap,
        deadline=deadline,
        seed=seed,
        _clock=Clock(lambda: now, sleep_async, sleep),
    )
    raised = result = None
    try:
        result = asyncio.run(policy.call(attempt_async)) if in_loop else policy.call_sync(attempt)
    except (errors.RetriesExhaustedError, errors.DeadlineExceededError) as error:
        raised = error

    assert len(starts) <= retries + 1
    assert len(waits) == len(starts) - 1
    if deadline is not None:
        assert all(start < deadline for start in starts[1:])
    for wait, met in zip(waits, errors_met * 7, strict=False):
        hint = met.retry_after or 0.0
        most = cap * 2 if isinstance(met, errors.APITimeoutError) else cap
        assert hint - 1e-6 <= wait <= max(hint, most) + 1e-6
        assert hint <= 600
    if raised is None:
        assert result == "done"
    else:
        assert raised.__cause__ is errors_met[(len(starts) - 1) % len(errors_met)]
        assert [it.number for it in raised.attempts] == list(range(1, len(starts) + 1))
        assert [it.wait for it in raised.attempts] == [*waits, 0.0]
