"""From what answers teach to what the core holds."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any

from tollway.limiter.adaptive import Adaptive

if TYPE_CHECKING:
    from tollway import _core
    from tollway.limiter.adaptive import Outcome, Ramp
    from tollway.limiter.feedback import Feedback
    from tollway.limiter.limits import Limits

__all__ = ["Learning", "most_of"]

# What the limits of an account can be learned up to: twice the requests a minute of the highest
# published tiers (each costs 16 bytes), and else what the core can count.
_MOST = {"rpm": 60_000, "tpm": 2**31 - 1, "rpd": 2**27 - 1, "tpd": 2**35 - 1}
_NAMES = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "tpd")


def most_of(limits: Limits) -> dict[str, int]:
    """Return the limits that a core is made with, by name, as far as they can be learned."""
    given = {name: getattr(limits, name) for name in _NAMES}
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
        assumed = {name: getattr(limits, name) or most for name, most in self._most.items()}
        self._adaptive = Adaptive(self._most, assumed=assumed, ramp=ramp)
        self._ramps = ramp is not None
        self._lock = threading.Lock()
        self._held = self._most
        self._hold()

    def limits(self) -> Limits:
        """Return the limits that hold now."""
        if self._held is self._most:
            return self._limits
        changed: dict[str, Any] = {
            name: limit if self.holds(name, limit) else None for name, limit in self._held.items()
        }
        return dataclasses.replace(self._limits, **changed)

    def holds(self, name: str, limit: int) -> bool:
        """Whether a limit is one: not only the bound of what could be learned."""
        return not self._limits.auto or limit < _MOST.get(name, 2**62)

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
            if name == "rpm" and len(self._limits.sub_windows) == 1:
                # Rounded up, as servers judge it: of 90 a minute only 60 would remain otherwise.
                # The minute's own limit holds beside it.
                share = -(-limit * self._limits.sub_windows[0] // 60)
                self._core.set_ceiling("sub_window", max(1, int(share)))
        if changed:
            self._held = held
        return bool(changed)

    def _used(self) -> int:
        windows = self._core.state()[0]
        return max(
            (used for name, *_, used, _ in windows if name in {"tpm", "input_tpm"}), default=0
        )

    def forget_lock(self) -> None:
        """Start a forked child with a lock that no thread of the parent holds."""
        self._lock = threading.Lock()
