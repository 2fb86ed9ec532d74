"""Vectors that an SDK gives as lists of numbers, as rows of an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollway.errors import BadResponseError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_lengths", "rows_of", "wrong_length"]


def rows_of(
    given: Sequence[Sequence[float] | None], dimensions: int | None, *, normalize: bool = False
) -> tuple[NDArray[np.float32], list[tuple[int, str]]]:
    """Return vectors as an array, and the rows of no use.

    Args:
        given: A vector a text, a list or an array; None where there is none.
        dimensions: Length of each, or None for that of the first.
        normalize: Whether to scale each to unit length.

    Returns:
        Shape (n, d), float32, NaN where a row is of no use; and (i, reason) of each of these.

    Raises:
        BadResponseError: There is no vector at all, so that not even the length is known.
        ProviderError: All of several have the same other length; see `check_lengths`.
    """
    import numpy as np  # noqa: PLC0415 - `import tollway` brings in no numpy

    size = dimensions or next((length for row in given if (length := _length(row))), 0)
    if not size:
        raise BadResponseError("the answer holds no vector")
    if len(given) > 1:
        # One alone may be cut short by a mishap.
        check_lengths(given, size)
    vectors = np.full((len(given), size), np.nan, np.float32)
    bad_rows: list[tuple[int, str]] = []
    for number, row in enumerate(given):
        length = _length(row)
        if length == 0:
            bad_rows.append((number, "no vector"))
        elif length != size:
            bad_rows.append((number, f"{length} dimensions where {size} are due"))
        else:
            vectors[number] = row
            if not np.isfinite(vectors[number]).all():
                vectors[number] = np.nan
                bad_rows.append((number, "a value is not a number"))
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=vectors, where=lengths > 0)
    return vectors, bad_rows


def check_lengths(given: Sequence[Sequence[float] | None], due: int) -> None:
    """Refuse vectors that all have the same other length than is due.

    Raises:
        ProviderError: They have.
    """
    lengths = set(map(_length, given))
    if len(lengths) == 1 and not lengths <= {0, due}:
        raise wrong_length(lengths.pop(), due)


def wrong_length(found: int, due: int) -> ProviderError:
    """Return the error of vectors that all have another length than is due.

    It is not retried: a model has one length, and would answer the same again.
    """
    return ProviderError(
        f"the answer's vectors are of dimension {found} instead of {due}; give the dimensions "
        "that the model has, or none"
    )


def _length(row: Sequence[float] | None) -> int:
    # An array is neither true nor false.
    return 0 if row is None else len(row)
