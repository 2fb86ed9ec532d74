"""Arrow and Parquet, in and out; needs the extra `arrow`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ParquetWriter", "is_arrow", "parquet_records", "records", "require_arrow", "to_arrow"]

# Rows looked at together, as Python objects.
_BATCH = 1024


def _pyarrow(module: str = "pyarrow") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            "Arrow and Parquet need the extra 'arrow': pip install 'tollway[arrow]'"
        ) from error


def require_arrow() -> None:
    """Say what to install where it is not."""
    _pyarrow("pyarrow.parquet")


def is_arrow(source: object) -> bool:
    """Whether an object is a table, a column or a stream of record batches, of any library."""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def records(table: Any, text_field: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table or stream: of pyarrow, polars, DuckDB, or any that speaks Arrow.

    Args:
        table: Or a column alone, such as a Series of pandas or polars.
        text_field: What to call the field of such a column.
    """
    arrow = _pyarrow()
    if not hasattr(table, "__arrow_c_stream__"):
        # A column in one piece, as a record batch has them.
        table = arrow.chunked_array([arrow.array(table)])
    try:
        reader = arrow.RecordBatchReader.from_stream(table)
    except arrow.ArrowInvalid:
        reader = arrow.table({text_field: arrow.chunked_array(table)}).to_reader()
    for batch in reader:
        for start in range(0, batch.num_rows, _BATCH):
            yield from batch.slice(start, _BATCH).to_pylist()


def parquet_records(path: Path) -> Generator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        InputError: It is none, or damaged, or a text in it is not UTF-8.
        OSError: The system cannot read it.
    """
    arrow, parquet = _pyarrow(), _pyarrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        # An OSError of Arrow's own, about what it found in the file, has no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path} is not Parquet, or is damaged: {error}") from error


def to_arrow(vectors: NDArray[Any]) -> Any:
    """Return vectors as an Arrow array of fixed-size lists, as LanceDB and others take them.

    Args:
        vectors: Shape (n, d), float32 or float16; not copied. A row whose first value is NaN is
            null.

    Returns:
        A `pyarrow.FixedSizeListArray` of n lists of d values; n nulls where d is 0.
    """
    import numpy as np  # noqa: PLC0415

    arrow = _pyarrow()
    count, dimensions = vectors.shape
    flat = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
    if not dimensions:
        # Arrow has no lists of a fixed size of nothing.
        return arrow.nulls(count, arrow.list_(flat.type))
    missing = np.isnan(vectors[:, 0])
    mask = arrow.array(missing) if missing.any() else None
    return arrow.FixedSizeListArray.from_arrays(flat, dimensions, mask=mask)


class ParquetWriter:
    """Writes rows of `id`, `chunk`, `metadata` (JSON) and `vector` to a file.

    Args:
        file: Opened for writing in binary.
        dimensions: Length of a vector.
        dtype: `float32` or `float16`.
    """

    def __init__(self, file: Any, dimensions: int, dtype: str) -> None:
        arrow = _pyarrow()
        kind = arrow.float16() if dtype == "float16" else arrow.float32()
        self._arrow = arrow
        self._schema = arrow.schema(
            [
                arrow.field("id", arrow.string(), nullable=False),
                arrow.field("chunk", arrow.int32()),
                arrow.field("metadata", arrow.string()),
                # Of any size where not one text has a vector.
                arrow.field("vector", arrow.list_(kind, dimensions or -1)),
            ]
        )
        # Vectors are noise to a compressor and to a dictionary.
        self._writer = _pyarrow("pyarrow.parquet").ParquetWriter(
            file,
            self._schema,
            compression={"id": "snappy", "metadata": "snappy"},
            use_dictionary=False,
        )

    def write(
        self,
        ids: list[str],
        chunks: list[int | None],
        metadata: list[str | None],
        vectors: NDArray[np.floating],
    ) -> None:
        """Write one row group."""
        columns = [ids, chunks, metadata, to_arrow(vectors)]
        arrays = [
            self._arrow.array(column, field.type) if isinstance(column, list) else column
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()

    def abandon(self) -> None:
        """Write nothing more, not even when it is collected."""
        self._writer.is_open = False
