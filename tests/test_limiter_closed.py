"""What becomes of those who wait when the limiter is closed, or the process forks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time

import pytest

from tollway.limiter import Limits, RateLimiter

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run_script(script, **environment):
    """Run a script; from Python 3.12 on, forking beside threads is warned of, and meant here."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    return done.stdout, done.stderr


def spent(**limits):
    limiter = RateLimiter(Limits(rpm=1, **limits))
    assert limiter.try_acquire() == 0.0
    return limiter


async def test_one_who_is_cancelled_as_the_limiter_is_closed_is_cancelled():
    limiter = spent()
    task = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    assert limiter.waiting == 1
    limiter.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_who_is_admitted_as_the_limiter_is_closed_ends_its_reservation():
    limiter = RateLimiter(Limits(rpm=9, max_in_flight=1))
    first = await limiter.hold()
    core = first._core
    task = asyncio.create_task(limiter.hold())
    await asyncio.sleep(0)
    first.release()
    # The timer's thread admits; this loop is not told before the limiter is closed.
    while core.waiting:
        time.sleep(0.001)  # noqa: ASYNC251
    limiter.close()
    second = await task
    second.sent()
    second.settle({"input_tokens": 0})
    second.release()


@FORKS
def test_a_closed_limiter_keeps_no_other_from_its_fork():
    """The hook of a fork sees to all of them in turn, in an order that nobody knows."""
    script = """
    import asyncio, os
    from tollway.limiter import Limits, RateLimiter

    limiters = [RateLimiter(Limits(rpm=1)) for _ in range(6)]

    async def main():
        for limiter in limiters[::2]:
            limiter.close()
        for limiter in limiters[1::2]:
            assert limiter.try_acquire() == 0.0
        tasks = [asyncio.create_task(limiter.acquire()) for limiter in limiters[1::2]]
        await asyncio.sleep(0)
        if (child := os.fork()) == 0:
            print([limiter.waiting for limiter in limiters], flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print([limiter.waiting for limiter in limiters])
        for task in tasks:
            task.cancel()

    asyncio.run(main())
    """
    assert run_script(script) == ("[0, 0, 0, 0, 0, 0]\n[0, 1, 0, 1, 0, 1]\n", "")


@FORKS
@pytest.mark.parametrize("name", [None, "forked"])
def test_a_parents_waiter_that_is_collected_in_a_child_takes_nobodys_place_there(tmp_path, name):
    script = f"""
    import asyncio, os
    from tollway.limiter import Limits, RateLimiter

    limiter = RateLimiter(Limits(rpm=1), shared={name!r})
    assert limiter.try_acquire() == 0.0
    left = limiter.acquire()
    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    left.send(None)
    asyncio._set_running_loop(None)

    async def in_child():
        task = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        assert limiter.waiting == 1
        left.close()
        print("child", limiter.waiting, flush=True)
        task.cancel()

    if (child := os.fork()) == 0:
        asyncio.run(in_child())
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", limiter.waiting)
    left.close()
    print("parent", limiter.waiting)
    loop.close()
    """
    said = run_script(script, TOLLWAY_LIMITS_DIR=str(tmp_path / "limits"))
    assert said == ("child 1\nparent 1\nparent 0\n", "")


@FORKS
def test_a_forked_child_of_a_shared_limiter_learns_the_day_when_it_first_uses_it(tmp_path):
    script = """
    import os, threading
    from tollway.limiter import Limits, RateLimiter

    limiter = RateLimiter(Limits(rpd=1, time_zone="Asia/Kathmandu"), shared="days")
    assert limiter.try_acquire() == 0.0
    if (child := os.fork()) == 0:
        # One that goes on to run another program takes no place, and needs no thread.
        print([thread.name for thread in threading.enumerate()], flush=True)
        print(0 < limiter.try_acquire() <= 86_460, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    """
    said = run_script(script, TOLLWAY_LIMITS_DIR=str(tmp_path / "limits"))
    assert said == ("['MainThread']\nTrue\n", "")
