"""Run asyncio code for hours within seconds: a clock that moves only when everybody waits.

Importing this module replaces the functions of `time`, so import it before whatever is to live in
virtual time; libraries that bind `from time import monotonic` then see it as well.
"""

from __future__ import annotations

import asyncio
import selectors
import time

# Seconds that a turn of the event loop takes at the least.
_TURN = 1e-6
# Some start of a day, so that wall clocks agree with days of 86,400 s from zero.
EPOCH = 20_000 * 86_400.0


class _Clock:
    now = 0.0


def now():
    """Return the virtual time: seconds since the run began."""
    return _Clock.now


def take(seconds):
    """Let time pass in which nobody else does anything: this is a computation."""
    _Clock.now += seconds


def _patch():
    time.monotonic = time.perf_counter = now
    time.monotonic_ns = time.perf_counter_ns = lambda: round(_Clock.now * 1e9)
    time.time = lambda: EPOCH + _Clock.now
    time.time_ns = lambda: round((EPOCH + _Clock.now) * 1e9)


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, lets the time pass."""

    def select(self, timeout=None):
        # With nothing due, only a thread can bring something.
        events = super().select(0 if timeout is not None else 10)
        if not events and timeout is None:
            raise RuntimeError("everybody waits for something that no clock will bring")
        # No turn of a loop is free: a wait that rounds to nothing would be waited for ever.
        _Clock.now += _TURN if events else max(timeout or 0.0, _TURN)
        return events


def run(main):
    """Run a coroutine from time 0 on."""
    _Clock.now = 0.0
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector())) as runner:
        return runner.run(main)


process_time = time.process_time
_patch()
