"""Runs in batches that are killed: each in a process forked from one that has imported everything.

As a program it reads orders, one JSON object a line, and answers each with how its process ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import httpx2

from tollway import LLM, BatchOptions, Embedder, RetryPolicy
from tollway.embed import embed_job_async
from tollway.errors import TollwayError

_WATCHED = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"})


class Runs:
    """The process that forks, from the side of the test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **order) -> bool:
        """Run an order to its end; whether it was killed on the way."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        ended = json.loads(self._process.stdout.readline())
        assert ended in {0, -signal.SIGKILL}, (ended, order)
        return ended != 0

    def close(self) -> None:
        self._process.communicate(timeout=30)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at_event(folder: str, number: int) -> None:
    """Die before the so-and-so-many-th change of a file in a folder."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _WATCHED and folder in str(arguments[0]):
            seen += 1
            if seen == number:
                _kill()

    sys.addaudithook(hook)


async def _map(order: dict) -> list[str]:
    def progress(now) -> None:
        if now.done == order.get("kill_at_answer"):
            _kill()

    async with (
        # Loading certificates takes longer than all the rest.
        httpx2.AsyncClient(verify=False) as client,
        LLM(
            order["model"],
            base_url=order["base_url"],
            api_key="k",
            http_client=client,
            headers={"x-pid": str(os.getpid())},
            retry=RetryPolicy(base_delay=0.01, max_delay=0.05),
        ) as llm,
    ):
        outcomes = await llm.map(
            order["texts"],
            mode="batch",
            checkpoint=order["output"],
            progress=progress,
            batch=BatchOptions(**order["options"]),
        )
    return [outcome.text for outcome in outcomes]


async def _embed(order: dict) -> None:
    def progress(now) -> None:
        if now.texts == order.get("kill_at_answer"):
            _kill()

    async with Embedder(
        order["model"],
        base_url=order["base_url"],
        api_key="k",
        dimensions=8,
        headers={"x-pid": str(os.getpid())},
        retry=RetryPolicy(base_delay=0.01, max_delay=0.05),
    ) as embedder:
        await embed_job_async(
            order["texts"],
            order["output"],
            embedder,
            mode="batch",
            batch=BatchOptions(**order["options"]),
            on_progress=progress,
        )


async def _warm() -> None:
    """Have everything imported that the first request of either SDK imports."""
    for model in ("openai/gpt-4o", "anthropic/claude-haiku-4-5"):
        client = httpx2.AsyncClient(verify=False)
        options = {"base_url": "http://127.0.0.1:9", "api_key": "k", "http_client": client}
        async with client, LLM(model, retry=RetryPolicy(max_retries=0), **options) as llm:
            with contextlib.suppress(TollwayError):
                await llm.map(["warm"], mode="batch")


def main() -> None:
    asyncio.run(_warm())
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            with contextlib.suppress(KeyError):
                _kill_at_event(order["folder"], order["kill_at_event"])
            if "embedding" in order["model"]:
                asyncio.run(_embed(order))
            else:
                answers = json.dumps(asyncio.run(_map(order)))
                pathlib.Path(order["result"]).write_text(answers, encoding="utf-8")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
