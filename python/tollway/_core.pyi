"""The compiled core: `rust/python` over `rust/core`."""

from collections.abc import Sequence
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

# Retrying

def retry_base(strategy: str) -> float:
    """Return the base delay in seconds that a strategy has where the caller names none.

    Raises:
        ConfigurationError: No such strategy.
    """

def retry_delay(
    strategy: str,
    jitter: str,
    base_delay: float,
    max_delay: float,
    retry: int,
    draw: float,
    *,
    previous: float | None = None,
    hint: float | None = None,
    timed_out: bool = False,
    remaining: float | None = None,
) -> float | Literal["deadline", "hint"]:
    """Decide the wait after a failed attempt; times in seconds, to 1 ns.

    Args:
        strategy: `exponential_backoff` base·2^(n-1); `incremental` and `linear` base·n; `fixed`
            base; `random` uniform in [base, max]; `decorrelated` uniform in [base, 3·previous];
            `native` the hint alone, or as `exponential_backoff` where there is none.
        jitter: `none` d; `full` [0, d]; `equal` [d/2, d]; `proportional` [0.5 d, 1.5 d];
            `additive` [d, 1.1 d]. `random` and `decorrelated` are draws already and take none.
        base_delay: The base of the formula.
        max_delay: Cap after jitter; doubled where `timed_out`.
        retry: n, 1 for the first retry.
        draw: Uniform in [0, 1).
        previous: The wait before the attempt that failed; None before the first retry.
        hint: What the server asks for: a floor that wins over `max_delay`.
        timed_out: The attempt ran into its time limit.
        remaining: Time left for the whole call.

    Returns:
        The wait, or why to raise at once: "deadline" where it would leave no time for another
        attempt, "hint" where the server asks for more than 600 s.

    Raises:
        ConfigurationError: No such strategy or jitter.
    """

# Embedding

def pack(
    counts: NDArray[np.int64],
    max_texts: int,
    max_tokens: int | None = None,
    *,
    target_tokens: int | None = None,
) -> NDArray[np.int64]:
    """Split n texts into m requests: in order, each as full as the caps allow.

    Args:
        counts: Shape (n,), tokens of each text.
        max_texts: Most texts a request.
        max_tokens: Most tokens a request.
        target_tokens: Tokens after which a request is closed; a single text may pass it.

    Returns:
        Shape (m + 1,): request k holds the texts offsets[k] up to offsets[k + 1]. [0] for n = 0.

    Raises:
        RequestTooLargeError: A text has more than `max_tokens`; named by its index.
        ConfigurationError: A count is negative.
    """

def request_caps(
    rpm: int | None,
    tpm: int | None,
    *,
    provider_texts: int,
    provider_tokens: int | None = None,
    mean_tokens: int | None = None,
) -> tuple[int, int | None]:
    """Return the default (max_texts, target_tokens) of a request under limits a minute.

    `target_tokens` is 1 % of `tpm`, so that a killed job loses little, but at least tpm ÷ rpm:
    smaller requests would use up the requests and leave tokens unused. Where the two conflict
    (`rpm` under 100) tpm ÷ rpm wins. None without `tpm`. `max_texts` is 128, or as many texts of
    `mean_tokens` as reach tpm ÷ rpm, if more. Neither is over the provider's caps.
    """

def embeddings_body(
    model: str,
    texts: list[str],
    *,
    dimensions: int | None = None,
    base64: bool = True,
    extra: bytes | None = None,
) -> bytes:
    """Write the JSON body of an embeddings request; a lone surrogate becomes U+FFFD.

    Args:
        model: The provider's name of the model.
        texts: The inputs, in order.
        dimensions: Length of the vectors, where the model leaves a choice.
        base64: Ask for base64 of float32; otherwise `encoding_format` is left out, and servers
            answer lists of numbers.
        extra: More members, as the text of a JSON object.

    Raises:
        ConfigurationError: `extra` is no JSON object, or holds one of the members above.
    """

@final
class DecodedEmbeddings:
    """The rows of an embeddings answer."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Shape (n, d), C-contiguous, row i for text i; bad rows are NaN.

        d is 0 where it was not given and no row was of use.
        """

    @property
    def bad_rows(self) -> list[tuple[int, str]]:
        """(row, reason) of each row of no use, in order."""

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens the provider charged, where it says so."""

def decode_embeddings(body: bytes, n: int, dimensions: int | None = None) -> DecodedEmbeddings:
    """Decode the answer to n texts; runs detached from the interpreter.

    Args:
        body: JSON in the shape of OpenAI's answer; base64 or lists of numbers. Rows go where their
            `index` says; rows without any index, one for each text, are taken in order.
        n: Texts sent.
        dimensions: Length of a row; None for that of the first row of use.

    Raises:
        BadResponseError: Not JSON, cut short, an error with status 200, no data, or a row that is
            not one of the n. Says what was found, with at most 200 characters of the body.
        ConfigurationError: `dimensions` is 0.
    """

@final
class RowTable:
    """A map from 16-byte digests to numbers under 2^32 - 1; safe to share between threads.

    Takes 23.5 to 29.4 bytes an entry from about 10,000 entries on, growth included. Digests must
    be uniform, as a cryptographic hash is: others are held rightly but slowly.
    """

    def __new__(cls) -> RowTable: ...
    def __len__(self) -> int: ...
    def __contains__(self, digest: bytes, /) -> bool: ...
    @property
    def nbytes(self) -> int:
        """Bytes of memory the entries take."""

    def get(self, digest: bytes) -> int | None:
        """Return the number of a digest.

        Raises:
            ConfigurationError: The digest has not 16 bytes.
        """

    def get_batch(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the numbers of n digests, shape (n,), -1 for one that is not held.

        Raises:
            ConfigurationError: A digest has not 16 bytes.
        """

    def insert(self, digest: bytes, row: int) -> int | None:
        """Give a digest a number and return the one it had.

        Raises:
            ConfigurationError: The digest has not 16 bytes, or the number is 2^32 - 1.
        """

    def insert_new(self, digests: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Number n digests: one that is new gets the number of digests held so far.

        Returns:
            The numbers and which of the digests were new, each of shape (n,).

        Raises:
            ConfigurationError: A digest has not 16 bytes, and nothing is inserted; or there are no
                numbers left, and those before are.
        """
