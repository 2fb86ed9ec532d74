"""The job folder: what survives a crash.

    <output>.job/
      vectors      float32 rows in order of completion, written into space allocated ahead
      rows.sqlite  meta: what the rows are of · answers: their first row, the digests of their
                   texts one after the other, the crc32 of their rows
      lock         held by the process that works here; its pid inside

An answer's rows count when its line is committed, which comes after the rows themselves: that
survives the death of the process at any instant. Once a second spool and lines are synchronised:
that survives the loss of power. Then a mark is committed that says so: only answers past it need be
checked against their crc at the next opening.

One thread uses a checkpoint at a time; another one synchronises.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import zlib
from typing import TYPE_CHECKING

from tollway.embed.disk import O_BINARY, Lock, Syncer, allocate, pread, pwrite, synchronize
from tollway.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Checkpoint"]

_VERSION = "2"

# Bytes of a digest.
_DIGEST = 16

# Space is allocated in steps, so that a full disk is an error when a step is taken.
_STEP = 16 << 20

# Pages of lines after which SQLite moves them from its log to its file, which takes the time of two
# synchronisations: those of about a million texts.
_LOG_PAGES = 16_384


class Checkpoint:
    """An open job folder.

    Args:
        folder: Made if it is not there.
        model: `provider/model` that the rows are of.
        dimensions: Length of a row, or None while unknown.

    Raises:
        CheckpointError: Another process works here, the rows are of another model or dimension,
            or the folder cannot be written. Nothing was changed.
    """

    def __init__(self, folder: Path, model: str, dimensions: int | None) -> None:
        self.folder = folder
        self._allocated = 0
        self._marked = 0
        self._syncer: Syncer | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(folder / "lock")
        except OSError as error:
            raise CheckpointError(
                f"cannot write the job folder {folder}: {error.strerror}"
            ) from error
        # Closed in this order, the lock last.
        with contextlib.ExitStack() as opened:
            opened.callback(self._lock.release)
            try:
                self._spool = os.open(folder / "vectors", os.O_RDWR | os.O_CREAT | O_BINARY, 0o644)
                opened.callback(os.close, self._spool)
                self._db = sqlite3.connect(
                    folder / "rows.sqlite", isolation_level=None, check_same_thread=False
                )
                opened.callback(self._db.close)
                self._open(model, dimensions)
            except (OSError, sqlite3.Error) as error:
                raise self._failure(error) from error
            self._opened = opened.pop_all()

    def _open(self, model: str, dimensions: int | None) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS answers "
            "(first INTEGER PRIMARY KEY, digests BLOB, crc INTEGER)"
        )
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        kept = f"{self.folder} keeps rows of"
        if meta.get("version", _VERSION) != _VERSION:
            raise CheckpointError(f"{kept} another version of tollway; finish it with that one")
        is_empty = self._db.execute("SELECT 1 FROM answers LIMIT 1").fetchone() is None
        if is_empty:
            # A first try with a wrong model or key keeps nothing, and binds nobody.
            meta.clear()
        if meta.get("model", model) != model:
            raise CheckpointError(
                f"{kept} {meta['model']}, not {model}; choose another output or delete the folder"
            )
        held = int(meta["dimensions"]) if "dimensions" in meta else None
        if held is not None and dimensions is not None and held != dimensions:
            raise CheckpointError(
                f"{kept} {held} dimensions, not {dimensions}; choose another output or delete the "
                "folder"
            )
        self._db.execute("BEGIN")
        if is_empty:
            self._db.execute("DELETE FROM meta")
        self._put("version", _VERSION)
        self._put("model", model)
        self._db.execute("COMMIT")
        self.dimensions = held
        if dimensions is not None:
            self._set_dimensions(dimensions)
        whole = os.fstat(self._spool).st_size >= 4 * (self.dimensions or 0) * self._end()
        if not whole:
            # The spool was cut short: nothing is certain any more, nor what comes in its place.
            meta["durable"] = 0
            self._put("durable", 0)
        self._drop_torn(int(meta.get("durable", 0)))
        self._next = self._end()

    def _end(self) -> int:
        """Return the row after the last one kept."""
        last = self._db.execute("SELECT first, length(digests) FROM answers ORDER BY first DESC")
        first, size = last.fetchone() or (0, 0)
        return int(first + size // _DIGEST)

    def _put(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, str(value)))

    def _set_dimensions(self, dimensions: int) -> None:
        if self.dimensions is None:
            self._put("dimensions", dimensions)
            self.dimensions = dimensions

    def _drop_torn(self, durable: int) -> None:
        """Forget answers past the mark whose bytes are not what was written."""
        if self.dimensions is None:
            return
        size = 4 * self.dimensions
        lines = self._db.execute(
            "SELECT first, length(digests), crc FROM answers WHERE first >= ?", (durable,)
        )
        torn = [
            (first,)
            for first, digests, crc in lines
            if zlib.crc32(pread(self._spool, size * digests // _DIGEST, first * size)) != crc
        ]
        self._db.execute("BEGIN")
        self._db.executemany("DELETE FROM answers WHERE first = ?", torn)
        self._db.execute("COMMIT")

    def answers(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the first row of every answer kept, and the digests of its texts."""
        for first, digests in self._db.execute("SELECT first, digests FROM answers ORDER BY first"):
            yield first, [digests[i : i + _DIGEST] for i in range(0, len(digests), _DIGEST)]

    def append(self, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> int:
        """Keep the vectors of one answer and return the row of the first.

        Args:
            digests: 16 bytes for each of n texts.
            vectors: Shape (n, d), C-contiguous.

        Raises:
            CheckpointError: The dimension is not that of the rows before, or the disk is full or
                failing. What was kept before stays.
        """
        count, dimensions = vectors.shape
        self._set_dimensions(dimensions)
        if dimensions != self.dimensions:
            raise CheckpointError(
                f"{self.folder} keeps rows of {self.dimensions} dimensions; this answer has "
                f"{dimensions}"
            )
        first, size = self._next, 4 * dimensions
        # The spool's bytes are little-endian wherever it was written.
        data = vectors.astype("<f4", copy=False).data.cast("B")
        try:
            self._allocate((first + count) * size)
            pwrite(self._spool, data, first * size)
            # Alone in its transaction: committed when it returns.
            self._db.execute(
                "INSERT INTO answers VALUES (?, ?, ?)",
                (first, b"".join(digests), zlib.crc32(data)),
            )
            self._next = first + count
            synced = self._synchronized().written(self._next)
            if synced > self._marked:
                # Without waiting for the disk: where it does not have the mark, more is checked.
                self._put("durable", synced)
                self._marked = synced
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error
        return first

    def _failure(self, error: OSError | sqlite3.Error) -> CheckpointError:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            return CheckpointError(
                f"the job folder {self.folder} is damaged ({error}); delete it to begin again"
            )
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        return CheckpointError(
            f"cannot write to the job folder {self.folder}: "
            f"{'the disk is full' if full else error}; finished rows are kept: make room or make "
            "it writable, and run the same command again"
        )

    def _allocate(self, size: int) -> None:
        if size <= self._allocated:
            return
        size = -(-size // _STEP) * _STEP
        allocate(self._spool, size)
        self._allocated = size

    def _synchronized(self) -> Syncer:
        if self._syncer is None:
            files = [self._spool]
            # Where the file system cannot have one, every commit waits for the disk by itself.
            with contextlib.suppress(FileNotFoundError):
                files.append(os.open(self.folder / "rows.sqlite-wal", os.O_RDWR | O_BINARY))
                self._opened.callback(os.close, files[-1])
            self._syncer = Syncer(files)
            self._opened.callback(self._syncer.close)
        return self._syncer

    def _mark(self) -> None:
        """Make everything written so far survive the loss of power."""
        synchronize(self._spool)
        self._db.execute("PRAGMA synchronous=FULL")
        self._put("durable", self._next)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of n rows, shape (n, d); NaN for a row of -1."""
        import numpy as np  # noqa: PLC0415

        dimensions = self.dimensions or 0
        out = np.full((len(rows), dimensions), np.nan, dtype=np.float32)
        there = rows >= 0
        if there.any():
            spool = np.memmap(
                self.folder / "vectors", "<f4", "r", shape=(int(self._next), dimensions)
            )
            out[there] = spool[rows[there]]
            del spool
        return out

    def close(self) -> None:
        """Mark what is there, give back the space that is left, let another process work here.

        Never fails: rows that could not be marked are checked at the next opening.
        """
        with self._opened, contextlib.suppress(OSError, sqlite3.Error):
            self._mark()
            if self.dimensions is not None:
                os.ftruncate(self._spool, 4 * self.dimensions * self._next)
