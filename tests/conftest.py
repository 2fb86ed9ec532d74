"""What holds for every test."""

from __future__ import annotations

import signal

# A job runner may have what it starts ignore Ctrl-C, which the commands under test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
