"""What a job says of itself, under way and at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tollway.batch import BatchProgress
    from tollway.embed.sending import Tally
    from tollway.types import Usage

__all__ = ["JobReport", "Progress", "TextError", "described"]


@dataclass(frozen=True, slots=True)
class TextError:
    """A text that has no vector.

    Attributes:
        id: The document's id.
        error: What happened, in one line.
    """

    id: str
    error: str


def described(error: BaseException | None) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        texts: Rows that have their vector or failed, of those seen so far.
        total: Rows there will be, or None where the source cannot tell.
        tally: What was used so far.
        cost: US dollars so far, or None where no price is known.
        seconds: Since the start.
        batches: How far the batches are, with `mode="batch"`; else None.
    """

    texts: int
    total: int | None
    tally: Tally
    cost: float | None
    seconds: float
    batches: BatchProgress | None = None

    @property
    def rate(self) -> float:
        """Texts a second that got their vector in this run, on average."""
        return self.tally.texts / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to the end at that rate, or None where that cannot be told."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.texts) / self.rate


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did.

    Attributes:
        output: The file; None of a stream.
        texts: Rows of the output.
        dimensions: Length of a row.
        distinct: Different texts among them; of a stream, different at the time they were sent.
        reused: Distinct texts whose vector was there from an earlier run.
        usage: What the provider counted in this run.
        requests: Requests sent in this run, failed ones included.
        retries: Attempts after the first of a request.
        rate_limited: Attempts refused with 429.
        hedges: Second attempts sent beside a slow one.
        budget_wait: Seconds that retries waited for the retry budget, all together.
        cost: US dollars of this run, or None where no price is known.
        seconds: Wall time of this run.
        truncated: Ids of the documents that were cut to the model's window in this run.
        errors: Documents without a vector, the first for each text: their rows are NaN, and the
            same job run again tries them again.
    """

    output: Path | None
    texts: int
    dimensions: int
    distinct: int
    reused: int
    usage: Usage
    requests: int
    retries: int
    rate_limited: int
    hedges: int
    budget_wait: float
    cost: float | None
    seconds: float
    truncated: list[str] = field(repr=False)
    errors: list[TextError] = field(repr=False)
