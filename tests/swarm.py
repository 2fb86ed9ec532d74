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
from pathlib import Path

import sharer


@dataclass
class Worker:
    """One process, and the file in which it writes down what it was given."""

    process: subprocess.Popen
    record: Path
    stopped_until: float | None = None

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
        worker.process.kill()
        # Whoever ended by himself failed.
        assert worker.process.wait(timeout=30) == -signal.SIGKILL

    def disturb(self, rng, *, kills, stops, longest_stop):
        """Kill one and start another in its place, or stop one for a while; at random."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.stopped_until is not None and worker.stopped_until <= now:
                worker.process.send_signal(signal.SIGCONT)
                worker.stopped_until = None
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

    def go_on(self):
        """Let everybody run."""
        for worker in self.workers:
            if worker.stopped_until is not None:
                worker.process.send_signal(signal.SIGCONT)
                worker.stopped_until = None

    def taken(self):
        """What all of them wrote down."""
        return [entry for worker in [*self.workers, *self.dead] for entry in worker.taken()]
