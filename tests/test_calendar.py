"""Limits of a calendar day: which day it is, and when it ends."""

from __future__ import annotations

import datetime as dt
import errno
import sys
import time
from types import SimpleNamespace

import pytest

from tollway import _core
from tollway.limiter import calendar


def test_a_calendar_day_ends_when_it_was_told_to():
    core = _core.Limiter(rpd=5, is_calendar=True, margin=0)
    core.set_day(3_600.0, 7_200.0, now=10_000.0)
    for _ in range(5):
        assert core.try_acquire(now=10_000.0) == 0.0
    assert 7_200 <= core.try_acquire(now=10_000.0) <= 7_201
    assert core.try_acquire(now=17_199.0) > 0
    assert core.try_acquire(now=17_261.0) == 0.0
    assert core.used(now=17_261.0) == [1]
    # Nobody has told the new day: it lasts as long as one can.
    assert core.used(now=17_200.0 + 24.9 * 3_600) == [1]
    assert core.used(now=17_200.0 + 25.1 * 3_600) == [0]


def test_a_clock_set_forward_does_not_begin_the_day_again():
    core = _core.Limiter(rpd=5, is_calendar=True, margin=0)
    core.set_day(0.0, 50_000.0, now=1_000.0)
    for _ in range(5):
        assert core.try_acquire(now=1_000.0) == 0.0
    core.set_day(60.0, 86_000.0, now=5_000.0)
    assert core.used(now=5_000.0) == [5]
    assert core.try_acquire(now=5_000.0) > 80_000


def test_a_day_that_ended_while_the_machine_slept_is_over():
    def told(slept):
        core = _core.Limiter(rpd=5, is_calendar=True, margin=0)
        core.set_day(80_000.0, 6_400.0, now=1_000.0)
        for _ in range(5):
            assert core.try_acquire(now=1_000.0) == 0.0
        core.set_day(80_600.0, 5_800.0, now=1_600.0)
        assert core.used(now=1_600.0) == [5]
        # Eight hours later, of which this clock knows 100 s; six are of the new day.
        core.set_day(100.0, 63_500.0, slept, now=1_700.0)
        return core.used(now=1_700.0)

    assert told(28_800.0) == [0]
    assert told(5_000.0) == told(0.0) == [5], "the old one had not ended: a clock was set"


def test_a_day_is_told_without_the_hours_in_which_the_machine_slept(monkeypatch):
    told = []
    core = SimpleNamespace(set_day=lambda since, left, slept: told.append((since, left, slept)))
    wall = dt.datetime.fromisoformat("2026-06-01T20:00:00+00:00").timestamp()
    clocks = SimpleNamespace(wall=wall, awake=5_000.0, slept=70.0)
    # The module's own clocks: all threads of this process use those of `time`.
    now = SimpleNamespace(time=lambda: clocks.wall, monotonic=lambda: clocks.awake)
    monkeypatch.setattr(calendar, "time", now)
    monkeypatch.setattr(calendar, "_slept", lambda: clocks.slept)
    days = calendar.Calendar("UTC")

    def later(asleep):
        clocks.wall += 600 + asleep
        clocks.awake += 600
        clocks.slept += asleep
        days.tell(core)
        return told[-1]

    assert later(0) == (72_600, 13_800, 0)
    # Midnight came in the sleep: how much of the day was, is not known, but at most ten minutes.
    assert later(36_000) == (600, 63_600, 36_000)
    assert later(0) == (1_200, 63_000, 0)
    assert later(3_600) == (1_800, 58_800, 3_600)
    # Midnight comes without one.
    clocks.wall += 58_800
    clocks.awake += 58_800
    assert later(0) == (600, 85_800, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="names the clocks of Linux")
def test_the_machine_slept_for_what_one_clock_gains_on_the_other(monkeypatch):
    told = []
    core = SimpleNamespace(set_day=lambda _since, _left, slept: told.append(slept))
    # A container may set either clock off against the other, once and for all.
    clocks = {time.CLOCK_BOOTTIME: 9_000.0, time.CLOCK_MONOTONIC: 50_000.0}
    monkeypatch.setattr(calendar.time, "clock_gettime", lambda clock: clocks[clock])
    days = calendar.Calendar("UTC")
    for asleep in (0.0, 3_600.0, 0.0):
        clocks[time.CLOCK_MONOTONIC] += 600.0
        clocks[time.CLOCK_BOOTTIME] += 600.0 + asleep
        days.tell(core)
    assert told == [0.0, 3_600.0, 0.0]


@pytest.mark.skipif(sys.platform != "linux", reason="names the clocks of Linux")
def test_a_system_without_a_clock_of_sleep_has_calendar_days(monkeypatch):
    def refuse(_clock):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(calendar.time, "clock_gettime", refuse)
    told = []
    core = SimpleNamespace(set_day=lambda _since, _left, slept: told.append(slept))
    assert 0 < calendar.Calendar("UTC").tell(core) <= 600
    assert told == [0.0]


@pytest.mark.parametrize(
    ("zone", "now", "since", "left"),
    [
        ("America/Los_Angeles", "2026-11-21T12:00:00-08:00", 12, 12),
        # The clocks went forward in the night, and back.
        ("America/Los_Angeles", "2026-03-08T12:00:00-07:00", 11, 12),
        ("America/Los_Angeles", "2026-11-01T00:30:00-07:00", 0.5, 24.5),
        ("Asia/Kathmandu", "2026-06-01T00:00:00+05:45", 0, 24),
        # Midnight itself is skipped, and comes twice.
        ("Africa/Cairo", "2026-04-24T12:00:00+03:00", 11, 12),
        ("America/Havana", "2026-11-01T00:30:00-05:00", 1.5, 23.5),
        ("UTC", "2026-06-01T23:59:00+00:00", 23 + 59 / 60, 1 / 60),
    ],
)
def test_a_day_is_that_of_its_zone(monkeypatch, zone, now, since, left):
    told = []
    core = SimpleNamespace(set_day=lambda since, left, slept: told.append((since, left, slept)))
    instant = dt.datetime.fromisoformat(now).timestamp()
    clocks = SimpleNamespace(time=lambda: instant, monotonic=lambda: 5_000.0)
    monkeypatch.setattr(calendar, "time", clocks)
    monkeypatch.setattr(calendar, "_slept", lambda: 77.0)
    again = calendar.Calendar(zone).tell(core)
    assert told == [(since * 3_600, left * 3_600, 0.0)]
    assert again == min(600, left * 3_600)
