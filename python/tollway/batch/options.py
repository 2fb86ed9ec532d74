"""What a run in batches may be told, and what it tells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tollway.errors import ConfigurationError

__all__ = ["BatchOptions", "BatchProgress", "BatchStage"]

BatchStage = Literal["submitting", "waiting", "collecting"]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How batches are submitted and waited for. Times are seconds.

    Attributes:
        poll: Wait before the first look at what was submitted; each further one is half as long
            again, and all are drawn 10 % shorter or longer.
        longest_poll: The longest of them.
        on_interrupt: What becomes of batches under way when the run is cancelled: `leave` them to
            the provider, for the next run to collect, or `cancel` them there; what was answered
            by then is paid for and collected by the next run too.
        max_requests: Requests of a batch, where that is to be fewer than the provider takes.
        max_enqueued_tokens: Tokens of input in all batches under way, where the provider bounds
            them: batches are cut to fit, and wait for each other. Without it the limit is learned
            from the first refusal.
        settling: How long a batch may take to appear in the provider's list. A submission of which
            it is not known whether it arrived is looked for until then, and only then made again.

    Raises:
        ConfigurationError: A number that cannot work.
    """

    poll: float = 10.0
    longest_poll: float = 300.0
    on_interrupt: Literal["leave", "cancel"] = "leave"
    max_requests: int | None = None
    max_enqueued_tokens: int | None = None
    settling: float = 60.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("poll", "longest_poll", "settling"):
            value: float = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} is a number of seconds from 0, not {value!r}")
        for name in ("max_requests", "max_enqueued_tokens"):
            count: int | None = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigurationError(f"{name} is a whole number from 1, not {count!r}")
        if self.on_interrupt not in {"leave", "cancel"}:
            raise ConfigurationError(f"on_interrupt is leave or cancel, not {self.on_interrupt!r}")


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far the batches are.

    Attributes:
        stage: What the run does: `submitting`, `waiting` for the provider, or `collecting`.
        batches: Batches under way at the provider.
        waiting: Batches that are not submitted yet: the provider has no room, or a retry's time has
            not come.
        submitted: Requests that were handed over, by this run or an earlier one.
        finished: Those that the provider has finished with, fetched or not.
        failed: Those of them that have no answer.
    """

    stage: BatchStage
    batches: int
    waiting: int
    submitted: int
    finished: int
    failed: int
