"""Tokens by any `tokenizer.json` of Hugging Face, through their package `tokenizers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError, InputError
from tollway.tokens.counts import without_surrogates

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.tokens.counts import Side

__all__ = ["HuggingFaceTokenizer"]


class HuggingFaceTokenizer:
    """Counts, encodes and cuts text by a `tokenizer.json`.

    Truncation and padding that the file asks for are switched off. A lone surrogate counts as
    U+FFFD. Any number of threads may use one object.

    Args:
        path: The file.
        special_tokens: Whether the tokens that the model puts around a text (such as `[CLS]` and
            `[SEP]`) are part of it, for counts and for ids.

    Raises:
        ConfigurationError: The extra `tokenizers` is not installed.
        InputError: The file cannot be read or is no tokenizer.
    """

    def __init__(self, path: str | os.PathLike[str], *, special_tokens: bool = False) -> None:
        try:
            import tokenizers  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(
                "a tokenizer.json needs the extra 'tokenizers': pip install 'tollway[tokenizers]'"
            ) from error
        self.path = Path(path)
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} is not UTF-8: offset {error.start}") from error
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises Exception itself
            raise InputError(f"{self.path} is no tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = special_tokens
        self._around = self._tokenizer.num_special_tokens_to_add(False) if special_tokens else 0

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._encoded(without_surrogates(text)))

    def count_batch(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Count the tokens of each text, on all cores.

        Returns:
            Shape (n,), int64, entry i for text i.

        Raises:
            TypeError: `texts` is one str.
        """
        import numpy as np  # noqa: PLC0415

        return np.array([len(ids) for ids in self.encode_batch(texts)], dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._encoded(without_surrogates(text)).ids
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, on all cores.

        Raises:
            TypeError: `texts` is one str.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of str, not one str")
        readable = [without_surrogates(text) for text in texts]
        encoded = self._tokenizer.encode_batch_fast(readable, add_special_tokens=self._special)
        return [encoding.ids for encoding in encoded]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the ids, special tokens included."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def truncate(self, text: str, max_tokens: int, side: Side = "end", marker: str = "") -> str:
        """Return a text of at most `max_tokens` tokens, the marker included.

        Encodes the whole text, and counts what is put together again.

        Args:
            text: Any string.
            max_tokens: The most tokens.
            side: Where tokens are taken out: `end`, `start` or `middle`.
            marker: Stands where text was taken out; left out where it alone is over `max_tokens`.

        Returns:
            The same object where the text fits; otherwise t with `count(t) <= max_tokens`.

        Raises:
            ConfigurationError: `max_tokens` is less than the special tokens, or there is no such
                side.
        """
        if side not in {"end", "start", "middle"}:
            raise ConfigurationError(f"side must be 'end', 'start' or 'middle', not {side!r}")
        if max_tokens < self._around:
            raise ConfigurationError(
                f"max_tokens must be {self._around} or more, not {max_tokens}: so many tokens are "
                "put around every text"
            )
        readable = without_surrogates(text)
        encoded = self._encoded(readable)
        if len(encoded) <= max_tokens:
            return text
        marker = marker if self.count(marker) <= max_tokens else ""
        # Where each token stands in the text; special tokens stand nowhere.
        spans = [
            span
            for span, special in zip(encoded.offsets, encoded.special_tokens_mask, strict=True)
            if not special
        ]
        room = max_tokens - self.count(marker)
        spare = 0
        while True:
            budget = max(room - spare, 0)
            first = {"end": budget, "start": 0, "middle": (budget + 1) // 2}[side]
            kept = _kept(readable, spans, first, budget - first, marker)
            if self.count(kept) <= max_tokens or not budget:
                return kept
            # Text that meets at a cut can have other tokens than before.
            spare = spare * 2 or 1

    def truncate_batch(
        self, texts: Iterable[str], max_tokens: int, side: Side = "end", marker: str = ""
    ) -> list[str]:
        """Truncate each text; see `truncate`."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of str, not one str")
        return [self.truncate(text, max_tokens, side, marker) for text in texts]

    def __repr__(self) -> str:
        """Show the file."""
        return f"<HuggingFaceTokenizer {str(self.path)!r}>"

    def _encoded(self, readable: str) -> Any:
        return self._tokenizer.encode(readable, add_special_tokens=self._special)


def _kept(text: str, spans: Sequence[tuple[int, int]], first: int, last: int, marker: str) -> str:
    """Join the text of the first and the last tokens."""
    head = spans[first - 1][1] if first else 0
    tail = spans[-last][0] if last else len(text)
    return text[:head] + marker + text[max(head, tail) :]
