from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

# tokens

@final
class Encoding:
    """One of the published encodings, made with `tollway.get_encoding`.

    Ids are tiktoken's on every input. `encode` and `encode_batch` treat special tokens as tiktoken
    does; `count`, `truncate`, `encode_ordinary`, `encode_array` and their batch forms take them as
    ordinary text. A pair of surrogates counts as the character it stands for, and a lone one as
    U+FFFD. Objects never change: any number of threads may use one. Batches of 64 KB and more use
    all cores, with the interpreter free for other threads.
    """

    @property
    def name(self) -> str:
        """Its published name, such as `o200k_base`."""
    @property
    def n_vocab(self) -> int:
        """`max_token_value` + 1; some ids below it may stand for nothing."""
    @property
    def max_token_value(self) -> int:
        """The highest id, special tokens included."""
    @property
    def eot_token(self) -> int:
        """The id of `<|endoftext|>`."""
    @property
    def special_tokens_set(self) -> set[str]:
        """The text of every special token; a new set each time."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
    def count_batch(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Count the tokens of each text.

        Args:
            texts: n strings; may be empty.

        Returns:
            Shape (n,), int64, entry i for text i.

        Raises:
            TypeError: `texts` is one str, or an item is none; the message gives its index.
        """
    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | AbstractSet[str] = ...,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[int]:
        """Return the ids of a text, with special tokens where they are allowed.

        Args:
            text: Any string.
            allowed_special: Special tokens that become one id; none by default.
            disallowed_special: Strings that must not be in the text; by default every special
                token that is not allowed. `()` encodes them as ordinary text.

        Raises:
            ValueError: The text holds a disallowed string; the message names it.
        """
    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text; special tokens are ordinary text."""
    def encode_batch(
        self,
        text: Iterable[str],
        *,
        num_threads: int = 8,
        allowed_special: Literal["all"] | AbstractSet[str] = ...,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[list[int]]:
        """Return the ids of each text; see `encode`.

        Args:
            text: n strings; may be empty.
            num_threads: Taken for compatibility; as many threads run as there are cores.
            allowed_special: As in `encode`.
            disallowed_special: As in `encode`.

        Raises:
            ValueError: A text holds a disallowed string.
            TypeError: As in `count_batch`.
        """
    def encode_ordinary_batch(
        self, text: Iterable[str], *, num_threads: int = 8
    ) -> list[list[int]]:
        """Return the ids of each text; special tokens are ordinary text."""
    def encode_array(self, texts: Iterable[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode n texts into one array.

        Returns:
            (ids, offsets): uint32, all ids one after the other; int64, shape (n + 1,). The ids of
            text i are `ids[offsets[i]:offsets[i + 1]]`.

        Raises:
            TypeError: As in `count_batch`.
        """
    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """Return the id of a token or special token.

        Raises:
            KeyError: It is not one token.
        """
    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of the ids; `errors` is `bytes.decode`'s, for ids that cut characters.

        Raises:
            KeyError: An id stands for nothing.
        """
    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the UTF-8 bytes of the ids.

        Raises:
            KeyError: An id stands for nothing.
        """
    def decode_batch(
        self, batch: Iterable[Sequence[int]], *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """Return the text of each sequence of ids; see `decode`. `num_threads` is not used."""
    def decode_single_token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id.

        Raises:
            KeyError: The id stands for nothing.
        """
    def truncate(self, text: str, max_tokens: int) -> str:
        """Return the beginning of a text that has at most `max_tokens` tokens.

        Reads about as much of the text as it keeps, and never splits a character.

        Returns:
            The same object where the text fits; otherwise t with `count(t) <= max_tokens`.

        Raises:
            ConfigurationError: `max_tokens` is negative.
        """
    def truncate_batch(self, texts: Iterable[str], max_tokens: int) -> list[str]:
        """Truncate each text; see `truncate`.

        Raises:
            TypeError: As in `count_batch`.
            ConfigurationError: `max_tokens` is negative.
        """
    def rank_file(self) -> bytes:
        """Return the vocabulary as its publisher writes it: a line `base64(token) rank` each.

        For `gpt2`, which is published in another form, the file of `r50k_base`, its equal.
        """

def find_encoding(name: str) -> Encoding | None:
    """Return the encoding of this name, the same object every time, or None."""

def encoding_names() -> list[str]:
    """Return the names of all encodings."""
