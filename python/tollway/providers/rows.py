"""Vectors that an SDK gives as lists of numbers, as rows of an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollway.errors import BadResponseError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["rows_of", "wrong_length"]


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
        BadResponseError: There is no vector at all, so that not even the length is known.
        ProviderError: All have the same other length than `dimensions`; see `wrong_length`.
    """
    import numpy as np  # noqa: PLC0415 - `import tollway` brings in no numpy

    size = dimensions or next((len(row) for row in given if row), 0)
    if not size:
        raise BadResponseError("the answer holds no vector")
    lengths = {len(row or ()) for row in given}
    if len(lengths) == 1 and not lengths <= {0, size}:
        raise wrong_length(lengths.pop(), size)
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


def wrong_length(found: int, due: int) -> ProviderError:
    """Return the error of vectors that all have another length than is due.

    It is not retried: a model has one length, and would answer the same again.
    """
    return ProviderError(
        f"the answer's vectors are of dimension {found} instead of {due}; give the dimensions "
        "that the model has, or none"
    )
