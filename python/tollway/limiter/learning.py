"""From what answers teach to what the core holds."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING

from tollway.limiter.adaptive import Adaptive

if TYPE_CHECKING:
    from tollway import _core
    from tollway.limiter import Limits
    from tollway.limiter.adaptive import Outcome, Ramp
    from tollway.limiter.feedback import Feedback

__all__ = ["Learning", "most_of"]

# What the limits of an account can be learned up to: twice the requests a minute of the highest
# published tiers (each costs 16 bytes), and else what the core can count.
_MOST = {"rpm": 60_000, "tpm": 2**31 - 1, "rpd": 2**27 - 1, "tpd": 2**35 - 1}
_NAMES = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "tpd")


def most_of(limits: Limits) -> dict[str, int]:
    """Return the limits that a core is made with, by name, as far as they can be learned."""
    given = {name: getattr(limits, name, None) for name in _NAMES}
    held = {name: limit for name, limit in given.items() if limit is not None}
    if not limits.auto:
        return held
    return {name: max(_MOST.get(name, 0), held.get(name, 0)) for name in held | _MOST}


class Learning:
    """Keeps a core at the limits that answers teach.

    Args:
        core: Made with `most_of(limits)`.
        limits: As the user gave them.
        ramp: How fast traffic may grow; None where the provider does not judge that.
    """

    def __init__(self, core: _core.Limiter, limits: Limits, ramp: Ramp | None) -> None:
        self._core = core
        self._limits = limits
        self._most = most_of(limits)
        assumed = {name: getattr(limits, name, None) or most for name, most in self._most.items()}
        self._adaptive = Adaptive(self._most, assumed=assumed, ramp=ramp)
        self._ramps = ramp is not None
        self._lock = threading.Lock()
        self._held = self._most
        self._hold()

    def limits(self) -> Limits:
        """Return the limits that hold now."""
        if self._held is self._most:
            return self._limits
        # What is only the bound of what could be learned is no limit.
        changed = {
            name: None if self._limits.auto and limit >= _MOST.get(name, 2**62) else limit
            for name, limit in self._held.items()
        }
        return dataclasses.replace(self._limits, **changed)

    def learn(self, feedback: Feedback, *, outcome: Outcome, took: float, tokens: int) -> bool:
        """Take in what an answer says; see `RateLimiter.learn`.

        Returns:
            Whether those who wait may have other times now.
        """
        if outcome == "refused":
            self._core.note_throttled()
            self._ramps = self._ramps or feedback.too_steep
        with self._lock:
            now = time.monotonic()
            pause = self._adaptive.learn(
                feedback,
                sent_at=now - took,
                now=now,
                outcome=outcome,
                tokens=tokens,
                used=self._used() if self._ramps else 0,
            )
            if pause is not None:
                for name in pause.limits or (None,):
                    self._core.pause(pause.seconds, name)
            return self._hold()

    def _hold(self) -> bool:
        held = self._adaptive.ceilings()
        changed = {name: limit for name, limit in held.items() if limit != self._held[name]}
        for name, limit in changed.items():
            self._core.set_ceiling(name, limit if limit < self._most[name] else None)
            if name == "rpm" and self._limits.sub_window:
                # Rounded up, as servers judge it: a third less than a rate of 90 a minute would
                # remain of it otherwise. The minute's own limit holds beside it.
                share = -(-limit * self._limits.sub_window // 60)
                self._core.set_ceiling("sub_window", int(share))
        if changed:
            self._held = held
        return bool(changed)

    def _used(self) -> int:
        windows = self._core.state()[0]
        return max((used for name, *_, used, _ in windows if name in {"tpm", "input_tpm"}), default=0)

    def forget_lock(self) -> None:
        """Start a forked child with a lock that no thread of the parent holds."""
        self._lock = threading.Lock()
