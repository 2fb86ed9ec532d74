"""Whatever answers say, and in whatever order they come, what is learned stays within bounds."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tollway.limiter.adaptive import Adaptive, Ramp
from tollway.limiter.feedback import Feedback, Reported

NAMES = ("rpm", "tpm", "rpd", "tpd", "input_tpm", "output_tpm")
QUOTAS = st.integers(1, 2**31 - 1)
WAITS = st.none() | st.floats(0, 1e6)


class Learning(RuleBasedStateMachine):
    @initialize(
        most=st.dictionaries(st.sampled_from(NAMES), QUOTAS),
        assumed=st.dictionaries(st.sampled_from(NAMES), QUOTAS),
        ramp=st.none() | st.builds(Ramp, st.integers(1, 10**6)),
    )
    def begin(self, most, assumed, ramp):
        self.most, self.now = most, 0.0
        self.adaptive = Adaptive(most, assumed=assumed, ramp=ramp)
        # Of each limit, the newest statement by the time of its request.
        self.newest = {}

    @rule(seconds=st.floats(0, 5_000))
    def wait(self, seconds):
        self.now += seconds

    @rule(
        stated=st.dictionaries(st.sampled_from(NAMES), QUOTAS),
        took=st.floats(0, 700),
        outcome=st.sampled_from(["answered", "refused", "overloaded"]),
        retry_after=WAITS,
        exceeded=st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
        too_steep=st.booleans(),
        used=st.integers(0, 10**8),
    )
    def learn(self, stated, took, outcome, retry_after, exceeded, too_steep, used):
        feedback = Feedback(
            tuple(Reported(name, quota) for name, quota in stated.items()),
            retry_after,
            exceeded,
            too_steep,
        )
        sent_at, before = self.now - took, self.adaptive.ceilings()
        refusals = self.adaptive.refusals
        pause = self.adaptive.learn(
            feedback, sent_at=sent_at, now=self.now, outcome=outcome, used=used
        )
        for name, quota in stated.items():
            if name in self.most and sent_at >= self.newest.get(name, (float("-inf"),))[0]:
                self.newest[name] = (sent_at, quota)
        assert self.adaptive.refusals - refusals == (outcome == "refused")
        assert pause is None or outcome != "answered"
        assert (pause is None) == (outcome == "answered" or not retry_after)
        if pause is not None:
            assert 0 < pause.seconds <= 600
            assert set(pause.limits) <= self.most.keys()
        if outcome != "refused" and not stated and self.adaptive._growth is None:
            # Nothing is lowered but by a statement or a refusal.
            assert all(before[name] <= held for name, held in self.adaptive.ceilings().items())

    @invariant()
    def ceilings_are_within_what_is_configured_and_stated(self):
        held = self.adaptive.ceilings()
        assert held.keys() == self.most.keys()
        for name, ceiling in held.items():
            assert 1 <= ceiling <= self.most[name]
            if name in self.newest:
                assert ceiling <= self.newest[name][1]


TestLearning = Learning.TestCase
