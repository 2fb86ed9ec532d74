"""One quota for several processes, whatever becomes of them."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading

import pytest

from swarm import Swarm, course_of, wait_until
from tollway import Limits, RateLimiter, _core
from tollway.errors import ConfigurationError, DeadlineExceededError
from tollway.limiter import list_shared_limiters, look_at_shared_limiter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not offered there")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory of limiters for this test alone."""
    monkeypatch.setenv("TOLLWAY_LIMITS_DIR", str(tmp_path / "limits"))
    return tmp_path / "limits"


def shared(name="key-1", margin=0, **limits):
    return RateLimiter(Limits(**limits), shared=name, margin=margin)


def in_child(act):
    """Run `act` in a forked child; return what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, repr(act()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return said


def test_all_who_name_it_take_from_one_quota():
    one, two, other = shared(rps=3), shared(rps=3), shared("key-2", rps=3)
    assert [one.try_acquire(), two.try_acquire(), one.try_acquire()] == [0.0, 0.0, 0.0]
    assert one.try_acquire() > 0.0
    assert two.try_acquire() > 0.0
    assert other.try_acquire() == 0.0
    assert two.snapshot()["rps"].used == 3


def test_another_process_takes_from_the_same_quota():
    limiter = shared(rpm=3)
    program = (
        "import tollway\n"
        "limiter = tollway.RateLimiter(tollway.Limits(rpm=3), shared='key-1', margin=0)\n"
        "print(limiter.try_acquire(), limiter.try_acquire())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout == "0.0 0.0\n"
    assert limiter.try_acquire() == 0.0
    assert limiter.try_acquire() > 0.0


def test_what_was_used_outlives_every_holder():
    shared(rpm=2).try_acquire()
    gc.collect()
    limiter = shared(rpm=2)
    assert limiter.snapshot()["rpm"].used == 1


def test_other_limits_are_refused_while_it_is_held():
    holder = shared(rpm=5, sub_window=(1.0, 10.0), time_zone="Europe/Berlin", rpd=10)
    with pytest.raises(ConfigurationError) as caught:
        shared(rpm=6)
    said = str(caught.value)
    assert "rpm=5" in said
    assert "Europe/Berlin" in said
    assert "rpm=6" in said
    with pytest.raises(ConfigurationError, match=re.escape("margin=0.5")):
        shared(margin=0.5, rpm=5, sub_window=(1.0, 10.0), time_zone="Europe/Berlin", rpd=10)
    assert look_at_shared_limiter("key-1").limits == holder.limits
    holder.close()
    changed = shared(rpm=6)
    # Nothing is known of what was sent before.
    assert 59 < changed.try_acquire() <= 60
    assert look_at_shared_limiter("key-1").limits == Limits(rpm=6)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "redis://host", "x" * 65])
def test_names_that_are_none(name):
    with pytest.raises(ConfigurationError, match="cannot name a shared limiter"):
        shared(name, rpm=5)


def test_the_file_is_the_users_alone(folder):
    shared(rpm=5)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key-1").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["key-1"]
    (folder / "key-1").chmod(0o644)
    with pytest.raises(ConfigurationError, match="others may read or write it"):
        shared(rpm=5)
    (folder / "key-1").rename(folder / "aside")
    (folder / "key-1").symlink_to(folder / "aside")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        shared(rpm=5)
    folder.chmod(0o755)
    with pytest.raises(ConfigurationError, match="mode 0700"):
        shared("key-2", rpm=5)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users")
def test_another_users_file_and_directory_are_refused(folder, tmp_path):
    shared(rpm=5)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)

    def as_another():
        os.setuid(65_534)
        try:
            shared("key-2", rpm=5)
        except ConfigurationError as error:
            return str(error)

    assert "mode 0700" in in_child(as_another) or "Permission denied" in in_child(as_another)
    os.chown(folder / "key-1", 65_534, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        shared(rpm=5)


def test_the_runtime_directory_is_used_if_it_is_private(tmp_path, monkeypatch):
    monkeypatch.delenv("TOLLWAY_LIMITS_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o755)
    shared(rpm=5)
    assert (tmp_path / f"tollway-{os.geteuid()}" / "key-1").exists()
    (tmp_path / "run").chmod(0o700)
    shared(rpm=5)
    assert (tmp_path / "run" / "tollway" / "key-1").exists()


def test_a_forked_child_goes_on_as_one_of_its_own():
    limiter = shared(rpm=10, max_in_flight=2)
    with limiter.reserve() as permit:
        permit.sent()

        def act():
            # Its copy of the permit is the parent's: it gives nothing back.
            permit.settle({"input_tokens": 0})
            permit.release()
            with limiter.reserve():
                look = look_at_shared_limiter("key-1")
                return [
                    (other.process == os.getpid(), other.in_flight) for other in look.participants
                ]

        assert in_child(act) == repr([(False, 1), (True, 1)])
        # What the child held went with it.
        with limiter.reserve():
            assert limiter.snapshot().in_flight == 2
    assert limiter.snapshot()["rpm"].used == 3
    assert limiter.snapshot().in_flight == 0


def test_a_fork_keeps_nobodys_place_alive():
    limiter = shared(rpm=10)
    started, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(started[1], b"x")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(started[0], 1)
    # The child lives, and never used the limiter.
    assert len(look_at_shared_limiter("key-1").participants) == 1
    limiter.close()
    assert look_at_shared_limiter("key-1").participants == ()
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)


def test_a_permit_of_the_parent_that_a_child_cancels_takes_no_place_there():
    limiter = shared(rpm=10)
    permit = limiter.try_hold()

    def act():
        permit.cancel()
        permit.release()
        return limiter.waiting, len(look_at_shared_limiter("key-1").participants)

    assert in_child(act) == repr((0, 1))
    assert limiter.snapshot()["rpm"].used == 1


def test_reservations_of_the_dead_come_back_and_those_of_the_stopped_stand(tmp_path):
    limits = {"rpm": 100, "max_in_flight": 2}
    with Swarm(tmp_path, "key-1", limits, sizes=[1], hold=3600.0, threads=2) as swarm:
        worker = swarm.start()
        wait_until(lambda: len(worker.taken()) == 2)
        worker.process.send_signal(signal.SIGSTOP)
        limiter = shared(**limits)
        with pytest.raises(DeadlineExceededError), limiter.reserve(timeout=0.3):
            pass
        assert look_at_shared_limiter("key-1").participants[0].in_flight == 2
    # It is dead by now.
    with limiter.reserve(timeout=30), limiter.reserve(timeout=30):
        assert limiter.snapshot().in_flight == 2


def test_closing_refuses_those_who_wait_and_whoever_comes():
    limiter = shared(rpm=1)
    limiter.try_acquire()
    failures = []

    def wait():
        try:
            limiter.acquire_sync()
        except RuntimeError as error:
            failures.append(str(error))

    async def wait_in_loop():
        with pytest.raises(RuntimeError, match="closed"):
            await limiter.acquire()

    threads = [
        threading.Thread(target=wait),
        threading.Thread(target=lambda: asyncio.run(wait_in_loop())),
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: limiter.waiting == 2)
    limiter.close()
    limiter.close()
    for thread in threads:
        thread.join()
    assert failures == ["the limiter was closed"]
    with pytest.raises(RuntimeError, match="closed"):
        limiter.try_acquire()
    assert repr(limiter) == "<RateLimiter rpm=1 shared as 'key-1', closed>"
    assert look_at_shared_limiter("key-1").participants == ()


def test_a_look_takes_no_part():
    assert look_at_shared_limiter("key-1") is None
    assert list_shared_limiters() == []
    limiter = shared(rpm=2, max_in_flight=4)
    assert repr(limiter) == "<RateLimiter rpm=2 max_in_flight=4 shared as 'key-1', 0 waiting>"
    limiter.try_acquire()
    look = look_at_shared_limiter("key-1")
    assert (look.limits, look.margin) == (limiter.limits, 0)
    assert look.snapshot["rpm"].remaining == 1
    assert [other.process for other in look.participants] == [os.getpid()]
    assert list_shared_limiters() == ["key-1"]
    del limiter
    gc.collect()
    assert look_at_shared_limiter("key-1").participants == ()
    assert look_at_shared_limiter("key-1").snapshot["rpm"].used == 1


def test_a_big_request_waits_two_windows_at_the_most_against_greedy_processes():
    """In virtual time: three always want 100 tokens more, one wants a fifth of the quota."""

    def core():
        return _core.Limiter(tpm=60_000, margin=0.0, shared=("key-1", "tpm=60000"))

    cores, sizes = [core() for _ in range(4)], [100, 100, 100, 12_000]
    now, due, asked, waits = 100.0, [100.0] * 4, [None] * 4, []
    tickets = [None] * 4
    while now < 100.0 + 10 * 60.0:
        for i, (limiter, size) in enumerate(zip(cores, sizes, strict=True)):
            if due[i] > now:
                continue
            if tickets[i] is not None:
                admitted, _, wait = limiter.poll(1, now=now)
                if not admitted:
                    due[i] = now + wait
                    continue
                if i == 3:
                    waits.append(now - asked[i])
            asked[i] = now
            tickets[i], *_ = limiter.enqueue(size, now=now)
            while tickets[i] is None and i < 3:
                tickets[i], *_ = limiter.enqueue(size, now=now)
            due[i] = now if tickets[i] is not None else now + 1.0
        now = max(min(due), now + 0.001)
    assert len(waits) >= 5
    assert max(waits) <= 120.0


def test_processes_that_are_killed_and_stopped_neither_exceed_the_quota_nor_waste_it(tmp_path):
    swarm = Swarm(tmp_path, "swarm", {"rpm": 30_000, "sub_window": 1.0}, sizes=[1, 10, 100])
    seen = course_of(swarm, random.Random(7), processes=3, kills=6, stops=6, seconds=3.0)
    assert max(seen["worst window"].values()) <= 1.0
    assert seen["kill"] == seen["stop"] == 6


def test_reservations_of_processes_that_are_killed_are_never_too_many_and_all_come_back(tmp_path):
    limits = {"rpm": 30_000, "max_in_flight": 4}
    swarm = Swarm(tmp_path, "swarm", limits, sizes=[1], hold=0.02, threads=2)
    course_of(swarm, random.Random(7), processes=3, kills=6, stops=6, seconds=3.0)
    assert swarm.most_under_way() <= 4
    with swarm:
        last = swarm.start(hold=60.0, threads=4)
        wait_until(lambda: len(last.taken()) == 4)
