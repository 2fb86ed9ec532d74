"""Counts for models whose tokenizer is not public: an estimate that learns from usage."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tollway.errors import ConfigurationError
from tollway.tokens.counts import TokenCount
from tollway.tokens.models import Encoding, find_encoding_name, get_encoding

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from tollway.tokens.counts import Side

__all__ = ["TokenEstimator", "tokenizer_for_model"]

# Claude 3.5 was measured at 1.2 to 1.3 tokens for one of gpt-4o's, and its tokenizer of 2026 at up
# to 1.46 of those for English prose: 1.75 is near the most, so that early counts are too high
# rather than too low.
FIRST_RATIO = 1.75
# The first ratio weighs as much as so many tokens of usage.
FIRST_WEIGHT = 2_000
# One report weighs at most so much, and all of them together at most as much as twenty such: the
# ratio follows a change of tokenizer, and no single answer decides it.
REPORT_WEIGHT = 20_000
MEMORY_WEIGHT = 400_000
# No text of length has fewer or more tokens than this for one of the reference's; a report beyond
# is one of something else, such as images.
RATIO_BOUNDS = (0.5, 4.0)


class TokenEstimator:
    """Estimates the tokens of one model from those of a public encoding.

    The estimate is the reference's count times a ratio. The ratio begins high, so that limits and
    windows are kept rather than passed, and moves to what the provider reports. Any number of
    threads may use one object.

    Args:
        model: The model, for messages.
        reference: The encoding that is counted; `o200k_base` by default.
    """

    def __init__(self, model: str, *, reference: Encoding | None = None) -> None:
        self.model = model
        self.reference = reference or get_encoding("o200k_base")
        self._lock = threading.Lock()
        self._weight = float(FIRST_WEIGHT)
        self._ratio = FIRST_RATIO

    @property
    def ratio(self) -> float:
        """Tokens of the model for one token of the reference, as far as is known."""
        return self._ratio

    def count(self, text: str) -> TokenCount:
        """Estimate the tokens of a text.

        Returns:
            A count with `estimated` True, rounded up; its `basis` is what `learn` takes.
        """
        basis = self.reference.count(text)
        return TokenCount(self.scale(basis), estimated=True, basis=basis)

    def count_batch(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Estimate the tokens of each text.

        Returns:
            Shape (n,), int64, entry i for text i, rounded up.

        Raises:
            TypeError: `texts` is one str, or an item is none; the message gives its index.
        """
        import numpy as np  # noqa: PLC0415

        return np.ceil(np.multiply(self.reference.count_batch(texts), self._ratio)).astype(np.int64)

    def truncate(self, text: str, max_tokens: int, side: Side = "end", marker: str = "") -> str:
        """Return a text whose estimate is at most `max_tokens`; the same object where it fits.

        Raises:
            ConfigurationError: `max_tokens` is negative, or there is no such side.
        """
        if max_tokens < 0:
            raise ConfigurationError(f"max_tokens must be 0 or more, not {max_tokens}")
        ratio = self._ratio
        basis = int(max_tokens / ratio)
        while _scaled(basis, ratio) > max_tokens:  # the division may have rounded up
            basis -= 1
        return self.reference.truncate(text, basis, side, marker)

    def scale(self, basis: int) -> int:
        """Return the estimate for text of which the reference counts `basis`, rounded up."""
        return _scaled(basis, self._ratio)

    def learn(self, basis: int, reported: int) -> None:
        """Move the ratio to what the provider counted.

        Args:
            basis: What the reference encoding counts of the text that was sent: `basis` of the
                count, or `reference.count`. 0 changes nothing.
            reported: The provider's own count of it; 0 changes nothing.
        """
        if not (basis > 0 and reported > 0):
            return
        low, high = RATIO_BOUNDS
        seen = min(max(reported / basis, low), high)
        weight = min(basis, REPORT_WEIGHT)
        with self._lock:
            self._ratio += (seen - self._ratio) * weight / (self._weight + weight)
            self._weight = min(self._weight + weight, MEMORY_WEIGHT)

    def __repr__(self) -> str:
        """Show the model and the ratio."""
        return f"<TokenEstimator {self.model!r} {self._ratio:.3f} x {self.reference.name}>"


_estimators: dict[str, TokenEstimator] = {}


def tokenizer_for_model(model: str) -> Encoding | TokenEstimator:
    """Return what counts a model's tokens best without asking its provider.

    Args:
        model: Any model, with or without its provider: `gpt-4o`, `anthropic/claude-sonnet-4-5`.

    Returns:
        The model's encoding where it is public; otherwise an estimator, for the same model the
        same object each time, so that what is learned serves the whole process.
    """
    encoding_name = find_encoding_name(model)
    if encoding_name is not None:
        return get_encoding(encoding_name)
    name = model.rpartition("/")[2]
    return _estimators.get(name) or _estimators.setdefault(name, TokenEstimator(name))


def _scaled(basis: int, ratio: float) -> int:
    return -int(-basis * ratio // 1)
