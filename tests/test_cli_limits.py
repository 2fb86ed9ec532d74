"""`tollway limits`: shared limiters seen from a shell."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest

import commands
from tollway import Limits, RateLimiter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not offered there")


@pytest.fixture
def limiter(tmp_path, monkeypatch):
    monkeypatch.setenv("TOLLWAY_LIMITS_DIR", str(tmp_path / "limits"))
    held = RateLimiter(Limits(rpm=10, tpm=1_000, max_in_flight=4), shared="key-1", margin=0)
    held.try_acquire(250)
    return held


def test_the_list_names_what_is_shared_and_by_how_many(limiter):
    RateLimiter(Limits(rps=1), shared="other").close()
    code, out, err = commands.run("limits")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "key-1  1 limiter  rpm=10 tpm=1000 max_in_flight=4",
        "other  nobody  rps=1",
    ]


def test_one_that_cannot_be_read_hides_no_other(limiter, tmp_path):
    odd = tmp_path / "limits" / "odd"
    odd.write_bytes(b"not a limiter's " * 8192)
    odd.chmod(0o600)
    code, out, err = commands.run("limits")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "key-1  1 limiter  rpm=10 tpm=1000 max_in_flight=4"
    assert second.startswith("odd    ")
    code, out, err = commands.run("limits", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["key-1"]
    assert err.startswith("odd    ")


def test_a_look_shows_windows_and_who_takes_part(limiter):
    with limiter.reserve(tokens=100):
        code, out, err = commands.run("limits", "key-1")
    assert (code, err) == (0, "")
    assert re.search(r"rpm +60 s +2 +10 +8 +20.0% +now", out)
    assert re.search(r"tpm +60 s +350 +1,000 +650 +35.0% +now", out)
    assert "in flight 1 of 4  waiting in 0 of 1 limiters" in out
    assert re.search(rf"{os.getpid()} +1 +-", out)


def test_json_is_for_programs(limiter):
    code, out, _ = commands.run("limits", "key-1", "--json")
    seen = json.loads(out)
    assert code == 0
    assert seen["windows"][1]["name"] == "tpm"
    assert (seen["windows"][1]["used"], seen["windows"][1]["remaining"]) == (250, 750)
    assert [each["process"] for each in seen["participants"]] == [os.getpid()]
    code, out, _ = commands.run("limits", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["key-1"]


def test_what_is_not_there_is_said(limiter):
    code, out, err = commands.run("limits", "key-2")
    assert (code, out) == (1, "")
    assert "no shared limiter named 'key-2'" in err
    code, _, err = commands.run("limits", "--watch")
    assert code == 2
    assert "needs the name" in err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_watching_without_a_terminal_prints_lines_until_ctrl_c(limiter, options):
    with commands.start("limits", "key-1", "--watch", *options) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    if options:
        assert all(json.loads(line)["windows"][0]["used"] == 1 for line in lines)
    else:
        assert all(
            "rpm 1/10  tpm 250/1,000  in flight 0  waiting in 0 of 1" in line for line in lines
        )


def test_watching_in_a_terminal_shows_changes_and_leaves_it_clean(limiter):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tollway", "limits", "key-1", "--watch"],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        env=commands.environment(COLUMNS="100", LINES="30", TERM="xterm"),
    )
    os.close(theirs)
    shown = b""

    def show_until(text):
        nonlocal shown
        until = time.monotonic() + 30
        while text not in shown:
            assert time.monotonic() < until, shown
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65_536)

    show_until(b"25.0%")
    limiter.try_acquire(500)
    show_until(b"75.0%")
    process.send_signal(signal.SIGINT)
    # The cursor was hidden meanwhile.
    show_until(b"\x1b[?25h")
    assert process.wait(timeout=30) == 0
    assert b"Traceback" not in shown
    os.close(ours)
