"""The log of a shared limiter, read from outside while others write it: every admission."""

from __future__ import annotations

import os
import struct
from collections import deque
from itertools import pairwise
from typing import NamedTuple

TICK = 16e-6

# Where a region begins is told in the file's first page, in units of this.
_GRAIN = 1 << 16
_REGION_HEADER = 4096


class Admission(NamedTuple):
    """One admission: its time in seconds since the log began, and what it was charged."""

    at: float
    tokens: int
    requests: int


class LogReader:
    """Reads the ring of a limiter again and again, and keeps every entry that it saw.

    It must read more often than the ring turns. The dead are in it like the living: what was
    admitted is there by the very swap that admitted it, written down by its process or not.
    """

    def __init__(self, path, *, slots):
        self._file = os.open(path, os.O_RDONLY)
        self._slots = slots
        self._entries = {}

    def close(self):
        os.close(self._file)

    def read(self):
        """Take in what the ring holds now."""
        (current,) = struct.unpack("<Q", os.pread(self._file, 8, 8))
        start = (current >> 32) * _GRAIN
        (size,) = struct.unpack("<Q", os.pread(self._file, 8, start + 16))
        memory = start + _REGION_HEADER
        ring = (memory + size - 16 * self._slots, 16 * self._slots)
        # A slot that changes under the read differs the second time.
        once, head, twice = (
            os.pread(self._file, length, at) for at, length in (ring, (memory, 16), ring)
        )
        for i in range(self._slots):
            word = once[16 * i : 16 * i + 16]
            if word == twice[16 * i : 16 * i + 16]:
                self._take(word, i)
        if os.pread(self._file, 16, memory) == head:
            self._take(head, None)

    def _take(self, word, slot):
        sums, stamp = struct.unpack("<QQ", word)
        serial = stamp >> 40
        if slot is None or serial % self._slots == slot:
            # The log begins with empty entries of negative numbers.
            serial -= (serial >> 23) << 24
            self._entries[serial] = (stamp & (1 << 40) - 1, sums >> 32, sums & (1 << 32) - 1)

    def admissions(self):
        """All of them, in order."""
        found = []
        for before, after in pairwise(sorted(serial for serial in self._entries if serial >= 0)):
            assert after == before + 1, f"the ring turned between two reads at {before}"
            (_, tokens, requests), (at, *sums) = self._entries[before], self._entries[after]
            found.append(Admission(at * TICK, sums[0] - tokens, sums[1] - requests))
        return found


def worst_window(admissions, window, unit):
    """The most that any (t - window, t] held; the window's ends are ticks, as the log's times."""
    length = round(window / TICK)
    inside, held, worst = deque(), 0, 0
    for admission in admissions:
        at, amount = round(admission.at / TICK), getattr(admission, unit)
        inside.append((at, amount))
        held += amount
        while inside[0][0] <= at - length:
            held -= inside.popleft()[1]
        worst = max(worst, held)
    return worst


def share_used(admissions, window, limit, unit):
    """How much of the quota was used from the first whole window's end to the last admission."""
    first, last = admissions[0].at + window, admissions[-1].at
    amount = sum(getattr(found, unit) for found in admissions if first < found.at <= last)
    return amount / (limit * (last - first) / window)
