"""What answers teach about limits: pure state over the time that it is given.

The rules, each for one limit:

- What the server states holds from the newest answer on, by the time its request was sent; a
  configured limit is never exceeded, whatever the server states.
- A refusal that names a time pauses the limit until then.
- The first refusal does no more. One that meets a request sent after it, within two minutes, takes
  the limit down to 70 % of itself: a multiplicative decrease, once for all requests that were under
  way together (Jain and Chiu 1989; the factor is CUBIC's, RFC 9438).
- From there it recovers by 5 % of the whole a minute.
- A refusal of which the server says that some of the limit is left is about a shorter time, such as
  a second in which too many came: where another came within five, it takes 10 %, which come back
  within half a minute. They are taken from that shorter time, where the limits have one.
- An overloaded server pauses everything for the time it names, and shrinks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tollway.limiter.feedback import Feedback

__all__ = ["Adaptive", "Outcome", "Pause", "Ramp"]

Outcome = Literal["answered", "refused", "overloaded"]

_DECREASE = 0.7
_LEAST_SHARE = 0.05
# Of the whole limit, a second.
_RECOVERY = 0.05 / 60
# The same where some of the limit is left. Requests that jitter has brought together are no sign of
# a lower limit: the whole decrease would cost a job a tenth of its next ten minutes.
_BURST_DECREASE = 0.9
_BURST_RECOVERY = 0.1 / 30
# Seconds after which a refusal is no repetition of the one before.
_MEMORY = 120.0
# The same where some of the limit is left: a process that stood still for a moment, as for a
# collection of garbage, sends a few requests late and the next ones too early, once.
_BURST_MEMORY = 5.0
# Retries give up on a server that asks for more (see `tollway.retry`): nobody is to wait for it
# without being told.
_LONGEST_PAUSE = 600.0

_OF_A_MINUTE = ("rpm", "tpm", "input_tpm", "output_tpm")
_OF_TOKENS = ("tpm", "input_tpm", "tpd")
_RAMPED = ("tpm", "input_tpm")


@dataclass(frozen=True, slots=True)
class Ramp:
    """How fast traffic may grow, where a provider judges that too.

    Above `above` tokens a minute, no minute holds more than 1 + `growth` times the busiest minute
    of the `every` seconds before. OpenAI asks for 50 % in 15 minutes above a million input tokens:
    https://platform.openai.com/docs/guides/error-codes

    Attributes:
        above: Tokens a minute that are always allowed.
        growth: Part by which it may grow.
        every: Seconds in which.
    """

    above: int = 1_000_000
    growth: float = 0.5
    every: float = 900.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is to be admitted for some seconds.

    Attributes:
        limits: Names of the limits that are paused; none means all.
        seconds: From now.
    """

    limits: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class _Limit:
    # Configured, and never exceeded.
    most: int
    # What holds until the server states something.
    assumed: int | None = None
    stated: int | None = None
    # When the request was sent whose answer stated it.
    stated_at: float = float("-inf")
    # Of the limit, after refusals; and of that, after those with some of it left.
    share: float = 1.0
    burst_share: float = 1.0
    # The largest request: refusals do not shrink the limit below it, or it would never go.
    largest: int = 0
    # When the last refusal that counts came: what was sent before it met the same congestion.
    refused_at: float = float("-inf")

    def ceiling(self, *, bursts: bool) -> int:
        whole = min(self.most, self.stated or self.assumed or self.most)
        share = self.share * self.burst_share if bursts else self.share
        held = int(whole * max(_LEAST_SHARE, share))
        return max(1, held, min(self.largest, whole))

    def refuse(self, sent_at: float, now: float, *, is_burst: bool) -> None:
        if sent_at <= self.refused_at:
            return
        if now - self.refused_at < (_BURST_MEMORY if is_burst else _MEMORY):
            if is_burst:
                self.burst_share = max(_LEAST_SHARE, self.burst_share * _BURST_DECREASE)
            else:
                self.share = max(_LEAST_SHARE, self.share * _DECREASE)
        self.refused_at = now

    def recover(self, seconds: float) -> None:
        self.share = min(1.0, self.share + _RECOVERY * seconds)
        self.burst_share = min(1.0, self.burst_share + _BURST_RECOVERY * seconds)


