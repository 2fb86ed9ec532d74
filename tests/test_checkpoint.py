"""The job folder: rows that were kept stay, and each way it cannot be used is named."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import wait_until
from tollway.embed import disk
from tollway.embed.checkpoint import Checkpoint
from tollway.errors import CheckpointError

MODEL = "openai/text-embedding-3-small"


def digests(*names):
    return [name.encode().ljust(16, b"\0") for name in names]


def rows(count, dimensions=4, start=0):
    first = start * dimensions
    return np.arange(first, first + count * dimensions, dtype=np.float32).reshape(count, dimensions)


def everything(checkpoint):
    kept = {
        digest: first + i
        for first, digests in checkpoint.answers()
        for i, digest in enumerate(digests)
    }
    return kept, checkpoint.read(np.fromiter(kept.values(), np.int64, len(kept)))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors.npy.job"


def fails(*arguments):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(*arguments)
    return str(caught.value)


@given(batches=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_what_is_kept_is_there_after_reopening(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("job") / "job"
    names, vectors = [], []
    for number, count in enumerate(batches):
        checkpoint = Checkpoint(folder, MODEL, None if number % 2 else 4)
        fresh = rows(count, start=len(names))
        keys = digests(*(f"{number}/{i}" for i in range(count)))
        assert checkpoint.append(keys, fresh) == len(names)
        names += keys
        vectors.append(fresh)
        kept, there = everything(checkpoint)
        assert list(kept) == names
        assert there.tobytes() == np.concatenate(vectors).tobytes()
        checkpoint.close()
    # The space allocated ahead is given back.
    assert (folder / "vectors").stat().st_size == 16 * len(names)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="calls of POSIX")
def test_a_file_system_that_cannot_allocate(folder, monkeypatch):
    def cannot(*arguments):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    for number in range(2):
        checkpoint = Checkpoint(folder, MODEL, 4)
        assert checkpoint.append(digests(f"{number}"), rows(1, start=number)) == number
        checkpoint.close()
    checkpoint = Checkpoint(folder, MODEL, 4)
    kept, there = everything(checkpoint)
    assert list(kept) == digests("0", "1")
    assert there.tobytes() == rows(2).tobytes()
    checkpoint.close()


def test_a_row_that_is_not_there_reads_as_nan(folder):
    checkpoint = Checkpoint(folder, MODEL, 4)
    checkpoint.append(digests("a"), rows(1))
    read = checkpoint.read(np.array([-1, 0, -1]))
    assert np.isnan(read[[0, 2]]).all()
    assert (read[1] == rows(1)[0]).all()
    checkpoint.close()


@pytest.mark.parametrize(
    ("model", "dimensions", "what"),
    [
        ("openai/text-embedding-3-large", 4, f"keeps rows of {MODEL}, not openai/text-embedding-3"),
        (MODEL, 8, "keeps rows of 4 dimensions, not 8; choose another output or delete the folder"),
    ],
)
def test_rows_of_another_model_or_dimension(folder, model, dimensions, what):
    first = Checkpoint(folder, MODEL, 4)
    first.append(digests("a"), rows(1))
    first.close()
    assert what in fails(folder, model, dimensions)
    again = Checkpoint(folder, MODEL, 4)
    assert len(list(again.answers())) == 1
    with pytest.raises(CheckpointError, match="4 dimensions; this answer has 8"):
        again.append(digests("b"), rows(1, 8))
    assert again.append(digests("b"), rows(1)) == 1
    again.close()


def test_a_folder_without_rows_is_of_no_model(folder):
    """A first try with the wrong name of a model must not stand in the way of the right one."""
    Checkpoint(folder, "openai/no-such-model", 4).close()
    again = Checkpoint(folder, MODEL, None)
    assert again.dimensions is None
    again.append(digests("a"), rows(1, 8))
    again.close()
    assert f"keeps rows of {MODEL}, not openai/no-such-model" in fails(
        folder, "openai/no-such-model", 4
    )
    last = Checkpoint(folder, MODEL, None)
    assert last.dimensions == 8
    last.close()


def test_a_second_user_is_told_who_the_first_is(folder):
    code = (
        "import sys, pathlib; from tollway.embed.checkpoint import Checkpoint\n"
        "c = Checkpoint(pathlib.Path(sys.argv[1]), sys.argv[2], 4)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder), MODEL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "open\n"
        assert f"another process (pid {other.pid}) works on the job in {folder}" in fails(
            folder, MODEL, 4
        )
        other.kill()
        other.wait()
        # The kernel drops the lock with its holder.
        Checkpoint(folder, MODEL, 4).close()


def test_a_folder_that_was_refused_is_free_for_the_next(folder):
    first = Checkpoint(folder, MODEL, 4)
    first.append(digests("a"), rows(1))
    first.close()
    fails(folder, "another/model", 4)
    (folder / "vectors").unlink()
    (folder / "vectors").mkdir()
    assert "cannot write" in fails(folder, MODEL, 4)
    (folder / "vectors").rmdir()
    Checkpoint(folder, MODEL, 4).close()


def test_a_place_that_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot write the job folder" in fails(tmp_path / "file", MODEL, 4)
    assert "cannot write the job folder" in fails(tmp_path / "file" / "below", MODEL, 4)


def test_what_is_not_a_database_is_damaged(folder):
    folder.mkdir()
    (folder / "rows.sqlite").write_bytes(b"not a database, and long enough for a header" * 40)
    assert "is damaged" in fails(folder, MODEL, 4)


def test_rows_that_did_not_reach_the_disk_are_forgotten(folder):
    """After a loss of power: answers past the mark whose bytes are not what was written."""
    checkpoint = Checkpoint(folder, MODEL, 4)
    for i, name in enumerate("abc"):
        checkpoint.append(digests(name), rows(1, start=i))
    checkpoint.close()
    with sqlite3.connect(folder / "rows.sqlite") as db:
        db.execute("UPDATE meta SET value = '1' WHERE name = 'durable'")
    db.close()
    with (folder / "vectors").open("r+b") as spool:
        spool.seek(16)
        spool.write(b"\xff" * 16)
    again = Checkpoint(folder, MODEL, 4)
    kept, there = everything(again)
    assert list(kept) == digests("a", "c")
    assert there.tobytes() == rows(3)[[0, 2]].tobytes()
    assert again.append(digests("d"), rows(1)) == 3
    again.close()


@pytest.mark.parametrize("left", [0, 20, 32, 47])
def test_rows_of_a_spool_that_was_cut_short_are_forgotten(folder, left):
    """As a copy that broke off leaves it, or a user who makes room."""
    checkpoint = Checkpoint(folder, MODEL, 4)
    for i, name in enumerate("abc"):
        checkpoint.append(digests(name), rows(1, start=i))
    checkpoint.close()
    os.truncate(folder / "vectors", left)
    again = Checkpoint(folder, MODEL, 4)
    kept, there = everything(again)
    assert list(kept) == digests(*"abc"[: left // 16])
    assert there.tobytes() == rows(left // 16).tobytes()
    assert again.append(digests("d"), rows(1, start=5)) == left // 16
    assert everything(again)[1].tobytes() == np.vstack([there, rows(1, start=5)]).tobytes()
    again.close()


def test_rows_after_a_spool_was_cut_short_are_not_certain(folder, tmp_path):
    """The mark of those that were lost says nothing about those that take their place."""
    checkpoint = Checkpoint(folder, MODEL, 4)
    checkpoint.append(digests("a"), rows(1))
    checkpoint.close()
    os.truncate(folder / "vectors", 0)
    again = Checkpoint(folder, MODEL, 4)
    again.append(digests("b"), rows(1, start=1))
    # A loss of power: of the row there is only the space.
    shutil.copytree(folder, tmp_path / "image")
    again.close()
    with (tmp_path / "image" / "vectors").open("r+b") as spool:
        spool.write(bytes(16))
    after = Checkpoint(tmp_path / "image", MODEL, 4)
    assert everything(after)[0] == {}
    after.close()


class Disk:
    """What of a job folder would be there after a loss of power."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        # What the disk has of each file; how many answers were kept when that was asked for.
        self.held = {}
        self.kept = self.certain = self._asked = 0
        monkeypatch.setattr(disk, "_INTERVAL", 0.002)
        monkeypatch.setattr(disk, "synchronize", self.synchronize)

    def synchronize(self, file):
        number = os.fstat(file).st_ino
        name = next(path.name for path in self.folder.iterdir() if path.stat().st_ino == number)
        if name == "vectors":
            self._asked = self.kept
        self.held[name] = (self.folder / name).read_bytes()
        if name == "rows.sqlite-wal":
            self.certain = self._asked

    def cut_power(self, image, shares, rng):
        """Leave of what was written since then some part of each file, in any order."""
        image.mkdir()
        for path in self.folder.iterdir():
            data = path.read_bytes()
            if path.name in shares:
                held = self.held.get(path.name, b"")
                data = torn(held, data, shares[path.name], rng)
            if not path.name.endswith("-shm"):
                (image / path.name).write_bytes(data)


