"""Calendar days, as the clock on the wall tells them to a core that counts another clock's time."""

from __future__ import annotations

import datetime as dt
import time
import zoneinfo
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollway import _core

__all__ = ["Calendar"]

# Seconds after which the bounds of a day are told again: the clock on the wall may be set.
_TELL_AGAIN = 600.0


class Calendar:
    """The days of one time zone.

    Args:
        zone: IANA name of the zone.
    """

    def __init__(self, zone: str) -> None:
        self._zone = zoneinfo.ZoneInfo(zone)

    def tell(self, core: _core.Limiter) -> float:
        """Tell the core the bounds of this day; return the seconds until the next time."""
        now = time.time()
        today = dt.datetime.fromtimestamp(now, self._zone).date()
        midnight = dt.time(tzinfo=self._zone)
        start = dt.datetime.combine(today, midnight).timestamp()
        end = dt.datetime.combine(today + dt.timedelta(days=1), midnight).timestamp()
        core.set_day(max(0.0, now - start), max(0.0, end - now))
        return min(max(0.001, end - now), _TELL_AGAIN)
