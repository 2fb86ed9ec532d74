"""What counts tokens, and a count that says how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Side", "TokenCount", "Tokenizer", "without_surrogates"]

Side = Literal["end", "start", "middle"]


class TokenCount(int):
    """A number of tokens: an int that says whether it is an estimate.

    Sums and differences are plain ints again.

    Attributes:
        estimated: False where the model's own tokens were counted, by published rules.
        basis: For `TokenEstimator.learn`: what its reference encoding counts of the text; 0 where
            there is nothing to learn from.
    """

    estimated: bool
    basis: int

    def __new__(cls, tokens: int, *, estimated: bool = False, basis: int = 0) -> Self:
        """Make a count of `tokens`."""
        count = super().__new__(cls, tokens)
        count.estimated = estimated
        count.basis = basis
        return count

    def __str__(self) -> str:
        """Show the number alone."""
        return int.__repr__(self)

    def __repr__(self) -> str:
        """Show the number and whether it is an estimate."""
        return f"TokenCount({int(self)}{', estimated=True' if self.estimated else ''})"


class Tokenizer(Protocol):
    """What all tokenizers offer: `Encoding`, `TokenEstimator`, `HuggingFaceTokenizer`."""

    def count(self, text: str, /) -> int:
        """Return the number of tokens of a text."""
        ...

    def count_batch(self, texts: Iterable[str], /) -> NDArray[np.int64]:
        """Return the number of tokens of each text, shape (n,)."""
        ...

    def truncate(self, text: str, max_tokens: int, side: Side = "end", marker: str = "") -> str:
        """Return the text, or as much of it as has at most `max_tokens` tokens."""
        ...


def without_surrogates(text: str) -> str:
    """Return a text that UTF-8 can hold: U+FFFD for lone surrogates, pairs joined, as tiktoken."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
