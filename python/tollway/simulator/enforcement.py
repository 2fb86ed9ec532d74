"""How a provider judges requests: pure arithmetic over the time it is given.

Times and quotas become integers (nanoseconds, and quota-nanoseconds in the buckets), so a bucket
refills exactly however often it is asked.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Denial", "Enforcement", "Standing"]

_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
_DAY = 86_400 * _SECOND


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request was not admitted.

    Attributes:
        limit: Name of the limit: `rpm`, `rpd`, `tpm`, `tpd` or `sub_window`.
        quota: What the limit allows in its window.
        window: Length of that window, seconds.
        requested: What the request would have taken of it.
        retry_after: Seconds until the same request would be admitted if nothing else came;
            None where it is over a whole quota and never will be.
    """

    limit: str
    quota: int
    window: float
    requested: int
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a bucket: the numbers of the `x-ratelimit-*` headers.

    Attributes:
        limit: Capacity of the bucket.
        remaining: Whole requests or tokens in it.
        reset: Seconds until it is full again.
    """

    limit: int
    remaining: int
    reset: float


class _Bucket:
    """Holds at most `quota`, starts full, refills continuously by `quota` every `window`."""

    __slots__ = ("_at", "_level", "name", "quota", "window")

    def __init__(self, name: str, quota: int, window: int) -> None:
        self.name = name
        self.quota = quota
        self.window = window
        self._level = quota * window
        self._at = 0

    def refill(self, at: int) -> None:
        if at > self._at:
            self._level = min(self.quota * self.window, self._level + (at - self._at) * self.quota)
            self._at = at

    def wait(self, cost: int) -> int | None:
        """Return the nanoseconds until `cost` is there; None if it never will be."""
        if cost > self.quota:
            return None
        return max(0, -((self._level - cost * self.window) // self.quota))

    def take(self, cost: int) -> None:
        self._level -= cost * self.window

    def standing(self) -> Standing:
        missing = self.quota * self.window - self._level
        return Standing(self.quota, self._level // self.window, -(-missing // self.quota) / _SECOND)

    def change(self, quota: int) -> None:
        self.quota = quota
        self._level = min(self._level, quota * self.window)


class _SubWindow:
    """Takes at most `quota` requests in any (t - window, t]."""

    __slots__ = ("_at", "_taken", "name", "quota", "window")

    def __init__(self, name: str, quota: int, window: int) -> None:
        self.name = name
        self.quota = quota
        self.window = window
        self._taken: deque[int] = deque()
        self._at = 0

    def refill(self, at: int) -> None:
        self._at = max(at, self._at)
        while self._taken and self._taken[0] <= self._at - self.window:
            self._taken.popleft()

    def wait(self, cost: int) -> int | None:
        del cost  # always one request
        # More than the quota, where that was lowered.
        over = len(self._taken) - self.quota
        return 0 if over < 0 else self._taken[over] + self.window - self._at

    def take(self, cost: int) -> None:
        del cost
        self._taken.append(self._at)


class _CalendarDay:
    """Takes at most `quota` from one midnight to the next."""

    __slots__ = ("_begins", "_day", "_now", "_taken", "name", "quota", "window")

    def __init__(self, name: str, quota: int, begins: int) -> None:
        self.name = name
        self.quota = quota
        self.window = 86_400 * _SECOND
        self._begins = begins % self.window
        self._day = self._now = self._taken = 0

    def refill(self, at: int) -> None:
        self._now = max(at, self._now)
        day = (self._now - self._begins) // self.window
        if day != self._day:
            self._day, self._taken = day, 0

    def wait(self, cost: int) -> int | None:
        if cost > self.quota:
            return None
        if self._taken + cost <= self.quota:
            return 0
        return self._left_of_the_day()

    def _left_of_the_day(self) -> int:
        return self._begins + (self._day + 1) * self.window - self._now

    def take(self, cost: int) -> None:
        self._taken += cost

    def standing(self) -> Standing:
        left = max(0, self.quota - self._taken)
        return Standing(self.quota, left, self._left_of_the_day() / _SECOND)

    def change(self, quota: int) -> None:
        self.quota = quota


class Enforcement:
    """One account's limits, judged as OpenAI judges them.

    RPM and TPM (and RPD and TPD) are token buckets: they hold a whole minute's (day's) quota at
    the start and refill continuously, so a full bucket spent at once and the refill after it let
    up to twice the quota through in some minutes. Requests are judged in short windows too.

    A request denied by a request limit takes nothing. Every other request takes one request,
    whether it succeeds, fails or is denied for its tokens: unsuccessful requests count at OpenAI.
    Tokens are taken only from requests that are admitted.

    Args:
        rpm: Requests a minute; None for no limit.
        tpm: Tokens a minute.
        rpd: Requests a day.
        tpd: Tokens a day.
        sub_window: Seconds in any of which at most ceil(rpm * sub_window / 60) requests are
            admitted; 0 switches it off. Without rpm it does nothing.
        midnight: A time at which a day begins, in seconds of the clock that `admit` is given: rpd
            and tpd hold for calendar days, as at Gemini. None for buckets.

    Raises:
        ConfigurationError: A limit is not a positive integer, or `sub_window` is negative or
            over a minute.
    """

    def __init__(
        self,
        *,
        rpm: int | None = None,
        tpm: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        sub_window: float = 1.0,
        midnight: float | None = None,
    ) -> None:
        for name, quota in {"rpm": rpm, "tpm": tpm, "rpd": rpd, "tpd": tpd}.items():
            if quota is not None and quota < 1:
                raise ConfigurationError(f"{name} is {quota}: a limit is at least 1, or None")
        if not 0 <= sub_window <= 60:
            raise ConfigurationError(f"sub_window is {sub_window}: it lies between 0 and 60 s")
        self._sub_window = round(sub_window * _SECOND)
        self._request_buckets = _buckets({"rpm": rpm, "rpd": rpd}, midnight)
        self._token_buckets = _buckets({"tpm": tpm, "tpd": tpd}, midnight)
        self._request_limits: list[_Bucket | _CalendarDay | _SubWindow] = [*self._request_buckets]
        if rpm is not None and self._sub_window:
            quota = -(-rpm * self._sub_window // _MINUTE)
            self._request_limits.append(_SubWindow("sub_window", quota, self._sub_window))

    def change(self, now: float, **limits: int) -> None:
        """Give limits other quotas; what has been taken stays taken.

        Args:
            now: Seconds, as in `admit`.
            limits: By name: `rpm`, `tpm`, `rpd`, `tpd`.

        Raises:
            ConfigurationError: There is no such limit, or its quota is below 1.
        """
        buckets = {it.name: it for it in (*self._request_buckets, *self._token_buckets)}
        for name, quota in limits.items():
            if name not in buckets or quota < 1:
                raise ConfigurationError(
                    f"no limit {name} that could be {quota}: {sorted(buckets)}"
                )
        at = round(now * _SECOND)
        for name, quota in limits.items():
            buckets[name].refill(at)
            buckets[name].change(quota)
        for limit in self._request_limits:
            if isinstance(limit, _SubWindow) and "rpm" in limits:
                limit.quota = -(-limits["rpm"] * self._sub_window // _MINUTE)

    def admit(self, now: float, tokens: int) -> Denial | None:
        """Judge a request that arrives now, and charge it.

        Args:
            now: Seconds of a clock that does not go back.
            tokens: Tokens of the request; 0 for one that fails before any work is done.

        Returns:
            None if it is admitted, otherwise the limit that keeps it waiting longest.
        """
        at = round(now * _SECOND)
        by_requests = _judge(self._request_limits, at, 1)
        by_tokens = _judge(self._token_buckets, at, tokens)
        if by_requests is None:
            for limit in self._request_limits:
                limit.take(1)
            if by_tokens is None:
                for bucket in self._token_buckets:
                    bucket.take(tokens)
                return None
            # The retry meets the request limits as this attempt leaves them.
            by_requests = _judge(self._request_limits, at, 1)
        denials = [denial for denial in (by_requests, by_tokens) if denial]
        return max(denials, key=_severity, default=None)

    def standing(self, now: float) -> dict[str, Standing]:
        """Return what is left: by `requests` and `tokens`, each where it is limited.

        A minute's bucket is shown before a day's.
        """
        at = round(now * _SECOND)
        shown: dict[str, Standing] = {}
        for kind, buckets in (("requests", self._request_buckets), ("tokens", self._token_buckets)):
            if buckets:
                buckets[0].refill(at)
                shown[kind] = buckets[0].standing()
        return shown


def _buckets(quotas: dict[str, int | None], midnight: float | None) -> list[_Bucket | _CalendarDay]:
    """The minute's bucket, then the day's, as far as they are limited."""
    buckets: list[_Bucket | _CalendarDay] = []
    for name, quota in quotas.items():
        if quota is None:
            continue
        if name.endswith("m"):
            buckets.append(_Bucket(name, quota, _MINUTE))
        elif midnight is None:
            buckets.append(_Bucket(name, quota, _DAY))
        else:
            buckets.append(_CalendarDay(name, quota, round(midnight * _SECOND)))
    return buckets


def _judge(
    limits: Sequence[_Bucket | _CalendarDay | _SubWindow], at: int, cost: int
) -> Denial | None:
    denials: list[Denial] = []
    for limit in limits:
        limit.refill(at)
        wait = limit.wait(cost)
        if wait != 0:
            seconds = None if wait is None else wait / _SECOND
            denials.append(Denial(limit.name, limit.quota, limit.window / _SECOND, cost, seconds))
    return max(denials, key=_severity, default=None)


def _severity(denial: Denial) -> float:
    return float("inf") if denial.retry_after is None else denial.retry_after
