"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

# One commit is tested on the same examples everywhere, however slow the machine: what another
# draw finds says nothing about the change at hand. `make properties` draws others each time.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("random"), derandomize=True)
settings.load_profile("repeatable")

# Every client of an SDK loads the certificates to trust, here and in processes that tests start:
# of this machine's they are so many that it takes longer than most tests.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("ca.pem"))

# A job runner may have what it starts ignore Ctrl-C, which the commands under test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session):
    """Leave all that was imported by now out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
