"""What is asked after a model that has failed: the next one, and what became of the others."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from tollway.errors import (
    BudgetExceededError,
    ConfigurationError,
    ContentFilterError,
    ContextWindowError,
    DeadlineExceededError,
    RetriesExhaustedError,
    StreamInterruptedError,
    TollwayError,
)
from tollway.retry.around import attempt_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollway.types import Attempt, Chunk, Completion

__all__ = ["Chain", "Fallbacks"]

M = TypeVar("M")

# What no other model would make good: the user's own bounds, or an answer that was begun.
_FINAL = (BudgetExceededError, StreamInterruptedError)

# Whose attempts are noted as they fail; any other error was one more.
_COMPLETE = (DeadlineExceededError, RetriesExhaustedError)


@dataclasses.dataclass(frozen=True, slots=True)
class Fallbacks(Generic[M]):
    """The models to ask after one has failed.

    Attributes:
        any: Whatever it failed with.
        window: Where the conversation is longer than it takes; where there are none, `any`.
        policy: Where a content filter refused it; where there are none, `any`.
    """

    any: Sequence[M] = ()
    window: Sequence[M] = ()
    policy: Sequence[M] = ()

    def __bool__(self) -> bool:
        """Whether there are any at all."""
        return bool(self.any or self.window or self.policy)

    @property
    def all(self) -> list[M]:
        """Every one of them."""
        return [*self.any, *self.window, *self.policy]


class Chain(Generic[M]):
    """The models of one call, to be iterated over; each is told of by `failed` before the next.

    Args:
        first: Asked first.
        fallbacks: Asked then.
        until: Time of `time.monotonic()` after which nobody is asked.
    """

    def __init__(self, first: M, fallbacks: Fallbacks[M], until: float | None) -> None:
        self._first = first
        self._queue = deque([first, *fallbacks.any])
        self._special: list[tuple[type[TollwayError], Sequence[M]]] = [
            (ContextWindowError, fallbacks.window),
            (ContentFilterError, fallbacks.policy),
        ]
        self._until = until
        self._began = time.monotonic()
        self._told: list[str] = []
        self.attempts: list[Attempt] = []

    def __iter__(self) -> Chain[M]:
        """Return itself."""
        return self

    def __next__(self) -> M:
        """Return the next model; there always is one where `failed` has not raised."""
        return self._queue.popleft()

    def failed(self, member: M, model: str, error: TollwayError) -> None:
        """Note how a model failed; return where another is to be asked.

        Args:
            member: Who failed.
            model: Its name.
            error: With what.

        Raises:
            TollwayError: The error, with all attempts of all models: nobody is left, no other would
                do better, or the deadline has come.
        """
        self._note(model, error)
        for special in self._special:
            kind, chain = special
            if isinstance(error, kind) and chain:
                self._queue = deque(chain)
                self._special.remove(special)
                break
        is_mistake = isinstance(error, ConfigurationError) and member is self._first
        is_late = self._until is not None and time.monotonic() >= self._until
        if self._queue and not (is_mistake or is_late or isinstance(error, _FINAL)):
            self._told.append(f"{model} failed before: {type(error).__name__}: {error}")
            return
        for told in self._told:
            error.add_note(told)
        error.attempts = tuple(self.attempts)
        raise error

    def signed(self, answer: Completion) -> Completion:
        """Return an answer that tells of the models that failed before."""
        if not self.attempts:
            return answer
        attempts = (*self.attempts, *self._numbered(answer.attempts))
        return dataclasses.replace(answer, attempts=attempts)

    def signed_chunk(self, chunk: Chunk) -> Chunk:
        """Return a piece; the one with the whole answer tells of them too."""
        if chunk.completion is None or not self.attempts:
            return chunk
        return dataclasses.replace(chunk, completion=self.signed(chunk.completion))

    def _numbered(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Return attempts with the numbers that they have in the whole call."""
        start = len(self.attempts) + 1
        return [
            dataclasses.replace(attempt, number=number)
            for number, attempt in enumerate(attempts, start)
        ]

    def _note(self, model: str, error: TollwayError) -> None:
        made = [
            attempt if attempt.model else dataclasses.replace(attempt, model=model)
            for attempt in error.attempts
        ]
        if not made or (
            made[-1].error != type(error).__name__ and not isinstance(error, _COMPLETE)
        ):
            at = time.monotonic() - self._began
            made.append(attempt_of(error, number=0, at=at, model=model))
        self.attempts += self._numbered(made)
