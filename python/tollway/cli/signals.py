"""How a command is stopped from outside."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["stop_on_signals", "stopped"]

# Seconds that a command gets to end in good order; it needs less than one.
_PATIENCE = 3.0


def stop_on_signals() -> None:
    """Take SIGTERM, a service manager's way to say stop, as Ctrl-C; called in the running loop.

    The first of them ends the command in good order. More, of someone who presses the keys again or
    of a shell that tells a whole group, would break into that, and are not heard; after three
    seconds the next ends the process at once.
    """
    handler = signal.getsignal(signal.SIGINT)
    stop = handler if callable(handler) else signal.default_int_handler
    begun: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if begun is None:
            begun = time.monotonic()
            stop(number, frame)
        elif time.monotonic() - begun > _PATIENCE:
            os._exit(130)

    # A shell has what it starts in the background ignore Ctrl-C; a stop is still a stop.
    if callable(handler):
        signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def stopped() -> None:
    """Hear no more signals: the command has ended, and only its exit code is still to come."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
