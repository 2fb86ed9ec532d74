"""Vectors that an SDK gives as lists of numbers, as rows of an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollway.errors import BadResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["rows_of"]


def rows_of(
    given: Sequence[Sequence[float] | None], dimensions: int | None, *, normalize: bool = False
) -> tuple[NDArray[np.float32], list[tuple[int, str]]]:
    """Return vectors as an array, and the rows of no use.

    Args:
        given: A vector a text; None where there is none.
        dimensions: Length of each, or None for that of the first.
        normalize: Whether to scale each to unit length.

    Returns:
        Shape (n, d), float32, NaN where a row is of no use; and (i, reason) of each of these.

    Raises:
        BadResponseError: No row is of use, so that not even the length is known.
    """
    import numpy as np  # noqa: PLC0415 - `import tollway` brings in no numpy

    size = dimensions or next((len(row) for row in given if row), 0)
    if not size:
        raise BadResponseError("the answer holds no vector")
    vectors = np.full((len(given), size), np.nan, np.float32)
    bad_rows: list[tuple[int, str]] = []
    for number, row in enumerate(given):
        if not row:
            bad_rows.append((number, "no vector"))
        elif len(row) != size:
            bad_rows.append((number, f"{len(row)} dimensions where {size} are due"))
        else:
            vectors[number] = row
            if not np.isfinite(vectors[number]).all():
                vectors[number] = np.nan
                bad_rows.append((number, "a value is not a number"))
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=vectors, where=lengths > 0)
    return vectors, bad_rows
