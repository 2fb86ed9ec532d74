"""What goes wrong on demand, decided by a seed and the number of the request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Rows = list[tuple[int, NDArray[np.float32] | None]]

__all__ = ["FAULTS", "HARMLESS", "Faults", "Rows", "applies", "check_name", "disturb"]

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "500": "the server failed",
        "503": "the server is overloaded",
        "429": "too many requests, whatever the limits say",
        "insufficient_quota": "a 429 that no wait cures",
        "delay": "the answer comes late",
        "disconnect": "the connection is closed without an answer",
        "truncated": "the connection is closed in the middle of the body",
        "permuted": "the rows come in another order, each with its right index",
        "missing_row": "one row is not there",
        "null_row": "the embedding of one row is null",
        "nan_row": "the values of one row are NaN",
        "short_row": "one row has a value too few",
        "duplicate_index": "one row carries the index of another",
        "content_filter": "the provider's filter refuses the prompt",
        "error_body": "status 200, but an error in place of the answer",
        "empty_answer": "status 200, but no answer",
        "unfinished": "the answer has no finish reason; a stream ends before its end in good order",
        "stream_error": "an error comes in the middle of a stream",
        "no_usage": "the usage is null",
    }
)
HARMLESS = frozenset({"delay", "permuted", "no_usage"})
_OF_EMBEDDINGS = frozenset(
    {"permuted", "missing_row", "null_row", "nan_row", "short_row", "duplicate_index"}
)
_OF_CHAT = frozenset(
    {"content_filter", "error_body", "empty_answer", "unfinished", "stream_error", "no_usage"}
)
_NEEDS_TWO_ROWS = frozenset({"permuted", "duplicate_index"})


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong.

    Every request for embeddings or a completion draws at most one fault, from the seed and its
    number in order of arrival: the same requests in the same order meet the same faults.

    Attributes:
        rates: Share of the requests, 0 to 1, by the names in `FAULTS`; at most 1 together.
        seed: Another seed draws other requests.
        delay: Seconds that `delay` adds.
        retry_after: Seconds that a `429` fault asks the client to wait.

    Raises:
        ConfigurationError: An unknown name, a rate outside 0..1, rates over 1 together, or a
            negative number of seconds.
    """

    rates: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)
    seed: int = 0
    delay: float = 1.0
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        """Check the rates, and keep a copy that nobody changes."""
        for name, rate in self.rates.items():
            check_name(name)
            if not 0 <= rate <= 1:
                raise ConfigurationError(f"fault {name!r} has rate {rate}: it lies in 0..1")
        # Ten rates of 0.1 add up to a little over 1 in floating point.
        if sum(self.rates.values()) > 1 + 1e-9:
            raise ConfigurationError("the rates of all faults add up to more than 1")
        if self.delay < 0 or self.retry_after < 0:
            raise ConfigurationError("delay and retry_after are seconds, not negative")
        # In one order, so that the draws do not depend on how the rates were written down.
        rates = {name: self.rates[name] for name in FAULTS if name in self.rates}
        object.__setattr__(self, "rates", MappingProxyType(rates))

    def draw(self, ordinal: int) -> str | None:
        """Return the fault that request number `ordinal` (from 0) meets, or None."""
        drawn = _draw(self.seed, ordinal, "fault") / 2**64
        for name, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                return name
        return None

    def row(self, ordinal: int, rows: int) -> int:
        """Return which of the rows of request number `ordinal` a fault hits."""
        return _draw(self.seed, ordinal, "row") % rows


def check_name(name: str) -> None:
    """Raise ConfigurationError, with the names there are, if `name` is not a fault."""
    if name not in FAULTS:
        raise ConfigurationError(f"no fault {name!r}: there are {', '.join(FAULTS)}")


def applies(fault: str, rows: int) -> bool:
    """Say whether a fault can be seen in an answer of that many rows; 0 for a completion."""
    if rows == 0:
        return fault not in _OF_EMBEDDINGS
    if fault in _OF_CHAT:
        return False
    return rows > 1 or fault not in _NEEDS_TWO_ROWS


def disturb(rows: Rows, fault: str | None, hit: int) -> Rows:
    """Return the rows (index, values) of an answer as a fault leaves them.

    Args:
        rows: The right rows; left as they are.
        fault: A name in `FAULTS`; those that do not concern rows change nothing.
        hit: Position of the row that is hit.
    """
    index, values = rows[hit]
    before, after = rows[:hit], rows[hit + 1 :]
    match fault:
        case "permuted":
            # A rotation leaves no row in its place.
            turn = hit or 1
            return rows[turn:] + rows[:turn]
        case "missing_row":
            return before + after
        case "null_row":
            return [*before, (index, None), *after]
        case "nan_row":
            assert values is not None
            return [*before, (index, np.full_like(values, np.nan)), *after]
        case "short_row":
            assert values is not None
            return [*before, (index, values[:-1]), *after]
        case "duplicate_index":
            return [*before, (rows[hit - 1][0], values), *after]
        case _:
            return rows


def _draw(seed: int, ordinal: int, purpose: str) -> int:
    drawn = hashlib.blake2b(f"{seed}/{ordinal}/{purpose}".encode(), digest_size=8)
    return int.from_bytes(drawn.digest(), "big")
