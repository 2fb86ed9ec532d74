"""SIGKILL at any moment, Ctrl-C and SIGTERM: every row right, at most what was in flight twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import commands
from kills import Course, Kill, Run, check_ledger, kill_until_done, paid_twice
from passing import arrivals
from tollway.simulator import Ledger, Record, Simulator, digest, vector

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

D = 1536


def write_lines(path, count, prefix="text"):
    texts = [f"{prefix} {i} of a job that is killed" for i in range(count)]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return texts


def assert_right(output, texts, dimensions=D):
    vectors = np.load(output)
    assert vectors.dtype == np.float32
    expected = np.stack([vector(text, dimensions) for text in texts])
    assert vectors.tobytes() == expected.tobytes()


def arguments(sim, docs, output, *more):
    return [
        docs,
        output,
        *("--model", commands.SMALL, "--base-url", sim.base_url, "--split", "line"),
        *("--batch-size", 8, "--max-in-flight", 4),
        *more,
    ]


def asked(records):
    return {text for record in records for text in record.digests}


def test_ten_kills_at_random_moments_lose_nothing(tmp_path):
    rng = random.Random(20_261_121)
    docs, output = tmp_path / "docs.txt", tmp_path / "vectors.npy"
    texts = write_lines(docs, 480)
    # A run that comes to writing has sent everything.
    plan = [*rng.sample(["start"] * 2 + ["sending"] * 5, 7), *["writing"] * 3]
    with Simulator(latency=0.05) as sim:
        course = kill_until_done(
            sim,
            lambda: commands.start("embed", *arguments(sim, docs, output)),
            map(Kill, plan),
            rng,
            temporary=tmp_path / ".vectors.npy.tmp",
        )
        assert_right(output, texts)
        assert course.kills >= 8
        # Those that came while requests were in flight cost something, or they proved nothing.
        assert max(sim.ledger.answered_counts().values()) > 1
        check_ledger(sim.ledger, course, in_flight=4, batch=8)
        assert set(sim.ledger.answered_counts()) == {digest(text) for text in texts}
    index = map(json.loads, (tmp_path / "vectors.index.jsonl").read_text().splitlines())
    assert [line["id"] for line in index] == [f"docs.txt#{i + 1}" for i in range(480)]
    # What the killed runs had begun to write is gone or written over.
    assert not list(tmp_path.glob(".*"))


def record(arrival, *texts, fault=None):
    packed = b"".join(map(bytes.fromhex, map(digest, texts)))
    status = None if fault == "disconnect" else 200
    return Record(arrival, status, fault, True, len(texts), len(texts), packed, "req")


def test_what_the_ledger_shows_of_a_course():
    """One request more, twice, than was in flight at a kill is noticed, and so is one after it."""
    course = Course([Run(0.0, killed=True), Run(10.0, killed=False)])
    bounds = {"in_flight": 1, "batch": 2}
    spoilt = [record(1.0, "a", "b", fault="disconnect"), record(2.0, "a", "b", fault="nan_row")]
    fine = [*spoilt, record(3.0, "a"), record(4.0, "c", "d"), record(11.0, "c", "d")]
    assert paid_twice(Ledger(fine)) == 2
    check_ledger(Ledger(fine), course, **bounds)
    for more in (
        [record(5.0, "e"), record(12.0, "e")],  # another request of the run that was killed
        [record(12.0, "e"), record(13.0, "e")],  # the last run asks twice by itself
    ):
        with pytest.raises(AssertionError):
            check_ledger(Ledger([*fine, *more]), course, **bounds)
    # A row that an answer with a fault brought is paid for as well.
    again = [*fine, record(14.0, "f", "g", fault="null_row"), record(15.0, "f", "g")]
    assert paid_twice(Ledger(again)) == 3


def test_rows_of_the_local_model_across_a_kill(tmp_path):
    docs, whole, killed = (tmp_path / name for name in ("docs.txt", "whole.npy", "killed.npy"))
    write_lines(docs, 160, "a sentence with some words in it, number")
    assert commands.run("embed", docs, whole, "--split", "line")[0] == 0
    with commands.start("embed", docs, killed, "--split", "line", "--batch-size", 8) as process:
        spool = tmp_path / "killed.npy.job" / "rows.sqlite-wal"
        while not (spool.exists() and spool.stat().st_size > 40_000):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        process.communicate()
    code, out, err = commands.run("embed", docs, killed, "--split", "line", "--json")
    assert code == 0, err
    assert 0 < json.loads(out)["reused"] < 160
    assert np.abs(np.load(whole) - np.load(killed)).max() <= 1e-6


def interrupted(tmp_path, sim, number, *, docs, output, after):
    """Send a signal once `after` requests were answered: exit code, stderr, seconds to the end."""
    before = len(sim.ledger)
    with commands.start("embed", *arguments(sim, docs, output)) as process:
        while len(sim.ledger) - before < after:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(number)
        sent = time.monotonic()
        _, err = process.communicate(timeout=30)
        seconds = time.monotonic() - sent
    return process.returncode, err, seconds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_ends_within_a_second_and_says_how_to_go_on(tmp_path, number):
    docs, output = tmp_path / "docs.txt", tmp_path / "vectors.npy"
    texts = write_lines(docs, 800)
    with Simulator(latency=0.05) as sim:
        code, err, seconds = interrupted(tmp_path, sim, number, docs=docs, output=output, after=40)
        assert code == 130
        assert seconds < commands.a_second()
        assert "Traceback" not in err
        assert "every finished row is kept" in err
        assert "Run the same command again" in err
        first = list(sim.ledger)
        code, out, err = commands.run("embed", *arguments(sim, docs, output, "--json"))
        assert code == 0, err
        second = sim.ledger[len(first) :]
    assert_right(output, texts)
    report = json.loads(out)
    # Only what was in flight is sent again.
    again = asked(second) & asked(first)
    assert len(again) <= 4 * 8
    assert report["reused"] == 800 - len(asked(second)) >= (40 - 4) * 8


def test_an_impatient_ctrl_c_ends_as_the_first_one_does(tmp_path):
    docs, output = tmp_path / "docs.txt", tmp_path / "vectors.npy"
    write_lines(docs, 400)
    with (
        Simulator(latency=0.2) as sim,
        commands.start("embed", *arguments(sim, docs, output)) as process,
    ):
        while len(sim.ledger) < 8:
            assert process.poll() is None
            time.sleep(0.001)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.003)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.count("\n") == 1
    assert "every finished row is kept" in err


def test_ctrl_c_while_the_provider_does_not_answer(tmp_path):
    docs, output = tmp_path / "docs.txt", tmp_path / "vectors.npy"
    write_lines(docs, 40)
    with (
        Simulator(latency=30) as sim,
        commands.start("embed", *arguments(sim, docs, output)) as process,
    ):
        seen = arrivals(sim)
        while len(seen) < 4:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, err = process.communicate(timeout=30)
        seconds = time.monotonic() - sent
    assert seconds < commands.a_second()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(sim.ledger) == 4


def is_open(process, path):
    """Whether a process has a file open; where that cannot be seen, after a while."""
    folder = Path(f"/proc/{process.pid}/fd")
    if not folder.exists():
        time.sleep(2.0)
        return True
    try:
        return any(os.path.realpath(each) == str(path) for each in folder.iterdir())
    except FileNotFoundError:  # it has just closed one
        return False


@pytest.mark.parametrize("stage", ["reading", "reusing", "writing"])
def test_ctrl_c_where_nothing_is_sent(tmp_path, stage):
    """A long input is counted, skipped over and written without an answer to wait for."""
    docs, output = tmp_path / "docs.txt", tmp_path / "vectors.npy"
    write_lines(docs, 10)
    with Simulator() as sim:
        command = arguments(sim, docs, output)
        assert commands.run("embed", *command)[0] == 0
        requests = len(sim.ledger)
        # The same ten texts, for a long time; the output would be of 18 GB.
        docs.write_text(docs.read_text(encoding="utf-8") * 300_000, encoding="utf-8")
        temporary = tmp_path / (
            ".vectors.npy.tmp" if stage == "writing" else ".vectors.npy.index.tmp"
        )
        if stage == "writing":
            docs.write_text("\n".join(docs.read_text(encoding="utf-8").splitlines()[:100_000]))
        with commands.start("embed", *command) as process:
            while stage == "reading" and not is_open(process, docs):
                assert process.poll() is None
                time.sleep(0.001)
            while stage != "reading" and not (
                temporary.exists() and temporary.stat().st_size > 1 << 20
            ):
                assert process.poll() is None
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
            _, err = process.communicate(timeout=60)
            seconds = time.monotonic() - sent
        assert len(sim.ledger) == requests
    assert process.returncode == 130, err
    assert seconds < commands.a_second()
    assert np.load(output).shape == (10, D)
    assert not list(tmp_path.glob(".*"))


def test_order_and_additions_cost_only_what_is_new(tmp_path):
    docs, output = tmp_path / "docs.txt", tmp_path / "vectors.npy"
    texts = write_lines(docs, 100)
    with Simulator() as sim:
        assert commands.run("embed", *arguments(sim, docs, output))[0] == 0
        before = len(sim.ledger)
        random.Random(5).shuffle(texts)
        texts = [*texts[:50], "added first", *texts[50:], "added last", texts[0]]
        docs.write_text("\n".join(texts), encoding="utf-8")
        code, out, _ = commands.run("embed", *arguments(sim, docs, output, "--json"))
        assert code == 0
        assert asked(sim.ledger[before:]) == {digest("added first"), digest("added last")}
        report = json.loads(out)
        assert (report["texts"], report["distinct"], report["reused"]) == (103, 102, 100)
    assert_right(output, texts)