def torn(held, written, share, rng):
    image = bytearray(held.ljust(len(written), b"\0"))
    for start in range(0, len(written), 512):
        if rng.random() < share:
            image[start : start + 512] = written[start : start + 512]
    return image


@pytest.mark.skipif(os.name != "posix", reason="looks at files that are open")
@pytest.mark.parametrize("spool", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lines", [0.0, 0.97, 1.0])
def test_power_loss(folder, tmp_path, monkeypatch, spool, lines):
    """What was synchronised is there, and nothing that is there is wrong."""
    rng = random.Random(f"{spool} {lines}")
    power = Disk(folder, monkeypatch)
    checkpoint = Checkpoint(folder, MODEL, 200)
    names = [f"answer {i}" for i in range(400)]
    for i, name in enumerate(names):
        checkpoint.append(digests(name), rows(1, 200, start=i))
        power.kept += 1
        if i == 20:
            wait_until(lambda: power.certain > 5)
        if i > 100 and rng.random() < 0.01:
            break
    # Whatever is synchronised from here on was not to be relied on.
    certain = power.certain
    power.cut_power(tmp_path / "image", {"vectors": spool, "rows.sqlite-wal": lines}, rng)
    checkpoint.close()
    again = Checkpoint(tmp_path / "image", MODEL, 200)
    kept, there = everything(again)
    expected = dict(zip(digests(*names), range(len(names)), strict=True))
    assert {digests(name)[0] for name in names[:certain]} <= kept.keys() <= expected.keys()
    assert there.tobytes() == b"".join(
        rows(1, 200, start=expected[name]).tobytes() for name in kept
    )
    again.close()


def test_a_disk_that_fails_ends_the_job(folder, monkeypatch):
    """It is told at the next answer, and what was kept is there."""
    monkeypatch.setattr(disk, "_INTERVAL", 0.002)
    checkpoint = Checkpoint(folder, MODEL, 4)
    failed = threading.Event()

    def fail(file):
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "synchronize", fail)
        checkpoint.append(digests("a"), rows(1))
        assert failed.wait(30)
        checkpoint._syncer._thread.join(30)
        with pytest.raises(CheckpointError, match="finished rows are kept"):
            checkpoint.append(digests("b"), rows(1, start=1))
    checkpoint.close()
    again = Checkpoint(folder, MODEL, 4)
    assert digests("a")[0] in everything(again)[0]
    again.close()


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="calls of POSIX")
def test_a_full_disk_keeps_what_was_there(folder, monkeypatch, call):
    checkpoint = Checkpoint(folder, MODEL, 4)
    if call == "pwrite":
        checkpoint.append(digests("a"), rows(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        patch.setattr(os, "fdatasync", no_space)
        with pytest.raises(CheckpointError, match="the disk is full; finished rows are kept"):
            checkpoint.append(digests("b", "c"), rows(2, start=1))
        # What cannot be marked is checked next time; closing hides no other error.
        checkpoint.close()
    again = Checkpoint(folder, MODEL, 4)
    kept, _ = everything(again)
    assert list(kept) == (digests("a") if call == "pwrite" else [])
    again.append(digests("b"), rows(1, start=1))
    again.close()


def test_a_database_that_fails_keeps_what_was_there(folder):
    checkpoint = Checkpoint(folder, MODEL, 4)
    checkpoint.append(digests("a"), rows(1))
    checkpoint._db.execute("CREATE TRIGGER full BEFORE INSERT ON answers WHEN NEW.first = 1 "
                           "BEGIN SELECT RAISE(ABORT, 'no room'); END")  # fmt: skip
    with pytest.raises(CheckpointError):
        checkpoint.append(digests("b", "c"), rows(2, start=1))
    checkpoint._db.execute("DROP TRIGGER full")
    assert list(everything(checkpoint)[0]) == digests("a")
    assert checkpoint.append(digests("b", "c"), rows(2, start=1)) == 1
    checkpoint.close()
