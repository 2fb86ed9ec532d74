"""What arrived and what was answered: the evidence of a test."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tollway.errors import ConfigurationError, InputError
from tollway.simulator.faults import HARMLESS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from io import FileIO

__all__ = ["Ledger", "Record"]

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Record:
    """One request.

    Attributes:
        arrival: When its last byte came, seconds of the machine's monotonic clock.
        status: HTTP status answered; None where the connection was closed without an answer.
        fault: Name of the fault it met, or None.
        admitted: Whether it passed the limits and was charged its tokens.
        inputs: Texts in it.
        tokens: Their tokens, counted exactly, admitted or not.
        packed: The digests of the texts, 8 bytes each, in order.
        request_id: The `x-request-id` of the answer.
        batch: Id of the batch that it was part of, or None.
    """

    arrival: float
    status: int | None
    fault: str | None
    admitted: bool
    inputs: int
    tokens: int
    packed: bytes
    request_id: str
    batch: str | None = None

    @property
    def digests(self) -> list[str]:
        """`digest(text)` of each text, in order."""
        flat = self.packed.hex()
        return [flat[start : start + 16] for start in range(0, len(flat), 16)]

    @property
    def answered(self) -> bool:
        """Whether a whole and right answer was sent: 200, and no fault that spoils it."""
        return self.status == 200 and (self.fault is None or self.fault in HARMLESS)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as its JSON line holds it."""
        return {
            "arrival": self.arrival,
            "status": self.status,
            "fault": self.fault,
            "admitted": self.admitted,
            "inputs": self.inputs,
            "tokens": self.tokens,
            "digests": self.digests,
            "request_id": self.request_id,
            **({} if self.batch is None else {"batch": self.batch}),
        }


class Ledger(Sequence[Record]):
    """An append-only list of records, in order of answer.

    It keeps about 300 bytes a request and 8 a text.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)
        self._file: FileIO | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Ledger:
        """Read a ledger from the file that a simulator writes; it may still be running.

        A last line that is not finished is left out.

        Raises:
            InputError: The file cannot be read, or a line is not a record; the message names it.
        """
        records: list[Record] = []
        try:
            lines = Path(path).read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise InputError(f"cannot read the ledger {path}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                entry["packed"] = bytes.fromhex("".join(entry.pop("digests")))
                records.append(Record(**entry))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(f"{path}:{number} is not a record of a ledger") from error
        return cls(records)

    def open(self, path: str | os.PathLike[str]) -> None:
        """Write every further record to a file as well, after what is there.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        try:
            # Unbuffered: a record is with the system before its answer is on the wire.
            self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ConfigurationError(f"cannot write the ledger {path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; the records stay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, record: Record) -> None:
        """Add a record, to the file first."""
        if self._file is not None:
            self._file.write(json.dumps(record.as_dict()).encode() + b"\n")
        self._records.append(record)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return a record, or a list of them for a slice."""
        return self._records[index]

    def statuses(self) -> Counter[int | None]:
        """Count the requests by status; None for those left without an answer."""
        return Counter(record.status for record in self[:])

    def tokens(self) -> int:
        """Return the tokens of the admitted requests."""
        return sum(record.tokens for record in self[:] if record.admitted)

    def answered_counts(self) -> Counter[str]:
        """Count how often each text was answered wholly and rightly, by digest.

        An answer that a fault spoiled does not count, whatever its status.
        """
        counts: Counter[str] = Counter()
        for record in self[:]:
            if record.answered:
                counts.update(record.digests)
        return counts

    def worst_window(self, seconds: float) -> tuple[int, int]:
        """Return the most requests and the most tokens admitted in any (t - seconds, t].

        Exact: the two maxima are over all t, each on its own.
        """
        length = round(seconds * _SECOND)
        window: deque[tuple[int, int]] = deque()
        held = most_requests = most_tokens = 0
        for arrival, tokens in self._admitted():
            window.append((arrival, tokens))
            held += tokens
            while window[0][0] <= arrival - length:
                held -= window.popleft()[1]
            most_requests = max(most_requests, len(window))
            most_tokens = max(most_tokens, held)
        return most_requests, most_tokens

    def utilisation(
        self, start: float, end: float, *, rpm: float | None = None, tpm: float | None = None
    ) -> float:
        """Return the share of a quota that was used between two times.

        What arrived in (start, end] and was admitted, divided by limit * (end - start) / 60; with
        both limits, the larger share: that of the limit that binds.

        Args:
            start: Seconds, as in `Record.arrival`.
            end: Seconds, after `start`.
            rpm: Requests a minute.
            tpm: Tokens a minute.

        Raises:
            ConfigurationError: `end` is not after `start`, or neither limit is given.
        """
        if end <= start or (rpm is None and tpm is None):
            raise ConfigurationError("utilisation needs start < end and rpm, tpm or both")
        first, last = round(start * _SECOND), round(end * _SECOND)
        costs = [tokens for arrival, tokens in self._admitted() if first < arrival <= last]
        minutes = (end - start) / 60
        shares = [
            used / (limit * minutes)
            for used, limit in ((len(costs), rpm), (sum(costs), tpm))
            if limit is not None
        ]
        return max(shares)

    def _admitted(self) -> list[tuple[int, int]]:
        """Return (arrival in nanoseconds, tokens) of the admitted requests, by arrival."""
        return sorted((round(r.arrival * _SECOND), r.tokens) for r in self[:] if r.admitted)
