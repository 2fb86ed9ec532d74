"""The compiled core: `rust/python` over `rust/core`."""

from asyncio import Future
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from os import PathLike
from typing import Any, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CircuitBreaker",
    "Completions",
    "DecodedEmbeddings",
    "Encoding",
    "HTTPClient",
    "HTTPResponse",
    "Limiter",
    "RetryBudget",
    "RowTable",
    "Scheduler",
    "TokenBucket",
    "decode_embeddings",
    "distinct",
    "embeddings_body",
    "encoding_names",
    "find_encoding",
    "pack",
    "pack_fewest",
    "request_caps",
    "retry_base",
    "retry_delay",
    "shared_limiters",
    "shared_limits",
]

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

@final
class Scheduler:
    """Pending waiters, soonest first; times are seconds of whatever clock the caller reads.

    40 bytes a waiter, at most 80 just after it has grown; cancelling is O(1) on average.
    """

    def __new__(cls) -> Scheduler: ...
    def push(self, due: float, waiter: object) -> int:
        """Keep a waiter until `due`; return the ticket that cancels it."""

    def cancel(self, ticket: int) -> object | None:
        """Take a waiter out before its time; None if it is out already."""

    def pop_due(self, now: float, most: int) -> tuple[list[Any], float | None]:
        """Take out what is due, by time and then by arrival, and say when the next is due.

        Args:
            now: The present.
            most: Waiters to take at the most.

        Returns:
            The waiters, and when the first of the others is due: in the past where there were
            more, None where there are none.
        """

    @property
    def memory(self) -> int:
        """Bytes held for what is pending, spare room included."""

    def __len__(self) -> int: ...

@final
class TokenBucket:
    """The decisions of `tollway.TokenBucket`. Times are seconds; `now` is by default the clock."""

    def __new__(cls, rate: float, capacity: float) -> TokenBucket: ...
    def take(self, n: int = 1, now: float | None = None) -> float:
        """Take `n` tokens: 0.0 when taken, else the seconds until they are there."""

    def level(self, now: float | None = None) -> int:
        """Return the whole tokens that are there."""

@final
class RetryBudget:
    """Retries that successes have paid for; see `tollway.retry.RetryBudget`."""

    def __new__(cls, ratio: float, interval: float) -> RetryBudget: ...
    def deposit(self) -> bool:
        """Note a success, which pays for `ratio` of a retry; whether a whole one is paid for."""

    def give_back(self) -> None:
        """Return a retry that was taken and not sent."""

    def take(self, now: float) -> float:
        """Take a retry: 0.0 when taken, else the seconds until one may go unpaid."""

    def take_paid(self) -> bool:
        """Take a retry if one is paid for."""

    @property
    def balance(self) -> float:
        """Retries paid for and not taken, at most 100."""

@final
class CircuitBreaker:
    """Whether requests are let through; see `tollway.retry.CircuitBreaker`."""

    def __new__(cls, cooldown: float) -> CircuitBreaker: ...
    def state(self, now: float) -> Literal["closed", "open", "half_open"]:
        """Whether requests are let through: all, none, or one."""

    def admit(self, now: float) -> int | float:
        """Return a pass (int), or the seconds (float) until one is given.

        0.0 seconds while another request is the probe of a half-open breaker.
        """

    def refusal(self, now: float) -> float | None:
        """Seconds for which `admit` would give no pass, as it says; None where it would."""

    def is_valid(self, pass_: int) -> bool:
        """Whether a pass still lets its holder send."""

    def trip(self, pass_: int, now: float, hint: float | None = None) -> bool:
        """Open for the cooldown or the longer hint; False where the pass is no longer valid."""

    def succeed(self, pass_: int) -> bool:
        """Note a success; True where it was the probe's and closed the breaker."""

    def release(self, pass_: int) -> None:
        """Note an end that proves nothing: the next one may be the probe."""

    def abandon_probe(self) -> None:
        """Forget a probe that will not come back: the next one may be it."""

    def reset(self) -> None:
        """Close by hand; passes given before are no longer valid."""

# Embedding

