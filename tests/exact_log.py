"""What a limiter must decide, from a list of every admission; times are whole nanoseconds."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

TICK = 16_000
MINUTE = 60 * 10**9


def quotas(*, rpm=None, tpm=None, rps=None, sub_window=None):
    """(unit, limit, window) of each quota, in the order of `_core.Limiter.used`."""
    found = []
    if rpm is not None:
        found.append(("requests", rpm, MINUTE))
        if sub_window:
            length = Fraction(round(sub_window * 10**9))
            limit = ceil(rpm * length / MINUTE)
            found.append(("requests", limit, max(length, Fraction(MINUTE * limit, rpm))))
    if rps is not None:
        found.append(("requests", rps, 10**9))
    if tpm is not None:
        found.append(("tokens", tpm, MINUTE))
    return found


def in_whole_ticks(found):
    """The quotas with every window rounded up to the clock of the core."""
    return [(unit, limit, ceil(Fraction(window) / TICK) * TICK) for unit, limit, window in found]


class ExactLog:
    def __init__(self, found):
        self.quotas = found
        self.admitted = []

    def used(self, quota, now):
        unit, _, window = quota
        return sum(
            1 if unit == "requests" else tokens
            for at, tokens in self.admitted
            if now - window < at <= now
        )

    def admits(self, now, tokens):
        return all(
            self.used(quota, now) + (1 if quota[0] == "requests" else tokens) <= quota[1]
            for quota in self.quotas
        )

    def wait(self, now, tokens):
        """Nanoseconds until it admits, if nothing else is admitted before."""
        leaving = {at + quota[2] for at, _ in self.admitted for quota in self.quotas}
        times = sorted(time for time in leaving | {now} if time >= now)
        return next(time for time in times if self.admits(time, tokens)) - now

    def is_held(self):
        """Whether no window holds more than its quota, wherever it ends."""
        for unit, limit, window in self.quotas:
            first, held = 0, 0
            for at, tokens in self.admitted:
                held += 1 if unit == "requests" else tokens
                while self.admitted[first][0] <= at - window:
                    held -= 1 if unit == "requests" else self.admitted[first][1]
                    first += 1
                if held > limit:
                    return False
        return True
