"""A chat provider that says what a test tells it to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import get_args

from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.errors import ProviderError
from tollway.providers import ChatCapabilities, ChatRules
from tollway.providers.base import ChatFeature, ChatParameter
from tollway.types import Chunk, Completion, Usage

EVERYTHING = ChatCapabilities(frozenset(get_args(ChatFeature)), frozenset(get_args(ChatParameter)))
NO_WAIT = RetryPolicy(max_retries=3, base_delay=0.0, max_delay=0.0)


def said(text="", **members):
    usage = Usage(7, 1, output_tokens=5)
    return Completion(text, **{"finish_reason": "stop", "usage": usage, **members})


class FakeProvider:
    """Answers each request with the next of `script`: a completion, chunks or an error."""

    name = "fake"
    limits = Limits()

    def __init__(self, *script, model="gpt-4o", capabilities=EVERYTHING, **rules):
        self.model = model
        self.capabilities = capabilities
        self.rules = ChatRules(model, **rules)
        self.script = list(script)
        self.requests = []
        self.opened = self.closed = 0

    @property
    def quota_key(self):
        return ("fake", id(self))

    async def open(self):
        self.opened += 1

    def _next(self, request):
        self.requests.append(request)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return step(request) if callable(step) else step

    async def complete(self, request):
        step = self._next(request)
        if isinstance(step, ProviderError):
            raise step
        return replace(step)

    async def stream(self, request):
        step = self._next(request)
        try:
            for chunk in step if isinstance(step, list) else [step]:
                if isinstance(chunk, Exception):
                    raise chunk
                yield Chunk(text=chunk) if isinstance(chunk, str) else chunk
        finally:
            self.closed += 1

    async def aclose(self):
        pass


def llm_of(*script, retry=NO_WAIT, **options):
    ours = {key: options.pop(key) for key in ("capabilities", "model") if key in options}
    rules = {
        key: options.pop(key)
        for key in ("price", "price_provider", "price_model", "charges_max_tokens", "refunds")
        if key in options
    }
    provider = FakeProvider(*script, **ours, **rules)
    return LLM(provider, **{"limits": RateLimiter(Limits()), "retry": retry, **options}), provider


class Submitted:
    """A progress callback that tells when the first batch is under way."""

    def __init__(self):
        self._event = asyncio.Event()

    def __call__(self, now):
        if now.batches is not None and now.batches.batches:
            self._event.set()

    async def wait(self):
        await self._event.wait()
