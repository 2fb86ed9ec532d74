"""Waiting for what has no event of its own."""

from __future__ import annotations

import asyncio


async def until(condition):
    """Let the tasks run until it holds, which a slow machine only delays."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
