"""The simulator's limits in virtual time, against a model in exact fractions."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.errors import ConfigurationError
from tollway.simulator import Enforcement

SECOND = 1_000_000_000
MINUTE = 60 * SECOND

gaps = st.one_of(
    st.integers(0, 5),
    st.integers(0, 3 * SECOND),
    st.integers(0, 2 * MINUTE),
    st.sampled_from([SECOND - 1, SECOND, SECOND + 1, MINUTE]),
)
arrivals = st.lists(st.tuples(gaps, st.integers(0, 120)), max_size=80)
limits = st.fixed_dictionaries(
    {
        "rpm": st.one_of(st.none(), st.integers(1, 200)),
        "tpm": st.one_of(st.none(), st.integers(1, 1000)),
        "sub_window": st.sampled_from([0, 0.25, 1, 10]),
    }
)


def replay(enforcement, schedule):
    """Yield (nanoseconds, tokens, denial) of each arrival."""
    now = 0
    for gap, tokens in schedule:
        now += gap
        yield now, tokens, enforcement.admit(now / 1e9, tokens)


class Bucket:
    """A token bucket in fractions of a token."""

    def __init__(self, quota):
        self.quota = quota
        self.level = Fraction(quota)
        self.at = 0

    def refill(self, now):
        refilled = self.level + Fraction((now - self.at) * self.quota, MINUTE)
        self.level, self.at = min(Fraction(self.quota), refilled), now
        return self.level


@given(limits, arrivals)
def test_decisions_are_those_of_exact_buckets_and_an_exact_log(limits, schedule):
    requests = Bucket(limits["rpm"]) if limits["rpm"] else None
    tokens_left = Bucket(limits["tpm"]) if limits["tpm"] else None
    window = round(limits["sub_window"] * SECOND)
    quota = -(-limits["rpm"] * window // MINUTE) if limits["rpm"] and window else None
    taken = []
    for now, tokens, denial in replay(Enforcement(**limits), schedule):
        by_requests = requests is not None and requests.refill(now) < 1
        if quota is not None:
            by_requests |= sum(now - window < then <= now for then in taken) >= quota
        by_tokens = tokens_left is not None and tokens_left.refill(now) < tokens
        assert (denial is not None) == (by_requests or by_tokens)
        if not by_requests:
            taken.append(now)
            if requests:
                requests.level -= 1
            if tokens_left and not by_tokens:
                tokens_left.level -= tokens


@given(limits, arrivals)
def test_no_interval_holds_more_than_the_capacity_and_its_refill(limits, schedule):
    admitted = [
        (now, tokens)
        for now, tokens, denial in replay(Enforcement(**limits), schedule)
        if denial is None
    ]
    window = limits["sub_window"] * SECOND
    for first, (start, _) in enumerate(admitted):
        held = 0
        for count, (end, tokens) in enumerate(admitted[first:], 1):
            held += tokens
            if limits["tpm"]:
                assert held * MINUTE <= limits["tpm"] * (MINUTE + end - start)
            if limits["rpm"]:
                assert count * MINUTE <= limits["rpm"] * (MINUTE + end - start)
                if end - start < window:
                    assert count <= -(-limits["rpm"] * window // MINUTE)


@given(limits, arrivals)
def test_the_wait_named_is_the_shortest_that_suffices(limits, schedule):
    enforcement = Enforcement(**limits)
    for now, tokens, denial in replay(enforcement, schedule):
        if denial is None or denial.retry_after is None:
            continue
        wait = round(denial.retry_after * SECOND)
        assert wait > 0
        early, right = copy.deepcopy(enforcement), copy.deepcopy(enforcement)
        assert early.admit((now + wait - 1) / 1e9, tokens) is not None
        assert right.admit((now + wait) / 1e9, tokens) is None


@given(st.integers(1, 10**9), st.lists(st.integers(0, MINUTE // 7), max_size=20))
def test_a_bucket_is_full_after_the_reset_it_names_however_often_it_is_asked(tpm, looks):
    enforcement = Enforcement(tpm=tpm)
    assert enforcement.admit(0.0, tpm) is None
    left = enforcement.standing(0.0)["tokens"]
    assert (left.limit, left.remaining, left.reset) == (tpm, 0, 60.0)
    now = 0
    for look in looks:
        now = min(now + look, MINUTE - 1)
        assert enforcement.standing(now / 1e9)["tokens"].remaining == tpm * now // MINUTE
    assert enforcement.admit(60.0, tpm) is None


def test_six_hundred_a_minute_are_ten_a_second():
    enforcement = Enforcement(rpm=600)
    assert all(enforcement.admit(5.0 + n / 100, 1) is None for n in range(10))
    denial = enforcement.admit(5.5, 1)
    assert (denial.limit, denial.quota, denial.window) == ("sub_window", 10, 1.0)
    assert denial.retry_after == pytest.approx(0.5, abs=1e-9)
    assert enforcement.admit(6.0, 1) is None
    assert enforcement.standing(6.0)["requests"].remaining == 599


def test_without_sub_windows_a_full_bucket_goes_at_once():
    enforcement = Enforcement(rpm=600, sub_window=0)
    assert all(enforcement.admit(1.0, 1) is None for _ in range(600))
    assert enforcement.admit(1.0, 1).limit == "rpm"
    assert enforcement.admit(1.1, 1) is None


def test_a_request_denied_for_tokens_takes_a_request_and_no_tokens():
    enforcement = Enforcement(rpm=60, tpm=100, sub_window=0)
    assert enforcement.admit(0.0, 90) is None
    denial = enforcement.admit(0.0, 40)
    assert (denial.limit, denial.requested, denial.retry_after) == ("tpm", 40, 18.0)
    left = enforcement.standing(0.0)
    assert (left["requests"].remaining, left["tokens"].remaining) == (58, 10)


def test_a_request_denied_by_a_request_limit_takes_nothing():
    enforcement = Enforcement(rpm=1, tpm=100)
    assert enforcement.admit(0.0, 10) is None
    for n in range(100):
        assert enforcement.admit(n / 2, 10).limit == "rpm"
    assert enforcement.admit(60.0, 100) is None


def test_more_than_a_quota_is_never_admitted_and_names_no_wait():
    denial = Enforcement(tpm=100).admit(0.0, 101)
    assert (denial.limit, denial.requested, denial.retry_after) == ("tpm", 101, None)


def test_a_day_is_a_bucket_too_and_the_longest_wait_is_named():
    enforcement = Enforcement(rpm=60, rpd=2, tpd=1000, sub_window=0)
    assert enforcement.admit(0.0, 1) is None
    assert enforcement.admit(0.0, 1) is None
    denial = enforcement.admit(0.0, 1)
    assert (denial.limit, denial.window, denial.retry_after) == ("rpd", 86_400.0, 43_200.0)
    left = enforcement.standing(0.0)
    assert (left["requests"].limit, left["tokens"].limit) == (60, 1000)


def test_a_calendar_day_begins_at_its_midnight():
    enforcement = Enforcement(rpd=3, tpd=100, midnight=-86_400.0 * 3 + 1_000.0)
    for at in (0.0, 500.0, 900.0):
        assert enforcement.admit(at, 10) is None
    denial = enforcement.admit(950.0, 10)
    assert (denial.limit, denial.window, denial.retry_after) == ("rpd", 86_400.0, 50.0)
    assert enforcement.standing(999.5)["tokens"].remaining == 70
    left = enforcement.standing(1_000.0)
    assert (left["requests"].remaining, left["tokens"].remaining) == (3, 100)
    assert left["requests"].reset == 86_400.0
    assert enforcement.admit(1_000.0, 100) is None
    assert enforcement.admit(1_001.0, 1).limit == "tpd"
    assert enforcement.admit(1_001.0, 101).retry_after is None


def test_after_a_limit_was_lowered_the_wait_named_still_suffices():
    enforcement = Enforcement(rpm=60, sub_window=10.0)
    for arrival in range(10):
        assert enforcement.admit(float(arrival), 0) is None
    enforcement.change(9.0, rpm=6)
    denial = enforcement.admit(9.0, 0)
    assert (denial.limit, denial.retry_after) == ("sub_window", 10.0)
    assert enforcement.admit(18.999, 0) is not None
    assert enforcement.admit(19.0, 0) is None


def test_a_limit_that_changes_leaves_taken_what_was_taken():
    enforcement = Enforcement(rpm=600, tpm=6_000, rpd=20, midnight=0.0)
    for _ in range(10):
        assert enforcement.admit(1.0, 100) is None
    assert enforcement.admit(1.0, 100).limit == "sub_window"
    enforcement.change(1.5, rpm=120, tpm=600)
    left = enforcement.standing(1.5)
    assert (left["requests"].limit, left["requests"].remaining) == (120, 120)
    assert (left["tokens"].limit, left["tokens"].remaining) == (600, 600)
    assert enforcement.admit(2.0, 100) is None
    assert enforcement.admit(2.0, 100) is None
    assert enforcement.admit(2.0, 100).limit == "sub_window"
    enforcement.change(2.0, rpd=12)
    assert enforcement.admit(10.0, 100).limit == "rpd"
    for wrong in ({"tpd": 5}, {"rpm": 0}, {"sub_window": 1}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            enforcement.change(3.0, **wrong)


@pytest.mark.parametrize("wrong", [{"rpm": 0}, {"tpm": -1}, {"sub_window": -1}, {"sub_window": 61}])
def test_limits_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Enforcement(**wrong)
