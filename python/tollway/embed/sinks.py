"""Outputs derived from a job folder, each by a temporary file and a rename."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tollway.embed.arrow import ParquetWriter, require_arrow
from tollway.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.embed.sources import Document

__all__ = [
    "IndexWriter",
    "Matrix",
    "check_output",
    "index_path",
    "write_npy",
    "write_parquet",
]

# Rows copied at a time: 6 MB of 1,536 dimensions.
_CHUNK = 1024

# One fsync at the end of a large file could not be interrupted for a long time.
_SYNC_CHUNKS = 10


class _Replacement:
    """A file that takes the place of `path` when it is committed, or leaves it as it was.

    Args:
        path: What is replaced.
        temporary: Name of the file until then, of this output alone. One process at a time writes
            it, the one that holds the job's lock, and what a killed one left is written over.
    """

    def __init__(self, path: Path, temporary: str) -> None:
        self._path = path
        self._temporary = path.with_name(temporary)
        with self.named_errors():
            self.raw = self._temporary.open("wb")

    def write(self, data: bytes) -> None:
        with self.named_errors():
            self.raw.write(data)

    def sync(self) -> None:
        with self.named_errors():
            self.raw.flush()
            os.fsync(self.raw.fileno())

    def commit(self) -> None:
        self.sync()
        with self.named_errors():
            self.raw.close()
            self._temporary.replace(self._path)

    def discard(self) -> None:
        """Remove what was written; does nothing after `commit`."""
        # What is still in the buffer of a full disk is not wanted either.
        with contextlib.suppress(OSError):
            self.raw.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines written so far."""
        with self.named_errors():
            self.raw.flush()
            with self._temporary.open("rb") as file:
                yield from file

    @contextlib.contextmanager
    def named_errors(self) -> Generator[None]:
        """Raise what goes wrong with the file as a `CheckpointError` that names it."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self._path}: {error.strerror or error}; every finished row is kept"
                ": make it writable and run the same command again"
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The rows of an output, read some at a time.

    Attributes:
        rows: Shape (n,): where row i is in the spool; -1 for none.
        dimensions: Length of a row.
        dtype: `float32` or `float16`.
        read: From places in the spool to rows of `dtype`; NaN for -1.
    """

    rows: NDArray[np.int64]
    dimensions: int
    dtype: str
    read: Callable[[NDArray[np.int64]], NDArray[Any]]

    def parts(self, size: int) -> Iterator[NDArray[Any]]:
        """Yield consecutive rows, `size` at a time."""
        for start in range(0, len(self.rows), size):
            yield self.read(self.rows[start : start + size])


def check_output(path: Path, source: object) -> None:
    """Refuse an output that cannot be written, before anything is read.

    Args:
        path: Of the output.
        source: What the job reads.

    Raises:
        CheckpointError: Its name ends otherwise, or is a folder's; it or the index of a `.npy`
            would replace what is read; or it is a `.parquet` in the folder that is read, of which
            it would be a part the next time.
        ConfigurationError: It is `.parquet`, without the extra `arrow`.
    """
    if path.suffix not in {".npy", ".parquet"}:
        raise CheckpointError(f"the output must end in .npy or .parquet, not {path.name!r}")
    # A `.parquet` holds its index.
    for each in [path] if path.suffix == ".parquet" else [path, index_path(path)]:
        try:
            is_folder = each.is_dir()
        except OSError as error:
            raise CheckpointError(f"cannot write {each}: {error.strerror}") from error
        if is_folder:
            raise CheckpointError(f"cannot write {each}: it is a folder")
        if isinstance(source, str | Path) and _is_same(each, Path(source)):
            raise CheckpointError(
                f"{each} is what is read, and would be replaced; choose another output"
            )
    if path.suffix == ".parquet":
        require_arrow()
        if isinstance(source, str | Path) and Path(source).resolve() in path.resolve().parents:
            raise CheckpointError(
                f"{path} lies in {source}, and would be read as a part of it the next time; choose "
                "another folder"
            )


