"""How a command is stopped from outside."""

from __future__ import annotations

import signal

__all__ = ["stop_on_sigterm"]


def stop_on_sigterm() -> None:
    """Take SIGTERM, a service manager's way to say stop, as Ctrl-C. Called in the running loop."""
    handler = signal.getsignal(signal.SIGINT)
    # A shell has what it starts in the background ignore Ctrl-C; a stop is still a stop.
    signal.signal(signal.SIGTERM, handler if callable(handler) else signal.default_int_handler)
