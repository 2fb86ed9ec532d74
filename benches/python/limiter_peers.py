"""The limiters that others use, each with one call: wait until a request of so many tokens may go.

A peer without limits on tokens is asked for the request alone, as its users have to. Where a peer
can only tell when to ask again, the loop around it is the one that its documentation shows.
"""

from __future__ import annotations

import asyncio
import time


def aiolimiter(rpm, tpm, rpd=None):
    from aiolimiter import AsyncLimiter

    requests = [AsyncLimiter(rpm, 60)]
    if rpd is not None:
        requests.append(AsyncLimiter(rpd, 86_400))
    tokens = AsyncLimiter(tpm, 60)

    async def acquire(n):
        for limiter in requests:
            await limiter.acquire()
        await tokens.acquire(n)

    return acquire


def _limits(strategy):
    def make(rpm, tpm, rpd=None):
        import limits
        from limits import storage, strategies

        # Its asyncio twin does its housekeeping in threads, which virtual time cannot wait for; the
        # decisions are the same.
        limiter = getattr(strategies, strategy)(storage.MemoryStorage())
        rates = [
            (limits.RateLimitItemPerMinute(rpm), "requests"),
            (limits.RateLimitItemPerMinute(tpm), "tokens"),
        ]
        if rpd is not None:
            rates.append((limits.RateLimitItemPerDay(rpd), "requests"))

        async def acquire(n):
            costs = {"requests": 1, "tokens": n}
            while True:
                for rate, what in rates:
                    if not limiter.test(rate, what, cost=costs[what]):
                        reset, _ = limiter.get_window_stats(rate, what)
                        await asyncio.sleep(max(0.1, reset - time.time()))
                        break
                else:
                    for rate, what in rates:
                        limiter.hit(rate, what, cost=costs[what])
                    return

        return acquire

    return make


def pyrate_limiter(rpm, tpm, rpd=None):
    from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate

    rates = [Rate(rpm, Duration.MINUTE)]
    if rpd is not None:
        rates.append(Rate(rpd, Duration.DAY))
    requests = Limiter(InMemoryBucket(rates))
    tokens = Limiter(InMemoryBucket([Rate(tpm, Duration.MINUTE)]))

    async def acquire(n):
        await requests.try_acquire_async("requests", 1)
        await tokens.try_acquire_async("tokens", n)

    return acquire


def _throttled(algorithm):
    def make(rpm, tpm, rpd=None):
        from throttled.asyncio import MemoryStore, Throttled, per_day, per_min

        def limiter(quota):
            return Throttled(using=algorithm, quota=quota, store=MemoryStore(), timeout=1e9)

        requests = [limiter(per_min(rpm))]
        if rpd is not None:
            requests.append(limiter(per_day(rpd)))
        tokens = limiter(per_min(tpm))

        async def acquire(n):
            for throttle in requests:
                await throttle.limit("requests", cost=1)
            await tokens.limit("tokens", cost=n)

        return acquire

    return make


def langchain(rpm, tpm, rpd=None):
    from langchain_core.rate_limiters import InMemoryRateLimiter

    # Requests only, and by the second.
    limiter = InMemoryRateLimiter(requests_per_second=rpm / 60, max_bucket_size=max(1, rpm / 60))

    async def acquire(n):
        await limiter.aacquire()

    return acquire


PEERS = {
    "aiolimiter": aiolimiter,
    "limits, moving window": _limits("MovingWindowRateLimiter"),
    "limits, sliding counter": _limits("SlidingWindowCounterRateLimiter"),
    "pyrate-limiter": pyrate_limiter,
    "throttled-py, token bucket": _throttled("token_bucket"),
    "throttled-py, GCRA": _throttled("gcra"),
    "LangChain": langchain,
}
