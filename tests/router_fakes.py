"""Deployments behind a router."""

from __future__ import annotations

import asyncio

from chat_fakes import NO_WAIT, FakeProvider, said
from tollway import LLM, Limits
from tollway.types import Chunk

END = Chunk(finish_reason="stop")
FREE = Limits(max_in_flight=1000)


class Deployment(FakeProvider):
    """A fake whose answers name it."""

    def __init__(self, name, *script, limits=FREE, **options):
        super().__init__(*(script or (said(name),)), model=name, **options)
        self.limits = limits


class Held(Deployment):
    """Answers when it is told to."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gate = asyncio.Event()

    async def complete(self, request):
        self.requests.append(request)
        await self.gate.wait()
        return said(self.model)


def of(*deployments, retry=NO_WAIT, **options):
    return LLM(list(deployments), retry=retry, **options)


def asked(*deployments):
    return [len(deployment.requests) for deployment in deployments]
