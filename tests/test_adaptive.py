"""What a limiter learns: from refusals, from limits that are stated, from servers out of breath."""

from __future__ import annotations

import pytest

from tollway.errors import RequestTooLargeError
from tollway.limiter import Limits, RateLimiter
from tollway.limiter.adaptive import Adaptive, Pause, Ramp
from tollway.limiter.feedback import Feedback, Reported

MOST = {"rpm": 600, "tpm": 120_000}


def stating(**quotas):
    return Feedback(tuple(Reported(name, quota) for name, quota in quotas.items()))


def refuse(adaptive, at, *, sent=None, limit=("tpm",), wait=None, **more):
    feedback = Feedback(retry_after=wait, exceeded=limit, **more)
    sent_at = at - 0.1 if sent is None else sent
    return adaptive.learn(feedback, sent_at=sent_at, now=at, outcome="refused", used=100_000)


def test_a_stated_limit_lowers_and_comes_back_but_never_above_the_configured():
    adaptive = Adaptive(MOST)
    assert adaptive.ceilings() == MOST
    for at, stated, held in [(1, 60_000, 60_000), (2, 30_000, 30_000), (9_000, 500_000, 120_000)]:
        assert adaptive.learn(stating(tpm=stated), sent_at=at, now=at + 1) is None
        assert adaptive.ceilings() == {"rpm": 600, "tpm": held}


def test_the_newest_request_counts_not_the_newest_answer():
    adaptive = Adaptive(MOST)
    adaptive.learn(stating(tpm=60_000), sent_at=5.0, now=6.0)
    adaptive.learn(stating(tpm=90_000), sent_at=4.0, now=7.0)
    assert adaptive.ceilings()["tpm"] == 60_000
    adaptive.learn(stating(tpm=70_000), sent_at=5.5, now=8.0)
    assert adaptive.ceilings()["tpm"] == 70_000


def test_what_is_assumed_holds_until_the_server_states_more_or_less():
    adaptive = Adaptive({"rpm": 30_000, "tpm": 10**9}, assumed={"rpm": 500, "tpm": 100_000})
    assert adaptive.ceilings() == {"rpm": 500, "tpm": 100_000}
    adaptive.learn(stating(rpm=5_000, tpm=40_000), sent_at=0.0, now=1.0)
    assert adaptive.ceilings() == {"rpm": 5_000, "tpm": 40_000}


def test_limits_that_are_not_held_are_not_followed():
    adaptive = Adaptive({"rpm": 10})
    adaptive.learn(stating(tpm=5, rpd=7), sent_at=0.0, now=1.0)
    assert adaptive.ceilings() == {"rpm": 10}


def test_the_first_refusal_only_pauses():
    adaptive = Adaptive(MOST)
    assert refuse(adaptive, 10.0, wait=3.0) == Pause(("tpm",), 3.0)
    assert adaptive.ceilings() == MOST


def test_a_refusal_that_names_no_time_pauses_nothing():
    assert refuse(Adaptive(MOST), 10.0) is None


def test_a_refusal_that_names_no_limit_pauses_all_of_them():
    assert refuse(Adaptive(MOST), 10.0, limit=(), wait=3.0) == Pause((), 3.0)
    assert refuse(Adaptive({"rpm": 5}), 10.0, limit=("tpm",), wait=3.0) == Pause((), 3.0)


def test_nobody_is_to_wait_for_hours():
    assert refuse(Adaptive(MOST), 10.0, wait=7_200.0) == Pause(("tpm",), 600.0)


def test_a_congestion_shrinks_once_and_recovers_slowly():
    adaptive = Adaptive(MOST)
    refuse(adaptive, 10.0)
    # Under way when the first came: the same congestion.
    for at in (10.5, 11.0, 30.0):
        refuse(adaptive, at, sent=9.9)
    assert adaptive.ceilings() == MOST
    refuse(adaptive, 40.0)
    for _ in range(20):
        refuse(adaptive, 40.0, sent=39.0)
    assert adaptive.ceilings() == {"rpm": 600, "tpm": 84_000}
    adaptive.learn(Feedback(), sent_at=99.0, now=100.0)
    assert adaptive.ceilings()["tpm"] == 90_000
    adaptive.learn(Feedback(), sent_at=399.0, now=400.0)
    assert adaptive.ceilings() == MOST


def test_a_burst_within_the_limit_takes_a_tenth_and_gives_it_back_soon():
    adaptive = Adaptive(MOST)
    left = (Reported("rpm", 600, 500),)
    # A process that stands still for a moment now and then loses nothing for it.
    for at in (0.0, 8.0, 16.0):
        refuse(adaptive, at, limit=("rpm",), reported=left)
    assert adaptive.ceilings() == MOST
    refuse(adaptive, 20.0, limit=("rpm",), reported=left)
    assert adaptive.ceilings() == {"rpm": 540, "tpm": 120_000}
    adaptive.learn(Feedback(), sent_at=49.0, now=50.0)
    assert adaptive.ceilings() == MOST
    # Nothing left: the limit itself.
    refuse(adaptive, 60.0, limit=("rpm",), reported=(Reported("rpm", 600, 0),))
    assert adaptive.ceilings() == {"rpm": 420, "tpm": 120_000}


