"""What a limiter must decide, from a list of every admission; times are whole nanoseconds."""

from __future__ import annotations

import time
from fractions import Fraction
from math import ceil

from tollway.limiter import RateLimiter

TICK = 16_000
MINUTE = 60 * 10**9


def quotas(*, rpm=None, tpm=None, rps=None, sub_windows=()):
    """(unit, limit, window) of each quota, in the order of `_core.Limiter.used`."""
    found = []
    if rpm is not None:
        found.append(("requests", rpm, MINUTE))
        for sub_window in sub_windows:
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

    def admits(self, now, tokens, requests=1):
        return all(
            self.used(quota, now) + (requests if quota[0] == "requests" else tokens) <= quota[1]
            for quota in self.quotas
        )

    def wait(self, now, tokens):
        """Nanoseconds until it admits, if nothing else is admitted before."""
        leaving = {at + quota[2] for at, _ in self.admitted for quota in self.quotas}
        times = sorted(time for time in leaving | {now} if time >= now)
        return next(time for time in times if self.admits(time, tokens)) - now

    def serve_in_order(self, now, waiting):
        """When each of those who wait is admitted, strictly one after the other."""
        copy = ExactLog(self.quotas)
        copy.admitted = list(self.admitted)
        times = []
        for tokens in waiting:
            now += copy.wait(now, tokens)
            copy.admitted.append((now, tokens))
            times.append(now)
        return times

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


class Recorder:
    """A limiter's core that notes the very time of each admission."""

    def __init__(self, limiter, *, stopped):
        self._core = limiter._core
        self._origin = None if stopped else time.monotonic()
        self._sizes = {}
        self.pause = 0.0
        self.exact = ExactLog(
            quotas(
                rpm=limiter.limits.rpm,
                tpm=limiter.limits.tpm,
                rps=limiter.limits.rps,
                sub_windows=limiter.limits.sub_windows,
            )
        )
        limiter._core = self

    def go_on(self, since=0.0):
        """Let time pass, from so many seconds after it was stopped."""
        self._origin = time.monotonic() - since

    def _now(self):
        if self._origin is None:
            return 0
        # In whole nanoseconds, so that the core and the log read the same.
        return round((time.monotonic() - self._origin) * 1e9)

    def enqueue(self, tokens=0, output_tokens=0, **options):
        now = self._now()
        ticket, stamp, is_near = self._core.enqueue(tokens, output_tokens, now=now / 1e9, **options)
        if ticket is None:
            self.exact.admitted.append((now, tokens))
        else:
            self._sizes[ticket] = tokens
            time.sleep(self.pause)
        return ticket, stamp, is_near

    def poll(self, most):
        now = self._now()
        admitted, refused, wait = self._core.poll(most, now=now / 1e9)
        self.exact.admitted += [(now, self._sizes[ticket]) for ticket, _ in admitted]
        return admitted, refused, wait

    def __getattr__(self, name):
        return getattr(self._core, name)


def spent(limits, *, stopped=False):
    """A limiter whose first window is full, and what it admits from then on.

    Where its time is stopped, whoever comes has to wait until it goes on.
    """
    limiter = RateLimiter(limits, margin=0)
    while limiter._core.try_acquire(now=0.0) == 0.0:
        pass
    return limiter, Recorder(limiter, stopped=stopped)