class Adaptive:
    """What has been learned about the limits of one account.

    Times are seconds of one clock that does not go back.

    Args:
        most: The configured limits by name; the only ones that are followed.
        assumed: What to hold, below those, until the server states its own.
        ramp: Bounds the growth; None until the server refuses growth.
    """

    def __init__(
        self,
        most: Mapping[str, int],
        *,
        assumed: Mapping[str, int] | None = None,
        ramp: Ramp | None = None,
    ) -> None:
        self._limits = {
            name: _Limit(limit, (assumed or {}).get(name)) for name, limit in most.items()
        }
        # Nothing is shrunk before the first answer, so that it does not matter when time begins.
        self._now = float("-inf")
        self._growth = None if ramp is None else _Growth(ramp, float(ramp.above))
        self.refusals = 0

    def ceilings(self, *, bursts: bool = True) -> dict[str, int]:
        """Return the limits that hold now, by name; none is above what was configured.

        Args:
            bursts: Whether what bursts took counts: it is about a time shorter than a minute.
        """
        held = {name: limit.ceiling(bursts=bursts) for name, limit in self._limits.items()}
        if self._growth is not None:
            level = max(1, int(self._growth.level))
            held.update({name: min(held[name], level) for name in _RAMPED if name in held})
        return held

    def learn(
        self,
        feedback: Feedback,
        *,
        sent_at: float,
        now: float,
        outcome: Outcome = "answered",
        tokens: int = 0,
        used: int = 0,
    ) -> Pause | None:
        """Take in what an answer says.

        Args:
            feedback: What it says.
            sent_at: When its request was sent.
            now: When it came.
            outcome: What became of the request.
            tokens: How many it was admitted with.
            used: Tokens admitted in the last minute; for the ramp.

        Returns:
            What is to be paused, or None.
        """
        for stated in feedback.reported:
            limit = self._limits.get(stated.limit)
            if limit is not None and sent_at >= limit.stated_at:
                limit.stated, limit.stated_at = stated.quota, sent_at
        self._pass(tokens, now)
        if self._growth is not None:
            self._growth.note(used, now)
        exceeded: tuple[str, ...] = ()
        if outcome == "refused":
            self.refusals += 1
            if feedback.too_steep:
                self._growth = self._growth or _Growth(Ramp(), float("inf"))
                self._growth.refuse(used, sent_at, now)
            else:
                exceeded = tuple(name for name in feedback.exceeded if name in self._limits)
                left = {row.limit for row in feedback.reported if row.remaining}
                for name in exceeded or _OF_A_MINUTE:
                    if name in self._limits:
                        is_burst = name == "rpm" and name in left
                        self._limits[name].refuse(sent_at, now, is_burst=is_burst)
        wait = min(feedback.retry_after or 0.0, _LONGEST_PAUSE)
        return Pause(exceeded, wait) if wait > 0 and outcome != "answered" else None

    def _pass(self, tokens: int, now: float) -> None:
        """Recover for the time since the last answer."""
        for name, limit in self._limits.items():
            if name in _OF_TOKENS:
                limit.largest = max(limit.largest, tokens)
            limit.recover(max(0.0, now - self._now))
        self._now = max(self._now, now)


@dataclass(slots=True)
class _Growth:
    """Holds each minute's tokens below a level that rises once in `ramp.every` seconds.

    Between two rises lies a whole step, so that no shorter time sees more than one.
    """

    ramp: Ramp
    level: float
    # The busiest minute of this step.
    peak: int = 0
    step_ends: float | None = None
    refused_at: float = field(default=float("-inf"))

    def note(self, used: int, now: float) -> None:
        ramp = self.ramp
        if self.step_ends is None:
            self.step_ends = now + ramp.every
        elif now >= self.step_ends:
            # After a step without a request there is nothing to grow from.
            peak = 0 if now >= self.step_ends + ramp.every else self.peak
            self.level = max(peak * (1 + ramp.growth), min(self.level, ramp.above))
            self.peak, self.step_ends = 0, now + ramp.every
        self.peak = max(self.peak, used)

    def refuse(self, used: int, sent_at: float, now: float) -> None:
        """Go back by the last rise, and stay there for a whole step."""
        if sent_at <= self.refused_at:
            return
        least = self.ramp.above * _LEAST_SHARE
        self.level = min(self.level, max(least, used / (1 + self.ramp.growth)))
        self.peak, self.step_ends, self.refused_at = 0, now + self.ramp.every, now