def test_what_is_left_of_a_limit_of_tokens_may_be_too_little():
    adaptive = Adaptive(MOST)
    for at in (10.0, 20.0):
        refuse(adaptive, at, reported=(Reported("tpm", 120_000, 500),))
    assert adaptive.ceilings() == {"rpm": 600, "tpm": 84_000}


def test_an_endless_storm_of_bursts_leaves_a_twentieth():
    adaptive = Adaptive(MOST)
    for at in range(1_000):
        left = (Reported("rpm", 600, 500),)
        refuse(adaptive, at * 0.5, sent=at * 0.5, limit=("rpm",), reported=left)
    assert 30 <= adaptive.ceilings()["rpm"] <= 60


def test_refusals_that_are_far_apart_are_no_repetitions():
    adaptive = Adaptive(MOST)
    for minute in range(0, 60, 3):
        refuse(adaptive, minute * 60.0)
    assert adaptive.ceilings() == MOST
    assert adaptive.refusals == 20


def test_a_refusal_of_unknown_cause_shrinks_the_minutes_limits():
    adaptive = Adaptive(MOST | {"rpd": 10_000})
    refuse(adaptive, 1.0, limit=())
    refuse(adaptive, 2.0, limit=())
    held = adaptive.ceilings()
    assert held["rpd"] == 10_000
    assert (held["rpm"], held["tpm"]) == (420, 84_000)


def test_an_overloaded_server_shrinks_nothing():
    adaptive = Adaptive(MOST)
    for at in range(100):
        feedback = Feedback(retry_after=2.0, exceeded=("tpm",))
        pause = adaptive.learn(feedback, sent_at=at, now=at + 0.5, outcome="overloaded")
        assert pause == Pause((), 2.0)
    assert adaptive.ceilings() == MOST
    silent = adaptive.learn(Feedback(), sent_at=101, now=102, outcome="overloaded")
    assert silent is None


def test_an_endless_storm_leaves_a_twentieth():
    adaptive = Adaptive(MOST)
    for at in range(1_000):
        refuse(adaptive, at * 0.5, sent=at * 0.5)
    assert adaptive.ceilings()["tpm"] == pytest.approx(6_000, rel=0.5)
    assert adaptive.ceilings()["tpm"] >= 6_000


def grow(adaptive, start, seconds, demand):
    """Use what is allowed and asked for, minute by minute; return what was used."""
    used = []
    for minute in range(int(seconds // 60)):
        used.append(min(adaptive.ceilings()["tpm"], demand))
        at = start + minute * 60.0
        adaptive.learn(Feedback(), sent_at=at, now=at + 1.0, used=used[-1])
    return used


def test_the_ramp_allows_half_more_in_fifteen_minutes():
    adaptive = Adaptive({"tpm": 30_000_000}, ramp=Ramp())
    used = grow(adaptive, 0.0, 9_000.0, 30_000_000)
    assert used[0] == 1_000_000
    assert used[-1] > 10_000_000, "it grows"
    for i, after in enumerate(used):
        before = max(used[max(0, i - 15) : i] or [1_000_000])
        assert after <= max(1_000_000, 1.5 * before)
    # Sixteen minutes apart lie at most two rises.
    assert all(after <= 2.25 * before for before, after in zip(used, used[16:], strict=False))


def test_a_limiter_that_is_given_a_ramp_begins_at_its_foot():
    limiter = RateLimiter(Limits(tpm=100_000), ramp=Ramp(above=1_000))
    assert limiter.current_limits == Limits(tpm=1_000)
    assert limiter.try_acquire(1_000) == 0.0
    with pytest.raises(RequestTooLargeError):
        limiter.try_acquire(1_001)


def test_the_ramp_gives_nothing_for_traffic_that_was_not_there():
    adaptive = Adaptive({"tpm": 30_000_000}, ramp=Ramp())
    grow(adaptive, 0.0, 7_200.0, 1_200_000)
    assert adaptive.ceilings()["tpm"] <= 1_800_000
    grow(adaptive, 7_200.0, 7_200.0, 30_000_000)
    assert adaptive.ceilings()["tpm"] > 5_000_000
    grow(adaptive, 20_000.0, 60.0, 30_000_000)
    assert adaptive.ceilings()["tpm"] == 1_000_000, "after a long rest it begins again"


def test_a_refusal_of_growth_holds_the_rate_for_a_quarter_of_an_hour():
    adaptive = Adaptive({"tpm": 10_000_000, "rpm": 1_000})
    feedback = Feedback(retry_after=1.0, exceeded=("tpm",), too_steep=True)
    learned = {"now": 100.0, "outcome": "refused", "used": 3_000_000}
    assert adaptive.learn(feedback, sent_at=99.0, **learned) == Pause((), 1.0)
    adaptive.learn(feedback, sent_at=99.5, **learned | {"used": 2_000_000})
    assert adaptive.ceilings() == {"tpm": 2_000_000, "rpm": 1_000}
    used = grow(adaptive, 101.0, 840.0, 10_000_000)
    assert set(used) == {2_000_000}
    assert grow(adaptive, 1_001.0, 120.0, 10_000_000)[-1] == 3_000_000