def distinct(
    texts: Iterable[str],
) -> tuple[list[str], tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
    """Leave out what is equal to a text before it.

    Returns:
        The m distinct texts in order; and, unless all n are distinct, where each of them is first,
        shape (m,), ascending, and which of them each text is, shape (n,).

    Raises:
        TypeError: An item is no string, or `texts` is one.
    """

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

def pack_fewest(
    counts: NDArray[np.int64],
    max_texts: int,
    max_tokens: int | None = None,
    *,
    whole: bool = True,
) -> list[NDArray[np.int64]]:
    """Split n texts, in any order, into few requests: the texts of each, by position.

    Within 2 % of the larger of tokens ÷ max_tokens and n ÷ max_texts, and one request, where a text
    is small beside a request; otherwise no more than first-fit decreasing takes.

    Args:
        counts: Shape (n,), tokens of each text.
        max_texts: Most texts a request.
        max_tokens: Most tokens a request.
        whole: Every text is in a request. Otherwise only as many requests are made as the texts
            fill, and those in none are to be packed again with the texts that follow.

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
    texts: Sequence[str],
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
        ProviderError: All of several vectors have the same other length than `dimensions`.
        ConfigurationError: `dimensions` is 0.
    """

# Requests over HTTP

@final
class Completions:
    """Completes the futures of one event loop, from the thread that HTTP runs on.

    The loop watches `fileno()` and calls `drain()`. It is woken once for all requests that end
    before it drains. With `wake`, that is called instead, on the other thread. All methods are for
    the loop's own thread, while it is open. Requests that wait when it is dropped are closed.
    """

    def __new__(cls, wake: Callable[[], object] | None = None) -> Completions: ...
    def __len__(self) -> int:
        """Return the number of requests under way."""

    def fileno(self) -> int:
        """Return the file that is readable when there is something to drain."""

    def drain(self) -> None:
        """Complete the futures whose requests have ended."""

    def cancel(self, number: int) -> None:
        """Close a request and leave its future alone; nothing, if it has ended."""

    def close(self) -> None:
        """Close all requests and leave their futures alone."""

@final
class HTTPResponse:
    """An answer over HTTP, whatever its status."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> dict[str, str]:
        """A new dict, names in lower case; several fields of a name are joined by commas."""

    @property
    def body(self) -> bytes:
        """The whole body, unpacked; empty where `embeddings` holds what it said."""

    @property
    def embeddings(self) -> DecodedEmbeddings | None:
        """The rows, where they were asked for and came."""

@final
class HTTPClient:
    """Connections to any number of servers; see `tollway.transport.NativeTransport`.

    Times are seconds. A file, header or address that cannot be used is a `ConfigurationError`.
    """

    def __new__(
        cls,
        *,
        headers: dict[str, str],
        connect: float,
        first_byte: float,
        idle: float,
        total: float,
        max_answer: int,
        ca_bundle: str | PathLike[str] | None = None,
        client_cert: str | PathLike[str] | None = None,
        client_key: str | PathLike[str] | None = None,
        proxy: str | None = None,
        http2: bool = False,
    ) -> HTTPClient: ...
    def prepare(self) -> None:
        """Start the thread, and read the system's certificates."""

    def send(
        self,
        completions: Completions,
        future: Future[HTTPResponse],
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes,
        timeout: float | None,
    ) -> int:
        """Begin a request that completes `future`; return its number among `completions`."""

    def embed(
        self,
        completions: Completions,
        future: Future[HTTPResponse],
        url: str,
        headers: dict[str, str],
        model: str,
        texts: Sequence[str],
        timeout: float | None,
        *,
        dimensions: int | None = None,
        base64: bool = True,
        extra: bytes | None = None,
        length: int | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> int:
        """Begin a request for vectors; see `NativeTransport.embed`."""

    def close_idle(self) -> None:
        """Close the connections that no request uses."""

@final
class RowTable:
    """A map from 16-byte digests to numbers under 2^32 - 1; safe to share between threads.

    Takes 18.8 to 21.3 bytes an entry from about 10,000 entries on, growth included. Digests must
    be uniform, as a cryptographic hash is: others are held slowly. 12 of their 16 bytes are kept
    and compared: two of n distinct texts share those with a chance of n² ÷ 2^97.
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

# Limiting

@final
class Limiter:
    """The decisions of `tollway.RateLimiter`. Times are seconds; `now` is by default the clock.

    A stamp is the time of a charge as the core counts it.
    """

    def __new__(
        cls,
        *,
        rpm: int | None = None,
        tpm: int | None = None,
        input_tpm: int | None = None,
        output_tpm: int | None = None,
        rps: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        sub_windows: Sequence[float] = ...,
        output_weight: int | None = None,
        max_in_flight: int | None = None,
        is_calendar: bool = False,
        admits_oversized: bool = False,
        margin: float | None = None,
        shared: tuple[str, str] | None = None,
        glance: bool = False,
    ) -> Limiter:
        """Make a limiter, or share one: a name, and how its holders see what it holds.

        With `glance` it only looks: what it admits is not held against anybody.
        """
    def try_acquire(
        self, tokens: int = 0, output_tokens: int = 0, now: float | None = None
    ) -> float:
        """Return 0.0 when admitted, else seconds to wait."""

    def enqueue(
        self,
        tokens: int = 0,
        output_tokens: int = 0,
        *,
        priority: int = 0,
        leased: bool = False,
        now: float | None = None,
    ) -> tuple[int | None, int, bool]:
        """Admit at once, or join the queue.

        Returns None and the stamp when admitted, else a ticket, 0, and whether its place is one of
        the first two.
        """

    def cancel(self, ticket: int) -> bool:
        """Leave the queue; False if the ticket waits no longer."""

    def poll(
        self, most: int, now: float | None = None
    ) -> tuple[list[tuple[int, int]], list[tuple[int, str]], float | None]:
        """Admit up to `most` of those who wait.

        Returns their tickets and stamps; tickets larger than a limit that was lowered, and why; and
        the seconds until the next: None where only a new waiter or the end of a reservation changes
        anything, 0.0 where more may be admitted at once.
        """

    def clear_queue(self) -> None:
        """Forget everybody who waits, and all reservations: they are a parent process's."""

    def refund(self, stamp: int, tokens: int, output_tokens: int) -> None:
        """Give back an admission that was never sent, its request included."""

    def settle(
        self,
        stamp: int,
        tokens: int,
        output_tokens: int,
        used_tokens: int,
        used_output_tokens: int,
        now: float | None = None,
    ) -> None:
        """Replace what was reserved by what was used."""

    def sent(self, stamp: int, tokens: int, output_tokens: int, now: float | None = None) -> int:
        """Charge again if later than half the margin covers; return the stamp that counts."""

    def end_lease(self) -> None:
        """End a reservation that was admitted with `leased`."""

    def pause(self, length: float, limit: str | None = None, now: float | None = None) -> None:
        """Admit nothing that counts for a limit, or nothing at all, for so many seconds."""

    def set_ceiling(self, limit: str, ceiling: int | None) -> None:
        """Hold a limit lower than configured; None ends that."""

    def note_throttled(self) -> None:
        """Count an answer of 429."""

    def set_day(
        self, since: float, left: float, slept: float = 0.0, now: float | None = None
    ) -> None:
        """Tell how long ago this calendar day began and in how many seconds it ends.

        `slept` is for how many seconds the machine slept since that was told before.
        """

    def state(
        self, now: float | None = None
    ) -> tuple[list[tuple[str, float, int, int, int, float]], int, int, int, float]:
        """Return what there is to show.

        Of each window: name, seconds, limit as configured, limit now, use, seconds until one more.
        Then reservations under way, waiters, answers of 429, seconds that everything is paused.
        """

    def used(self, now: float | None = None) -> list[int]:
        """Return what each window holds, in the order of `state`."""

    @property
    def waiting(self) -> int:
        """How many wait."""

    def disown(self) -> None:
        """Drop a forked child's copy of its parent's place among those who share."""

    def participants(self) -> list[tuple[int, int, tuple[float, int, int] | None]]:
        """Return who shares what this one looks at.

        Of each: the process, its reservations under way, and when the first of those who wait there
        is due, with its tokens.
        """

def shared_limiters() -> list[str]:
    """Return the names of this user's shared limiters."""

def shared_limits(name: str) -> str | None:
    """Return what the holders of a shared limiter hold; None where there is none of this boot."""

# Tokens

_Allowed: TypeAlias = Literal["all"] | AbstractSet[str]
_Refused: TypeAlias = Literal["all"] | Collection[str]
_Batch: TypeAlias = Iterable[Sequence[int]]
_Side: TypeAlias = Literal["end", "start", "middle"]
_Prefer: TypeAlias = Literal["sentence", "line"]

@final
class Encoding:
    """One of the published encodings, made with `tollway.get_encoding`.

    Ids are tiktoken's on every input. `encode`, `encode_batch` and `encode_to_numpy` treat special
    tokens as tiktoken does; all other methods take them as ordinary text. A pair of surrogates is
    the character it stands for, a lone one U+FFFD. Any number of threads may use an object. Batches
    of 64 KB and more use all cores, with the interpreter free for other threads; `num_threads` is
    taken for compatibility and not used. A batch that is one str, or has an item that is none,
    raises TypeError with the item's index, and an id that stands for nothing KeyError.
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
        """Count the tokens of n texts: shape (n,), int64, entry i for text i."""
    def encode(
        self, text: str, *, allowed_special: _Allowed = ..., disallowed_special: _Refused = "all"
    ) -> list[int]:
        """Return the ids of a text.

        Each string of `allowed_special` becomes one id. One of `disallowed_special`, by default
        every other special token, raises ValueError with its name; `()` disallows none. TypeError
        where `allowed_special` is one str other than "all".
        """
    def encode_to_numpy(
        self, text: str, *, allowed_special: _Allowed = ..., disallowed_special: _Refused = "all"
    ) -> NDArray[np.uint32]:
        """Return the ids of a text as an array of shape (n,); see `encode`."""
    def encode_with_unstable(
        self, text: str, *, allowed_special: _Allowed = ..., disallowed_special: _Refused = "all"
    ) -> tuple[list[int], list[list[int]]]:
        """Raise NotImplementedError: tiktoken calls it unstable, and no pipeline needs it."""
    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text; special tokens are ordinary text."""
    def encode_batch(
        self,
        text: Iterable[str],
        *,
        num_threads: int = 8,
        allowed_special: _Allowed = ...,
        disallowed_special: _Refused = "all",
    ) -> list[list[int]]:
        """Return the ids of each text; arguments and errors as in `encode`."""
    def encode_ordinary_batch(
        self, text: Iterable[str], *, num_threads: int = 8
    ) -> list[list[int]]:
        """Return the ids of each text; special tokens are ordinary text."""
    def encode_array(self, texts: Iterable[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode n texts into one array: (ids, offsets), uint32 and int64 of shape (n + 1,).

        The ids of text i are `ids[offsets[i]:offsets[i + 1]]`.
        """
    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """Return the id of a token or special token; KeyError where it is not one."""
    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of the ids; `errors` is `bytes.decode`'s, for ids that cut characters."""
    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the UTF-8 bytes of the ids."""
    def decode_tokens_bytes(self, tokens: Iterable[int]) -> list[bytes]:
        """Return the bytes of each id."""
    def decode_with_offsets(self, tokens: Iterable[int]) -> tuple[str, list[int]]:
        """Return the text of the ids and, for each, the index of the character it begins in.

        UnicodeDecodeError where the bytes of the ids are no UTF-8.
        """
    def decode_bytes_batch(self, batch: _Batch, *, num_threads: int = 8) -> list[bytes]:
        """Return the bytes of each sequence of ids."""
    def decode_batch(
        self, batch: _Batch, *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """Return the text of each sequence of ids; see `decode`."""
    def decode_single_token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id."""
    def token_byte_values(self) -> list[bytes]:
        """Return the bytes of every token but the special ones, sorted."""
    def is_special_token(self, token: int) -> bool:
        """Tell whether an id is that of a special token; False for one that stands for nothing."""
    def truncate(self, text: str, max_tokens: int, side: _Side = "end", marker: str = "") -> str:
        """Return the text where it fits, the same object; else t with `count(t) <= max_tokens`.

        Reads about as much of the text as it keeps, and never splits a character.

        Args:
            text: Any string.
            max_tokens: The most tokens, those of the marker included.
            side: Where tokens are taken out. `end` keeps the beginning, `start` the ending,
                `middle` half of each.
            marker: Stands where text was taken out; left out where it alone is over `max_tokens`.

        Raises:
            ConfigurationError: `max_tokens` is negative, or there is no such side.
        """
    def truncate_batch(
        self, texts: Iterable[str], max_tokens: int, side: _Side = "end", marker: str = ""
    ) -> list[str]:
        """Truncate each text; see `truncate`."""
    def chunk(
        self, text: str, max_tokens: int, overlap: int = 0, prefer: _Prefer | None = None
    ) -> list[str]:
        """Split a text into chunks of at most `max_tokens` tokens each.

        Without overlap the chunks are the text, in order and whole. With it a chunk begins with
        `truncate(before, overlap, side="start")` of the chunk before; where that is all of it, or
        leaves no room for a character more, half of `overlap` is tried, and so on: each chunk
        begins and ends later than the one before.

        Args:
            text: Any string; "" has no chunks. One that fits is returned as the same object.
            max_tokens: The most tokens a chunk.
            overlap: The most tokens that a chunk repeats of the one before.
            prefer: Where a chunk ends, if there is such a place in the second half of what it
                adds: `line` after a line break; `sentence` after `.`, `!`, `?` or `…` and white
                space, after their wide forms, or after a blank line, else as `line`.

        Raises:
            ConfigurationError: `max_tokens` is less than a character of the text has (4 at most),
                `overlap` is not from 0 to `max_tokens` - 1, or no such preference.
        """
    def chunk_spans(
        self, text: str, max_tokens: int, overlap: int = 0, prefer: _Prefer | None = None
    ) -> list[tuple[int, int]]:
        """Return where the chunks of `chunk` begin and end in the text; errors as there."""
    def rank_file(self) -> bytes:
        """Return the vocabulary as published, or as its equal `r50k_base` for `gpt2`."""

def find_encoding(name: str) -> Encoding | None:
    """Return the encoding of this name, the same object every time, or None."""

def encoding_names() -> list[str]:
    """Return the names of all encodings."""
