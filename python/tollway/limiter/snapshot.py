"""What a limiter tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LimiterSnapshot", "WindowSnapshot"]


@dataclass(frozen=True, slots=True)
class WindowSnapshot:
    """One window at one time.

    Attributes:
        name: The limit: `rpm`, `sub_window`, `rps`, `tpm`, `input_tpm`, `output_tpm`, `rpd`, `tpd`.
        seconds: Length of the window, its margin included.
        limit: What it may hold now.
        configured: What it may hold by its limits; more than `limit` where the server said less.
        used: What it holds, less what came back. Over-use can make it more than `limit`.
        next_in: Seconds until it has room for one request or token; 0.0 for at once.
    """

    name: str
    seconds: float
    limit: int
    configured: int
    used: int
    next_in: float

    @property
    def remaining(self) -> int:
        """What it has room for."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """A limiter at one time.

    Attributes:
        windows: One a window.
        in_flight: Reservations under way, in all processes that share the limiter.
        waiting: Callers that wait in this process.
        rate_limited: Answers that said that a limit was exceeded (429).
        paused_for: Seconds for which nothing at all is admitted; 0.0 where there is no pause.
    """

    windows: tuple[WindowSnapshot, ...]
    in_flight: int
    waiting: int
    rate_limited: int
    paused_for: float

    def __getitem__(self, name: str) -> WindowSnapshot:
        """Return the window of a name, the first where there are several."""
        for window in self.windows:
            if window.name == name:
                return window
        raise KeyError(name)
