"""Outputs derived from a job folder, each by a temporary file and a rename."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import TYPE_CHECKING, Any

from tollway.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tollway.embed.sources import Document

__all__ = ["IndexWriter", "index_path", "write_npy"]

# Rows copied at a time: 6 MB of 1,536 dimensions.
_CHUNK = 1024

# One fsync at the end of a large file could not be interrupted for a long time.
_SYNC_ROWS = 10 * _CHUNK


class _Replacement:
    """A file that takes the place of `path` when it is committed, or leaves it as it was.

    One process at a time writes a path, the one that holds the job's lock: the temporary file has
    one name, so that what a killed process left is written over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        with self._named_errors():
            self._file = self._temporary.open("wb")

    def write(self, data: bytes) -> None:
        with self._named_errors():
            self._file.write(data)

    def sync(self) -> None:
        with self._named_errors():
            self._file.flush()
            os.fsync(self._file.fileno())

    def commit(self) -> None:
        self.sync()
        with self._named_errors():
            self._file.close()
            self._temporary.replace(self._path)

    def discard(self) -> None:
        """Remove what was written; does nothing after `commit`."""
        # What is still in the buffer of a full disk is not wanted either.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self._path}: {error.strerror}; every finished row is kept: make "
                "it writable and run the same command again"
            ) from error


def write_npy(
    path: Path,
    rows: NDArray[np.int64],
    dimensions: int,
    dtype: str,
    read: Callable[[NDArray[np.int64]], NDArray[Any]],
) -> None:
    """Write a `.npy` of shape (n, d), row i from `read` of rows[i]; -1 reads as NaN.

    Raises:
        CheckpointError: The file cannot be written; what was there before stays.
    """
    import numpy as np  # noqa: PLC0415

    little = np.dtype(dtype).newbyteorder("<")
    header = {"descr": little.str, "fortran_order": False, "shape": (len(rows), dimensions)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, header)
    file = _Replacement(path)
    try:
        file.write(buffer.getvalue())
        for start in range(0, len(rows), _CHUNK):
            file.write(read(rows[start : start + _CHUNK]).astype(little, copy=False).tobytes())
            if start % _SYNC_ROWS == 0:
                file.sync()
        file.commit()
    finally:
        file.discard()


def index_path(output: Path) -> Path:
    """Return where the index of an output lies: `vectors.index.jsonl` beside `vectors.npy`."""
    return output.with_name(f"{output.stem}.index.jsonl")


class IndexWriter:
    """Writes one line a row, `{"row": 0, "id": …, "metadata": {…}}`, in input order."""

    def __init__(self, path: Path) -> None:
        self._file = _Replacement(path)
        self._row = 0

    def add(self, document: Document) -> None:
        """Write the line of the next row."""
        line: dict[str, Any] = {"row": self._row, "id": document.id}
        if document.metadata:
            line["metadata"] = dict(document.metadata)
        self._file.write(json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n")
        self._row += 1

    def commit(self) -> None:
        """Put the index in its place."""
        self._file.commit()

    def discard(self) -> None:
        """Leave whatever was there before; does nothing after `commit`."""
        self._file.discard()
