"""Processes that share a limiter, some of which are killed or stopped at random moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sharer
from shared_log import LogReader, share_used, worst_window

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Worker:
    """One process, and the file in which it writes down what it was given."""

    process: subprocess.Popen
    record: Path
    stopped_until: float | None = None
    # The last moment at which it was surely alive.
    killed_at: float = float("inf")

    def taken(self):
        """What it wrote down: (asked at, given at, tokens) of each."""
        whole = len(data := self.record.read_bytes()) // sharer.RECORD.size * sharer.RECORD.size
        return list(sharer.RECORD.iter_unpack(data[:whole]))


@dataclass
class Swarm:
    """Processes on one limiter; those that are killed are started anew."""

    folder: Path
    name: str
    limits: dict
    sizes: list
    hold: float = 0.0
    threads: int = 1
    workers: list = field(default_factory=list)
    dead: list = field(default_factory=list)
    done: Counter = field(default_factory=Counter)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for worker in self.workers:
            self._end(worker)
            self.dead.append(worker)
        self.workers.clear()

    @property
    def file(self):
        return self.folder / "limits" / self.name

    def start(self, **changes):
        number = len(self.workers) + len(self.dead)
        record = self.folder / f"record-{number}"
        record.touch()
        options = {
            "name": self.name,
            "limits": self.limits,
            "record": str(record),
            "sizes": self.sizes,
            "hold": self.hold,
            "threads": self.threads,
            "spread": 0,
            "seed": number,
            **changes,
        }
        environment = {
            **os.environ,
            "TOLLWAY_LIMITS_DIR": str(self.folder / "limits"),
            "PYTHONWARNINGS": "error",
        }
        process = subprocess.Popen(
            [sys.executable, sharer.__file__, json.dumps(options)], env=environment
        )
        self.workers.append(Worker(process, record))
        return self.workers[-1]

    def _end(self, worker):
        worker.killed_at = min(worker.killed_at, time.monotonic())
        worker.process.kill()
        # Whoever ended by himself failed.
        assert worker.process.wait(timeout=30) == -signal.SIGKILL

    def disturb(self, rng, *, kills, stops, longest_stop=0.2):
        """Kill one and start another in its place, or stop one for a while; at random."""
        now = time.monotonic()
        running = [worker for worker in self.workers if worker.stopped_until is None]
        left = {"kill": kills - self.done["kill"], "stop": stops - self.done["stop"]}
        choices = [action for action, count in left.items() for _ in range(count)]
        if not choices or len(running) < 2:
            return
        worker, action = rng.choice(running), rng.choice(choices)
        self.done[action] += 1
        if action == "stop":
            worker.process.send_signal(signal.SIGSTOP)
            worker.stopped_until = now + rng.uniform(0, longest_stop)
        else:
            self._end(worker)
            self.workers.remove(worker)
            self.dead.append(worker)
            self.start()

    def go_on(self, now=float("inf")):
        """Let those run whose stop has lasted long enough; by default all."""
        for worker in self.workers:
            if worker.stopped_until is not None and worker.stopped_until <= now:
                worker.process.send_signal(signal.SIGCONT)
                worker.stopped_until = None

    def taken(self):
        """What all of them wrote down."""
        return [entry for worker in [*self.workers, *self.dead] for entry in worker.taken()]

    def most_under_way(self):
        """The most reservations that were held at one moment, of those that were written down."""
        steps = []
        for worker in [*self.workers, *self.dead]:
            for _, given, _ in worker.taken():
                end = min(given + self.hold, worker.killed_at)
                if end > given:
                    steps += [(given, 1), (end, -1)]
        held = most = 0
        for _, step in sorted(steps):
            held += step
            most = max(most, held)
        return most


def wait_until(condition, *, seconds=60.0):
    """Wait for what must come in the end; how long it may take is not what is tested."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def course_of(swarm, rng, *, processes, kills, stops, seconds):
    """Disturb processes that take all they may, and return what the log shows of that time."""
    rps = swarm.limits["rpm"] // 60
    # Without a margin no request is charged again.
    slots = 1 << (swarm.limits["rpm"] + 1).bit_length()
    with swarm:
        # In even steps from the beginning, so that kills and stops meet admissions all the time.
        # Reservations are not: they wait for each other.
        spread = 0 if swarm.hold else int(rps)
        first = swarm.start(spread=spread)
        wait_until(lambda: len(first.taken()) > spread)
        for _ in range(processes - 1):
            swarm.start()
        wait_until(lambda: all(worker.taken() for worker in swarm.workers))
        log = LogReader(swarm.file, slots=slots)
        began = next_read = time.monotonic()
        step = seconds / (kills + stops)
        while sum(swarm.done.values()) < kills + stops:
            now = time.monotonic()
            swarm.go_on(now)
            if now >= began + sum(swarm.done.values()) * step:
                swarm.disturb(rng, kills=kills, stops=stops)
            if now >= next_read:
                log.read()
                next_read = now + 1.0
            time.sleep(0.002)
        swarm.go_on()
        # Whoever runs goes on taking.
        before = [len(worker.taken()) for worker in swarm.workers]
        wait_until(
            lambda: all(
                len(worker.taken()) > count
                for worker, count in zip(swarm.workers, before, strict=True)
            )
        )
        log.read()
    # All are dead by now, and the log is at rest.
    log.read()
    log.close()
    admissions, taken = log.admissions(), swarm.taken()
    lost = len(admissions) - len(taken)
    # Killed between the swap and the note of it, once a thread.
    assert 0 <= lost <= (kills + processes) * swarm.threads
    unwritten = sum(found.tokens for found in admissions) - sum(tokens for *_, tokens in taken)
    assert lost * min(swarm.sizes) <= unwritten <= lost * max(swarm.sizes)
    worst = {"60 s": worst_window(admissions, 60.0, "requests") / swarm.limits["rpm"]}
    if length := swarm.limits.get("sub_window"):
        worst[f"{length} s"] = worst_window(admissions, length, "requests") / (rps * length)
    return {
        **swarm.done,
        "admitted": len(admissions),
        "not written down": lost,
        "worst window": worst,
        "used": round(share_used(admissions, length or 60.0, rps * (length or 60), "requests"), 4),
    }
