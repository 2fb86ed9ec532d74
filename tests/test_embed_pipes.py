"""What a job reads once: standard input and pipes, of the shell or with a name."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import commands
from tollway import Embedder, embed_job
from tollway.embed import embed_job_async
from tollway.errors import InputError
from tollway.simulator import Simulator, vector

MODEL = "openai/text-embedding-3-small"


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


@pytest.fixture
def output(tmp_path):
    return tmp_path / "vectors.npy"


def embedder_of(sim):
    return Embedder(MODEL, base_url=sim.base_url, api_key="any", dimensions=8)


def job(sim, output, **given):
    embedder = embedder_of(sim)
    try:
        return embed_job("-", output, embedder, **given)
    finally:
        embedder.aclose_sync()


def right(texts):
    return np.stack([vector(text, 8) for text in texts])


def index_of(output):
    lines = output.with_name("vectors.index.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Standard:
    def __init__(self, data):
        self.buffer = io.BytesIO(data)


@pytest.mark.parametrize(
    ("data", "given", "ids", "texts"),
    [
        (b'{"id": "a", "text": "one"}\n{"text": "two"}\n', {}, ["a", "stdin#2"], ["one", "two"]),
        (b"one\ntwo\n", {}, ["stdin"], ["one\ntwo\n"]),
        (b"one\ntwo\n", {"split": "line"}, ["stdin#1", "stdin#2"], ["one", "two"]),
        (b"text,id\none,x\n", {"format": "csv"}, ["x"], ["one"]),
        (b'{"not": "records"}', {"format": "txt"}, ["stdin"], ['{"not": "records"}']),
    ],
)
def test_standard_input(sim, output, monkeypatch, tmp_path, data, given, ids, texts):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(sys, "stdin", Standard(data))
    report = job(sim, output, **given)
    assert report.texts == len(texts)
    assert [line["id"] for line in index_of(output)] == ids
    assert np.load(output).tobytes() == right(texts).tobytes()
    # The copy is gone, after a failure too.
    monkeypatch.setattr(sys, "stdin", Standard(b" \n"))
    with pytest.raises(InputError, match="standard input holds no text; nothing was sent"):
        job(sim, output)
    for wrong, words in [
        (b"one\ncaf\xe9\n", "standard input is not UTF-8: byte 0xe9 at offset 7"),
        (b'{"text": "one"}\n{"text"', "standard input, line 2 is not JSON"),
    ]:
        monkeypatch.setattr(sys, "stdin", Standard(wrong))
        with pytest.raises(InputError, match=f"^{words}"):
            job(sim, output)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_pipe_on_the_command_line(sim, output):
    arguments = ["embed", "-", output, "--split", "line", "--dimensions", 8]
    arguments += ["--model", MODEL, "--base-url", sim.base_url, "--json"]
    with commands.start(*arguments, stdin=subprocess.PIPE) as process:
        out, err = process.communicate("one\ntwo\nthree\n", timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["texts"] == 3
    assert np.load(output).tobytes() == right(["one", "two", "three"]).tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with a name")
async def test_a_pipe_with_a_name_is_read_once(sim, tmp_path, output):
    fifo = tmp_path / "in.jsonl"
    os.mkfifo(fifo)
    writer = asyncio.create_task(
        asyncio.to_thread(fifo.write_text, '{"text": "one"}\n{"text": "two"}\n')
    )
    async with embedder_of(sim) as embedder:
        report = await embed_job_async(fifo, output, embedder)
    await writer
    assert report.texts == 2
    assert [line["id"] for line in index_of(output)] == ["in.jsonl#1", "in.jsonl#2"]
    assert np.load(output).tobytes() == right(["one", "two"]).tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["standard input", "pipe"])
def test_ctrl_c_while_a_pipe_is_copied(sim, tmp_path, output, number, kind):
    """The writer has more to say, or has not even come: the job ends all the same."""
    source, folder = "-", tmp_path / "tmp"
    folder.mkdir()
    if kind == "pipe":
        source = tmp_path / "fifo"
        os.mkfifo(source)
    arguments = ["embed", source, output, "--model", MODEL, "--base-url", sim.base_url]
    with commands.start(*arguments, stdin=subprocess.PIPE, TMPDIR=str(folder)) as process:
        process.stdin.write("one\n")
        process.stdin.flush()
        while not list(folder.iterdir()):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.2)
        process.send_signal(number)
        # The writer holds its end for as long.
        process.wait(timeout=30)
        err = process.stderr.read()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "Run the same command again" in err
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_no_room_for_a_copy_of_standard_input(sim, tmp_path, output):
    arguments = ["embed", "-", output, "--model", MODEL, "--base-url", sim.base_url]
    before = len(sim.ledger)
    with commands.start(
        *arguments, stdin=subprocess.PIPE, largest=50_000, TMPDIR=str(tmp_path)
    ) as process:
        _, err = process.communicate("word " * 100_000, timeout=60)
    assert process.returncode == 1
    assert err.startswith("tollway: InputError: cannot keep a copy of the input in ")
    assert "File too large; name another folder in the environment variable TMPDIR" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("tollway-stdin-*"))
    assert len(sim.ledger) == before
