"""Limiters that processes share by name: opening them, and looking at them from outside."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

from tollway import _core
from tollway.errors import ConfigurationError
from tollway.limiter.learning import is_held, most_of
from tollway.limiter.limits import Limits
from tollway.limiter.snapshot import LimiterSnapshot, WindowSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CLOSED",
    "ClosedCore",
    "Participant",
    "SharedLimiter",
    "UnopenedCore",
    "list_shared_limiters",
    "look_at_shared_limiter",
    "open_core",
    "snapshot_of",
]

CLOSED = "the limiter was closed"


@dataclass(frozen=True, slots=True)
class Participant:
    """One limiter that takes from a shared quota.

    Attributes:
        process: Id of its process.
        in_flight: Its reservations under way.
        head_due: Seconds until the first of those who wait in it is due; None where nobody waits.
        head_tokens: Input and output tokens of that one, rounded up to multiples of 128.
    """

    process: int
    in_flight: int
    head_due: float | None
    head_tokens: int


@dataclass(frozen=True, slots=True)
class SharedLimiter:
    """A shared limiter at one time, as one who does not take part sees it.

    Attributes:
        name: Its name.
        limits: What its holders hold.
        margin: Their margin; None for the default.
        snapshot: Its windows; `waiting` is how many processes somebody waits in.
        participants: Who takes part; nobody where all have ended.
    """

    name: str
    limits: Limits
    margin: float | None
    snapshot: LimiterSnapshot
    participants: tuple[Participant, ...]


def list_shared_limiters() -> list[str]:
    """Return the names of this user's shared limiters on this host, used now or once.

    Raises:
        ConfigurationError: The directory is not private, or the system shares no limiters.
    """
    return _core.shared_limiters()


def look_at_shared_limiter(name: str) -> SharedLimiter | None:
    """Look at a shared limiter without taking part; None where nobody used it since the boot.

    Raises:
        ConfigurationError: There is no such name, its file is not trusted, or the system shares no
            limiters.
    """
    while True:
        text = _core.shared_limits(name)
        if text is None:
            return None
        limits, margin = _parse(text)
        try:
            core = _core.Limiter(**_settings(limits, margin), shared=(name, text), glance=True)
            break
        except ConfigurationError:
            # Somebody may have changed it between the two looks.
            if _core.shared_limits(name) == text:
                raise
    participants = tuple(
        Participant(process, in_flight, None, 0)
        if head is None
        else Participant(process, in_flight, head[0], head[1] + head[2])
        for process, in_flight, head in core.participants()
    )
    waiting = sum(participant.head_due is not None for participant in participants)
    return SharedLimiter(
        name, limits, margin, snapshot_of(core, limits, waiting=waiting), participants
    )


def open_core(limits: Limits, margin: float | None, shared: str | None) -> _core.Limiter:
    """Return the core of a limiter: of its own, or what others share under that name."""
    if shared is None:
        return _core.Limiter(**_settings(limits, margin))
    return _core.Limiter(**_settings(limits, margin), shared=(shared, _describe(limits, margin)))


def snapshot_of(
    core: _core.Limiter, limits: Limits, *, waiting: int | None = None
) -> LimiterSnapshot:
    """Return what a core tells of itself."""
    windows, in_flight, own_waiting, rate_limited, paused_for = core.state()
    return LimiterSnapshot(
        windows=tuple(
            WindowSnapshot(name, seconds, limit, configured, used, next_in)
            for name, seconds, configured, limit, used, next_in in windows
            if is_held(limits, name, limit)
        ),
        in_flight=in_flight,
        waiting=own_waiting if waiting is None else waiting,
        rate_limited=rate_limited,
        paused_for=paused_for,
    )


def _settings(limits: Limits, margin: float | None) -> dict[str, Any]:
    return {
        **most_of(limits),
        "rps": limits.rps,
        "sub_windows": limits.sub_windows,
        "output_weight": limits.output_weight,
        "max_in_flight": limits.max_in_flight,
        "is_calendar": limits.time_zone is not None,
        "admits_oversized": limits.admit_oversized,
        "margin": margin,
    }


def _describe(limits: Limits, margin: float | None) -> str:
    """Write down what is held: the same for the same limits, and readable in an error."""
    given = {field.name: getattr(limits, field.name) for field in fields(limits)}
    given["sub_window"] = [float(length) for length in limits.sub_windows if length] or None
    given["margin"] = None if margin is None else float(margin)
    return " ".join(
        f"{name}={json.dumps(value, separators=(',', ':'))}"
        for name, value in given.items()
        if value is not None and value is not False
    )


def _parse(text: str) -> tuple[Limits, float | None]:
    given: dict[str, Any] = {}
    for item in text.split():
        name, _, value = item.partition("=")
        given[name] = json.loads(value)
    margin = given.pop("margin", None)
    if "sub_window" in given:
        given["sub_window"] = tuple(given["sub_window"])
    return Limits(**given), margin


class UnopenedCore:
    """Stands for the core of a shared limiter in a forked child, until the child uses it.

    A child that only goes on to run another program takes no place of its own.
    """

    # Said without opening: a permit of the parent's that is collected in the child asks it, at any
    # point of any thread.
    waiting = 0

    def __init__(self, open_it: Callable[[UnopenedCore], _core.Limiter]) -> None:
        self._open = open_it
        self._opening = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        """Open the limiter, and answer for it."""
        with self._opening:
            return getattr(self._open(self), name)


class ClosedCore:
    """Stands for the core of a limiter that was closed."""

    waiting = 0

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse."""
        raise RuntimeError(CLOSED)
