"""The life of a limiter: shared by its key, collected, across a fork, at the end of a process."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import time
import weakref

import pytest

from tollway.errors import ConfigurationError
from tollway.limiter import Limits, RateLimiter, shared_limiter


def run_script(script):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_shared_limiter_is_one_for_its_key():
    limits = Limits(rpm=7, tpm=70)
    first = shared_limiter(("test", 1), limits)
    assert shared_limiter(("test", 1), Limits(rpm=7, tpm=70)) is first
    assert shared_limiter(("test", 2), limits) is not first
    with pytest.raises(ConfigurationError, match="rpm=7"):
        shared_limiter(("test", 1), Limits(rpm=8))
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    # Nobody uses the key any more, so that it may take other limits.
    assert shared_limiter(("test", 1), Limits(rpm=8)).limits == Limits(rpm=8)


async def test_a_limiter_is_collected_after_use():
    limiter = RateLimiter(Limits(rpm=600_000, tpm=1_000, sub_window=0.01))
    await asyncio.gather(*(limiter.acquire() for _ in range(150)))
    limiter.acquire_sync(1_000)
    # The timer is to come back for this one in a minute.
    cancelled = asyncio.create_task(limiter.acquire(1))
    while limiter.due == float("inf"):  # noqa: ASYNC110 - nobody tells when it is due
        await asyncio.sleep(0.001)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    gone = weakref.ref(limiter)
    del limiter, cancelled
    # The timer's thread may be serving it at this moment.
    for _ in range(1_000):
        gc.collect()
        if gone() is None:
            break
        await asyncio.sleep(0.01)
    assert gone() is None


def test_who_was_admitted_in_a_loop_closed_before_it_was_told_gives_its_permit_back():
    limiter = RateLimiter(Limits(rpm=9, max_in_flight=1))
    first, loop = limiter.try_hold(), asyncio.new_event_loop()
    assert first is not None
    # Nobody is to hear that the task was destroyed while it waited.
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(limiter.hold())
    loop.run_until_complete(asyncio.sleep(0))
    first.release()
    deadline = time.monotonic() + 60
    while limiter.waiting and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (limiter.waiting, limiter.snapshot().in_flight) == (0, 1)
    loop.close()
    kept = weakref.ref(loop)
    del task, loop
    # The timer's thread may be at it at this moment.
    while (kept() is not None or limiter.snapshot().in_flight) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert kept() is None
    assert limiter.snapshot().in_flight == 0
    assert limiter.snapshot()["rpm"].used == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_starts_without_its_parents_waiters():
    done = run_script(
        """
        import asyncio, os, sys, threading, warnings
        from tollway.limiter import registry
        from tollway.limiter import Limits, RateLimiter, shared_limiter

        # From Python 3.12 on, forking beside threads is warned of: that is what is tested here.
        warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
        limiter = RateLimiter(Limits(rpm=600, sub_window=0.1), margin=0)
        other = RateLimiter(Limits(rps=1), margin=0)
        woken, left = [], []

        def in_thread():
            limiter.acquire_sync()
            woken.append("thread")

        def leave_behind(loop):
            loop.set_exception_handler(lambda *_: None)
            left.append(loop.create_task(other.acquire()))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        def in_child(tasks):
            try:
                futures = [task._fut_waiter for task in tasks + left]
                assert not any(future._log_traceback for future in futures)
                assert all("forked" in str(future.exception()) for future in futures)
                assert limiter.waiting == other.waiting == 0
                for _ in range(3):
                    limiter.acquire_sync()
                asyncio.set_event_loop(None)
                loop = threading.Thread(target=lambda: asyncio.run(limiter.acquire()))
                loop.start()
                loop.join()
                shared_limiter("key", Limits(rps=1)).acquire_sync()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)

        async def main():
            assert limiter.try_acquire() == other.try_acquire() == 0.0
            await asyncio.to_thread(leave_behind, asyncio.new_event_loop())
            waiting = [threading.Thread(target=in_thread) for _ in range(3)]
            for one in waiting:
                one.start()
            while limiter.waiting < 3:
                await asyncio.sleep(0)
            tasks = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
            tasks += [asyncio.create_task(other.acquire())]
            await asyncio.sleep(0)
            # Another thread may hold these at that moment.
            with limiter._lock, registry._shared_lock:
                pid = os.fork()
                if pid == 0:
                    in_child(tasks)
            await asyncio.gather(*tasks)
            for one in waiting:
                one.join()
            assert woken == ["thread"] * 3
            assert limiter.waiting == other.waiting == 0
            return os.waitpid(pid, 0)[1]

        status = asyncio.run(main())
        assert status == 0, status
        print("served")
        """
    )
    assert (done.stdout, done.stderr) == ("served\n", "")


def test_a_process_ends_at_once_and_silently_with_waiters():
    started = time.monotonic()
    done = run_script(
        """
        import asyncio, threading
        from tollway.limiter import Limits, RateLimiter, shared_limiter

        limiter = shared_limiter("key", Limits(tpm=10))
        limiter.acquire_sync(10)
        threading.Thread(target=limiter.acquire_sync, args=(5,), daemon=True).start()

        async def main():
            tasks = [asyncio.create_task(limiter.acquire(1)) for _ in range(100)]
            busy = RateLimiter(Limits(rpm=600_000, sub_window=0.01))
            for _ in range(300):
                await busy.acquire()
            assert limiter.waiting == 101

        asyncio.run(main())
        print(limiter.waiting)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    # A minute, if anybody were waited for.
    assert time.monotonic() - started < 50