def _is_same(path: Path, source: Path) -> bool:
    """Whether two paths lead to one file, by whatever name."""
    try:
        return path.samefile(source)
    except OSError:
        # One of them is not there.
        return False


def write_npy(path: Path, matrix: Matrix) -> None:
    """Write a `.npy` of shape (n, d).

    Raises:
        CheckpointError: The file cannot be written; what was there before stays.
    """
    import numpy as np  # noqa: PLC0415

    little = np.dtype(matrix.dtype).newbyteorder("<")
    shape = (len(matrix.rows), matrix.dimensions)
    header = {"descr": little.str, "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, header)
    file = _Replacement(path, f".{path.name}.tmp")
    try:
        file.write(buffer.getvalue())
        for number, rows in enumerate(matrix.parts(_CHUNK)):
            file.write(rows.astype(little, copy=False).tobytes())
            if number % _SYNC_CHUNKS == 0:
                file.sync()
        file.commit()
    finally:
        file.discard()


def write_parquet(path: Path, matrix: Matrix, index: IndexWriter) -> None:
    """Write a `.parquet` of ids, chunks, metadata and vectors, in row groups of 10,240.

    Raises:
        CheckpointError: The file cannot be written; what was there before stays.
    """
    file = _Replacement(path, f".{path.name}.tmp")
    try:
        with file.named_errors():
            writer = ParquetWriter(file.raw, matrix.dimensions, matrix.dtype)
            try:
                lines = index.lines()
                for rows in matrix.parts(_SYNC_CHUNKS * _CHUNK):
                    described = [json.loads(line) for line in itertools.islice(lines, len(rows))]
                    given = [line.get("metadata") for line in described]
                    writer.write(
                        [line["id"] for line in described],
                        [line.get("chunk") for line in described],
                        [json.dumps(it, ensure_ascii=False) if it else None for it in given],
                        rows,
                    )
                    file.sync()
                writer.close()
            except BaseException:
                writer.abandon()
                raise
        file.commit()
    finally:
        file.discard()


def index_path(output: Path) -> Path:
    """Return where the index of an output lies: `vectors.index.jsonl` beside `vectors.npy`."""
    return output.with_name(f"{output.stem}.index.jsonl")


class IndexWriter:
    """Writes one line a row, `{"row": 0, "id": …, "chunk": …, "metadata": {…}}`, in input order.

    Args:
        output: Beside which it lies.
    """

    def __init__(self, output: Path) -> None:
        # A .npy and a .parquet of one stem have the same index.
        self._file = _Replacement(index_path(output), f".{output.name}.index.tmp")
        self._row = 0

    def add(self, document: Document) -> None:
        """Write the line of the next row."""
        # Keys of databases are numbers often enough.
        line: dict[str, Any] = {"row": self._row, "id": str(document.id)}
        if document.chunk is not None:
            line["chunk"] = document.chunk
        if document.metadata:
            line["metadata"] = dict(document.metadata)
        try:
            text = _json(line)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"the metadata of {document.id!r} is no JSON: {error}") from error
        self._file.write(text.encode(errors="replace") + b"\n")
        self._row += 1

    def lines(self) -> Iterator[bytes]:
        """Yield what was written so far."""
        return self._file.lines()

    def commit(self) -> None:
        """Put the index in its place."""
        self._file.commit()

    def discard(self) -> None:
        """Leave whatever was there before; does nothing after `commit`."""
        self._file.discard()


# What JSON has no word for, such as the dates of a Parquet file, is written as text.
_dumps = functools.partial(json.dumps, ensure_ascii=False, default=str, allow_nan=False)


def _json(line: dict[str, Any]) -> str:
    try:
        return _dumps(line)
    except ValueError:
        return _dumps(_finite(line))


def _finite(value: Any) -> Any:
    """Return a value with null for NaN and infinity, which strict readers of JSON refuse."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("Sequence[Any]", value)]
    return value
