"""The core's limiter decides as a list of every admission would, through queue and cancellation."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from exact_log import MINUTE, TICK, ExactLog, in_whole_ticks, quotas
from tollway import _core
from tollway.errors import RequestTooLargeError

SHARED_SLOT = 64 * TICK

limits = st.fixed_dictionaries(
    {},
    optional={
        "rpm": st.integers(1, 30),
        "rps": st.integers(1, 5),
        "tpm": st.integers(1, 200),
        "sub_windows": st.sampled_from([(), (0.1,), (0.3,), (1.0,), (1.0, 10.0), (60.0,)]),
    },
).filter(lambda given: given.keys() & {"rpm", "rps", "tpm"})
counted_limits = limits.filter(lambda given: given.keys() & {"rpm", "rps"})

# Times from the same instant to over a window, many of them where a window may just be left.
steps = st.one_of(
    st.just(0),
    st.integers(0, 10 * TICK),
    st.integers(0, 2 * 10**9),
    st.integers(-2, 2).map(lambda ticks: 10**9 + ticks * TICK),
    st.integers(-2, 2).map(lambda ticks: MINUTE + ticks * TICK),
    st.integers(0, 2 * MINUTE),
)
tick_steps = steps.map(lambda step: step // TICK * TICK)
# Whether to go on at the very time that the answer named, or a nanosecond before it.
follow = st.sampled_from([None, 0, -1])
calls = st.tuples(st.integers(0, 60), follow)


def in_nanos(wait):
    return round(wait * 1e9)


def try_acquire(limiter, now, tokens):
    return in_nanos(limiter.try_acquire(tokens, now=now / 1e9))


@given(counted_limits, st.lists(st.tuples(tick_steps, calls), max_size=80))
def test_on_whole_ticks_decisions_and_waits_are_exact(given, script):
    limiter = _core.Limiter(**given, margin=0)
    exact = ExactLog(in_whole_ticks(quotas(**given)))
    now = 0
    for step, (tokens, follows) in script:
        now += step
        if tokens > given.get("tpm", tokens):
            with pytest.raises(RequestTooLargeError):
                limiter.try_acquire(tokens, now=now / 1e9)
            continue
        wait = try_acquire(limiter, now, tokens)
        assert wait == exact.wait(now, tokens)
        if wait and follows == 0:
            now += wait
            wait = try_acquire(limiter, now, tokens)
            assert wait == 0
        if wait == 0:
            exact.admitted.append((now, tokens))
        assert limiter.used(now=now / 1e9) == [exact.used(quota, now) for quota in exact.quotas]
    assert exact.is_held()


@given(limits, st.lists(st.tuples(steps, calls), max_size=80))
def test_at_any_time_never_over_and_at_most_a_tick_late(given, script):
    limiter = _core.Limiter(**given, margin=0)
    exact = ExactLog(in_whole_ticks(quotas(**given)))
    late = TICK if given.keys() & {"rpm", "rps"} else SHARED_SLOT
    now = 0
    for step, (tokens, follows) in script:
        now += step
        if tokens > given.get("tpm", tokens):
            continue
        wait = try_acquire(limiter, now, tokens)
        assert exact.wait(now, tokens) <= wait <= exact.wait(now, tokens) + late
        if wait and follows is not None:
            now += wait + follows
            wait = try_acquire(limiter, now, tokens)
            assert wait == -follows
        if wait == 0:
            exact.admitted.append((now, tokens))
    # The windows as they were asked for, not as the core rounds them.
    exact.quotas = quotas(**given)
    assert exact.is_held()


class Queue(RuleBasedStateMachine):
    """Those who wait: in order, nobody delayed by one who passes, nobody lost or charged twice."""

    tickets = Bundle("tickets")

    @initialize(given=counted_limits)
    def start(self, given):
        self.limiter = _core.Limiter(**given, margin=0)
        self.exact = ExactLog(in_whole_ticks(quotas(**given)))
        self.tpm = given.get("tpm", 60)
        self.now = 0
        self.queue = []
        self.last = 0

    @property
    def seconds(self):
        return self.now / 1e9

    @rule(step=tick_steps)
    def time_passes(self, step):
        self.now += step

    @precondition(lambda self: self.queue)
    @rule(tick_before=st.booleans())
    def the_first_is_due(self, tick_before):
        wait = self.exact.wait(self.now, self.queue[0][1])
        self.now += max(0, wait - (TICK if tick_before else 0))

    @rule(target=tickets, tokens=st.integers(0, 60))
    def enqueue(self, tokens):
        assume(tokens <= self.tpm)
        ticket, stamp, is_near = self.limiter.enqueue(tokens, now=self.seconds)
        fits = self.exact.wait(self.now, tokens) == 0
        if not self.queue and fits:
            assert ticket is None
            assert stamp > 0
            self.exact.admitted.append((self.now, tokens))
            return 0
        assert ticket is not None
        assert ticket > self.last
        assert is_near == (fits or not self.queue)
        self.last = ticket
        self.queue.append((ticket, tokens))
        return ticket

    @rule(ticket=tickets)
    def cancel(self, ticket):
        left = [entry for entry in self.queue if entry[0] != ticket]
        assert self.limiter.cancel(ticket) == (len(left) < len(self.queue))
        self.queue = left

    def admit(self, ticket):
        sizes = dict(self.queue)
        assert self.exact.wait(self.now, sizes[ticket]) == 0
        self.exact.admitted.append((self.now, sizes.pop(ticket)))
        self.queue = list(sizes.items())

    @rule(most=st.integers(0, 5))
    def poll(self, most):
        due = self.in_order()
        admitted, refused, wait = self.limiter.poll(most, now=self.seconds)
        served = [ticket for ticket, _ in admitted]
        assert refused == []
        # Those at the front first, as far as they are due; then who takes nothing from others.
        first = 0
        while self.queue and first < most and self.exact.wait(self.now, self.queue[0][1]) == 0:
            assert served[first] == self.queue[0][0]
            self.admit(served[first])
            first += 1
        assert served[first:] == sorted(served[first:])
        for ticket in served[first:]:
            self.admit(ticket)
        assert len(served) <= most
        assert all(time <= due[ticket] for ticket, time in self.in_order().items())
        if not self.queue:
            assert wait is None
        elif len(served) == most:
            assert wait == 0.0
        else:
            assert in_nanos(wait) == self.exact.wait(self.now, self.queue[0][1])

    def in_order(self):
        """When each would be admitted if nobody passed."""
        times = self.exact.serve_in_order(self.now, [tokens for _, tokens in self.queue])
        return dict(zip((ticket for ticket, _ in self.queue), times, strict=True))

    @rule(tokens=st.integers(0, 60))
    def try_acquire(self, tokens):
        assume(tokens <= self.tpm)
        wait = try_acquire(self.limiter, self.now, tokens)
        own = self.exact.wait(self.now, tokens)
        if self.queue:
            # Never in front of those who wait, and never told so: zero would mean admitted.
            assert wait == max(own, self.exact.wait(self.now, self.queue[0][1]), TICK)
        else:
            assert wait == own
            if wait == 0:
                self.exact.admitted.append((self.now, tokens))

    @precondition(lambda self: self.queue)
    @rule()
    def fork(self):
        self.limiter.clear_queue()
        self.queue = []

    @invariant()
    def the_core_knows_what_it_holds(self):
        if hasattr(self, "limiter"):
            assert self.limiter.waiting == len(self.queue)
            used = [self.exact.used(quota, self.now) for quota in self.exact.quotas]
            assert self.limiter.used(now=self.seconds) == used

    def teardown(self):
        if hasattr(self, "limiter"):
            assert self.exact.is_held()


Queue.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestQueue = Queue.TestCase
