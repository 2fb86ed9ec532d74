"""From what answers teach to what the core holds."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any

from tollway.limiter.adaptive import Adaptive

if TYPE_CHECKING:
    from collections.abc import Collection

    from tollway import _core
    from tollway.limiter.adaptive import Outcome, Ramp
    from tollway.limiter.feedback import Feedback
    from tollway.limiter.limits import Limits

__all__ = ["Learning", "is_held", "most_of"]

# What the limits of an account can be learned up to: twice the requests a minute of the highest
# published tiers (each costs some 70 bytes), and else what the core can count.
_MOST = {"rpm": 60_000, "tpm": 2**31 - 1, "rpd": 2**27 - 1, "tpd": 2**35 - 1}
_NAMES = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "tpd")


def most_of(limits: Limits) -> dict[str, int]:
    """Return the limits that a core is made with, by name, as far as they can be learned."""
    given = {name: getattr(limits, name) for name in _NAMES}
    held = {name: limit for name, limit in given.items() if limit is not None}
    if not limits.auto:
        return held
    return {name: max(_MOST.get(name, 0), held.get(name, 0)) for name in held | _MOST}


def is_held(limits: Limits, name: str, limit: int) -> bool:
    """Whether a limit is one: not only the bound of what could be learned."""
    return not limits.auto or limit < _MOST.get(name, 2**62)


class Learning:
    """Keeps a core at the limits that answers teach.

    Args:
        limits: As the user gave them.
        ramp: How fast traffic may grow; None where the provider does not judge that.
    """

    def __init__(self, limits: Limits, ramp: Ramp | None) -> None:
        self._limits = limits
        self._most = most_of(limits)
        assumed = {name: getattr(limits, name) or most for name, most in self._most.items()}
        self._adaptive = Adaptive(self._most, assumed=assumed, ramp=ramp)
        self._ramps = ramp is not None
        self._lock = threading.Lock()
        self._held = self._most
        # What was told last: every call asks, and answers seldom change it.
        self._told: tuple[dict[str, Any], Limits] | None = None

    def begin(self, core: _core.Limiter) -> None:
        """Hold what is assumed in a core made with `most_of(limits)`.

        One that others share may have been taught already: that stays until an answer teaches more.
        """
        with self._lock:
            windows = core.state()[0]
            taught = {name for name, _, configured, limit, *_ in windows if limit < configured}
            self._hold(core, taught)

    def limits(self, core: _core.Limiter) -> Limits:
        """Return the limits that a core holds now, whoever taught it."""
        windows = {name: limit for name, *_, limit, _, _ in core.state()[0]}
        changed: dict[str, Any] = {
            name: windows[name] if is_held(self._limits, name, windows[name]) else None
            for name in self._most
        }
        told = self._told
        if told is None or told[0] != changed:
            told = self._told = changed, dataclasses.replace(self._limits, **changed)
        return told[1]

    def learn(
        self,
        core: _core.Limiter,
        feedback: Feedback,
        *,
        outcome: Outcome,
        took: float,
        tokens: int,
    ) -> bool:
        """Take in what an answer says; see `RateLimiter.learn`.

        Returns:
            Whether those who wait may have other times now.
        """
        if outcome == "refused":
            core.note_throttled()
            self._ramps = self._ramps or feedback.too_steep
        with self._lock:
            now = time.monotonic()
            pause = self._adaptive.learn(
                feedback,
                sent_at=now - took,
                now=now,
                outcome=outcome,
                tokens=tokens,
                used=_used(core) if self._ramps else 0,
            )
            if pause is not None:
                for name in pause.limits or (None,):
                    core.pause(pause.seconds, name)
            return self._hold(core)

    def _hold(self, core: _core.Limiter, but: Collection[str] = ()) -> bool:
        windows = self._limits.sub_windows
        # Of several the core lowers each in proportion to the minute.
        has_one = len(windows) == 1
        held = self._adaptive.ceilings(bursts=not has_one)
        if has_one and "rpm" in held:
            # Rounded up, as servers judge it: of 90 a minute only 60 would remain otherwise. The
            # minute's own limit holds beside it; lowered for a burst, it would be full for seconds,
            # and all who wait come at once when it is not.
            share = -(-self._adaptive.ceilings()["rpm"] * windows[0] // 60)
            held["sub_window"] = max(1, int(share))
        changed = {name: limit for name, limit in held.items() if limit != self._held.get(name)}
        for name, limit in changed.items():
            if name != "sub_window" and name not in but:
                core.set_ceiling(name, limit if limit < self._most[name] else None)
        # After the minute's, which the core hands on to it.
        if "sub_window" in held and "rpm" not in but and {"rpm", "sub_window"} & changed.keys():
            core.set_ceiling("sub_window", held["sub_window"])
        if changed:
            self._held = held
        return bool(changed)

    def forget_lock(self) -> None:
        """Start a forked child with a lock that no thread of the parent holds."""
        self._lock = threading.Lock()


def _used(core: _core.Limiter) -> int:
    """Tokens admitted in the last minute."""
    windows = core.state()[0]
    return max((used for name, *_, used, _ in windows if name in {"tpm", "input_tpm"}), default=0)
