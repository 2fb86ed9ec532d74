"""Calendar days, as the clock on the wall tells them to a core that counts another clock's time."""

from __future__ import annotations

import datetime as dt
import sys
import time
import zoneinfo
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollway import _core

__all__ = ["Calendar"]

# Seconds after which the bounds of a day are told again: the clock on the wall may be set.
_TELL_AGAIN = 600.0

# Seconds that are no sleep: what passes between the readings of two clocks.
_NO_SLEEP = 1.0


class Calendar:
    """The days of one time zone. The core's clock stands still while the machine sleeps.

    Args:
        zone: IANA name of the zone.
    """

    def __init__(self, zone: str) -> None:
        self._zone = zoneinfo.ZoneInfo(zone)
        # When the day began that was told last, and for how long of it the machine slept.
        self._start: float | None = None
        self._asleep = 0.0
        # What the core's clock read then, and for how long the machine had slept ever.
        self._told_at: float = time.monotonic()
        self._slept: float = _slept()

    def tell(self, core: _core.Limiter) -> float:
        """Tell the core the bounds of this day; return the seconds until the next time."""
        now = time.time()
        today = dt.datetime.fromtimestamp(now, self._zone).date()
        midnight = dt.time(tzinfo=self._zone)
        start = dt.datetime.combine(today, midnight).timestamp()
        end = dt.datetime.combine(today + dt.timedelta(days=1), midnight).timestamp()
        since = max(0.0, now - start)

        told_at, slept_before = self._told_at, self._slept
        self._told_at, self._slept = time.monotonic(), max(slept_before, _slept())
        slept = self._slept - slept_before
        if slept < _NO_SLEEP:
            slept, self._slept = 0.0, slept_before
        if start == self._start:
            self._asleep += slept
        else:
            # Of a sleep in which the day began, the part that surely came after: the more is taken
            # for awake, the more counts as used in it.
            is_after_sleep = slept > 0 and self._start is not None
            self._asleep = max(0.0, since - (self._told_at - told_at)) if is_after_sleep else 0.0
            self._start = start
        core.set_day(max(0.0, since - self._asleep), max(0.0, end - now), slept)
        return min(max(0.001, end - now), _TELL_AGAIN)


def _slept() -> float:
    """Seconds for which the machine slept since it started; 0.0 where that cannot be told.

    The clock that goes on meanwhile is read first, so that what passes between the two readings
    makes the answer less; the largest of several is right but for that of one.
    """
    if sys.platform == "linux":
        whole, awake = time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC
    elif sys.platform == "darwin":
        whole, awake = time.CLOCK_MONOTONIC, time.CLOCK_UPTIME_RAW
    else:
        return 0.0
    try:
        return max(time.clock_gettime(whole) - time.clock_gettime(awake) for _ in range(3))
    except OSError:
        # Some sandboxes know fewer clocks than the system that they stand for.
        return 0.0
