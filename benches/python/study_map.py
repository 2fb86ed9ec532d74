"""How much of a quota does `LLM.map` use, and how many 429s does it draw, and why?

The whole client runs in virtual time over a provider that takes the time which was measured: of
the client's core for a request on an open connection, and for one that opens a connection, in the
turns of the event loop that this takes; of the server's core for each request. The server judges
by the simulator's enforcement, at the time when it reads a request.

*At once* is the same with all workers started in one turn of the loop. Its first requests come late
by the time that it takes to open all their connections, the next ones do not.

Run: `python benches/python/study_map.py`
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from dataclasses import dataclass, replace
from typing import get_args

import virtual_time
from tollway import LLM, Limits, RateLimiter
from tollway.chat import map as mapping
from tollway.errors import RateLimitError
from tollway.limiter import limiter as limiting
from tollway.limiter import permit as permits
from tollway.limiter.feedback import OPENAI_FEEDBACK
from tollway.limiter.waiting import Timer
from tollway.providers import ChatCapabilities, ChatRules
from tollway.providers.base import ChatFeature, ChatParameter
from tollway.simulator.enforcement import Enforcement
from tollway.types import Completion, Usage

# Seconds of the client's core to send on an open connection, to open one besides, and to read an
# answer; turns of the loop in which one is opened; seconds of the server's core for a request.
SEND, OPEN, READ = 400e-6, 800e-6, 300e-6
TURNS = 9
SERVE = 500e-6

TIMED = {"try_acquire", "enqueue", "poll", "settle", "sent", "pause", "set_day", "state", "used"}


@dataclass(frozen=True)
class Case:
    """What is sent under which limits; the speed of both machines beside the one measured on."""

    name: str
    rpm: int = 10_000
    window: float = 1.0
    prompts: int = 20_000
    concurrency: int = 500
    latency: float = 0.0
    slow: float = 1.0
    hiccup: float = 0.0


CASES = [
    Case("10,000 a minute, judged by 1 s"),
    Case("  by 10 s", window=10.0),
    Case("  an answer takes 1 s", latency=1.0),
    Case("  on cores of half the speed", slow=2.0),
    Case("  stopped for 10 ms each second", hiccup=0.01),
    Case("  stopped for 50 ms each second", hiccup=0.05),
    Case("1,000 a minute, judged by 1 s", rpm=1_000, prompts=1_500),
    Case("  by 10 s", rpm=1_000, prompts=1_500, window=10.0),
    Case("  25 at once, an answer takes 1 s", rpm=1_000, prompts=1_500, concurrency=25, latency=1),
]


class Core:
    """A limiter's core on the virtual clock."""

    def __init__(self, core):
        self._core = core

    def __getattr__(self, name):
        method = getattr(self._core, name)
        return functools.partial(method, now=virtual_time.now()) if name in TIMED else method


class LoopTimer(Timer):
    """The limiters' timer, in the event loop instead of a thread."""

    def __init__(self):
        super().__init__()
        self._handle = None

    def call(self, limiter):
        if not limiter.is_called:
            limiter.is_called = True
            asyncio.get_running_loop().call_soon(self._turn, limiter)

    def _turn(self, limiter):
        limiter.is_called = False
        wait = limiter.serve()
        if self._handle is not None:
            self._handle.cancel()
        if wait is not None:
            self._handle = asyncio.get_running_loop().call_later(wait, self._turn, limiter)


class Provider:
    """A server, the connections to it, and the time that both take."""

    name, model = "openai", "gpt-4o"
    capabilities = ChatCapabilities(
        frozenset(get_args(ChatFeature)), frozenset(get_args(ChatParameter))
    )
    rules = ChatRules("gpt-4o", feedback=OPENAI_FEEDBACK)
    limits = Limits()

    def __init__(self, case):
        self.case = case
        self.server = Enforcement(rpm=case.rpm, sub_window=case.window)
        self.free_at = 0.0
        self.idle = 0
        self.next_hiccup = 0.5
        self.arrivals = []
        self.refused = 0

    @property
    def quota_key(self):
        return ("study", id(self))

    async def open(self):
        pass

    async def aclose(self):
        pass

    def work(self, seconds):
        """Take the client's core."""
        case = self.case
        seconds *= case.slow
        if case.hiccup and virtual_time.now() >= self.next_hiccup:
            self.next_hiccup = virtual_time.now() + 1.0
            seconds += case.hiccup
        virtual_time.take(seconds)

    async def complete(self, request):
        del request
        if self.idle:
            self.idle -= 1
        else:
            for _ in range(TURNS):
                self.work(OPEN / TURNS)
                await asyncio.sleep(0)
        self.work(SEND)
        arrival = max(self.free_at, virtual_time.now())
        self.free_at = arrival + SERVE * self.case.slow
        self.arrivals.append(arrival)
        denial = self.server.admit(arrival, 0)
        standing = self.server.standing(arrival)["requests"]
        pause = 0.0 if denial else self.case.latency
        await asyncio.sleep(self.free_at + pause - virtual_time.now())
        self.work(READ)
        self.idle += 1
        headers = {
            "x-ratelimit-limit-requests": str(standing.limit),
            "x-ratelimit-remaining-requests": str(standing.remaining),
            "x-ratelimit-reset-requests": f"{standing.reset}s",
        }
        if denial is None:
            return Completion("yes", "stop", usage=Usage(10, 1, output_tokens=1), headers=headers)
        self.refused += 1
        error = RateLimitError("429", status=429, retry_after=denial.retry_after)
        said = OPENAI_FEEDBACK.read(429, headers, b'"type": "requests"', now=0.0)
        error.feedback = replace(said, retry_after=denial.retry_after)
        raise error


async def play(case):
    """Return the share used and the requests refused."""
    provider = Provider(case)
    limits = Limits(rpm=case.rpm, sub_window=case.window, max_in_flight=case.concurrency)
    llm = LLM(provider, limits=RateLimiter(limits))
    prompts = [f"prompt {i}" for i in range(case.prompts)]
    outcomes = await llm.map(prompts, concurrency=case.concurrency)
    assert all(outcome.ok for outcome in outcomes)
    arrivals = provider.arrivals
    rate = (len(arrivals) - provider.refused - 1) / (arrivals[-1] - arrivals[0])
    return rate * 60 / case.rpm, provider.refused


async def at_once(_):
    pass


def main():
    random.seed(7)
    logging.disable(logging.WARNING)
    timer = LoopTimer()
    limiting.timer = permits.timer = lambda: timer
    open_core = limiting.open_core
    limiting.open_core = lambda *given: Core(open_core(*given))
    turn = mapping.Starts.turn
    for case in CASES:
        shown = []
        for name, own in (("apart", turn), ("at once", at_once)):
            mapping.Starts.turn = own
            used, refused = virtual_time.run(play(case))
            shown.append(f"{name}: {used:6.2%} used, {refused:3} refused")
        print(f"{case.name:34} {'   '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
