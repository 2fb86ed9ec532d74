"""What a job folder needs of the system: a lock, reads and writes in place, and the disk itself."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from typing import TYPE_CHECKING

from tollway.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["O_BINARY", "Lock", "Syncer", "allocate", "pread", "pwrite", "synchronize"]

O_BINARY: int = getattr(os, "O_BINARY", 0)

# What a file system answers that cannot allocate (posix_fallocate(3)).
_NO_ALLOCATION = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

# Seconds between two synchronisations.
_INTERVAL = 1.0


def synchronize(file: int) -> None:
    """Return when the disk has what was written to a file."""
    getattr(os, "fdatasync", os.fsync)(file)


def allocate(file: int, size: int) -> None:
    """Give a file room for `size` bytes, so that a full disk is an error now.

    Where the file system cannot, and the C library does not make up for it (musl), it grows by a
    hole, and a full disk is an error of the write that fills it.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
        else:
            return
    os.ftruncate(file, max(size, os.fstat(file).st_size))


class Syncer:
    """Synchronises files once a second in a thread of its own, so that the disk delays no write.

    Args:
        files: Open files, in the order in which they are synchronised.
    """

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files
        self._written = self._synced = 0
        self._error: OSError | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tollway-sync-disk", daemon=True)
        self._thread.start()

    def written(self, position: int) -> int:
        """Note what was written by now, and return what of that the disk has for certain.

        Raises:
            OSError: The disk has failed.
        """
        if self._error is not None:
            raise self._error
        self._written = position
        return self._synced

    def close(self) -> None:
        """End the thread; what was written since the last time is not synchronised."""
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(_INTERVAL):
            written = self._written
            if written == self._synced:
                continue
            try:
                for file in self._files:
                    synchronize(file)
            except OSError as error:
                self._error = error
                return
            self._synced = written


class Lock:
    """An exclusive lock on a file, which the kernel drops when its process dies."""

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as opened:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | O_BINARY, 0o644)
            opened.callback(os.close, self._file)
            try:
                _flock(self._file)
            except (BlockingIOError, PermissionError) as error:
                pid = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
                raise CheckpointError(
                    f"another process (pid {pid}) works on the job in {path.parent}; wait for it, "
                    "or choose another output"
                ) from error
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
            opened.pop_all()

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._file)


if sys.platform == "win32":
    import msvcrt

    def _flock(file: int) -> None:
        # A byte far past the pid, which must stay readable.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

    def pread(file: int, size: int, offset: int) -> bytes:
        """Read at an offset, fewer bytes at the end of the file."""
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, size)

    def pwrite(file: int, data: memoryview, offset: int) -> None:
        """Write everything at an offset."""
        os.lseek(file, offset, os.SEEK_SET)
        while data:
            data = data[os.write(file, data) :]
else:
    import fcntl

    def _flock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def pread(file: int, size: int, offset: int) -> bytes:
        """Read at an offset, fewer bytes at the end of the file."""
        return os.pread(file, size, offset)

    def pwrite(file: int, data: memoryview, offset: int) -> None:
        """Write everything at an offset."""
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
