"""The vectors that the simulator answers with: a function of the text alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["digest", "packed_digests", "vector", "vectors"]


def vector(text: str, dimensions: int) -> NDArray[np.float32]:
    """Return the vector that the simulator answers for a text: the oracle of a test.

    The first `2 * dimensions` bytes of SHAKE-128 of the UTF-8 text are read as little-endian
    16-bit integers u; the vector is 2u - 65535, scaled to unit length. The integers are odd, so
    that no vector is zero, and small enough that their squares add up without rounding: the
    result is the same to the byte on every machine. A shorter vector is the beginning of a longer
    one, scaled again, as with the real models.

    Args:
        text: Any string; a lone surrogate counts as U+FFFD, as the token counters take it.
        dimensions: Length of the vector, 1 to 1,000,000.

    Returns:
        Shape (dimensions,), float32.
    """
    row: NDArray[np.float32] = vectors([text], dimensions)[0]
    return row


def vectors(texts: Sequence[str], dimensions: int) -> NDArray[np.float32]:
    """Return `vector(text, dimensions)` for each text.

    Returns:
        Shape (n, dimensions), float32, C-contiguous; equal to the single vectors to the byte.
    """
    drawn = b"".join(hashlib.shake_128(_utf8(text)).digest(2 * dimensions) for text in texts)
    rows = np.frombuffer(drawn, "<u2").reshape(len(texts), dimensions).astype(np.float64)
    rows *= 2
    rows -= 65535
    rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows.astype(np.float32)


def digest(text: str) -> str:
    """Return the 16 hexadecimal digits that stand for a text in the ledger (BLAKE2b, 8 bytes)."""
    return packed_digests([text]).hex()


def packed_digests(texts: Sequence[str]) -> bytes:
    """Return the digests of texts as 8 bytes each, in order."""
    return b"".join(hashlib.blake2b(_utf8(text), digest_size=8).digest() for text in texts)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Clients differ in what they send for a lone surrogate ("\ud800" or U+FFFD): both are
        # the same text here, so that the vector does not depend on the client.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
