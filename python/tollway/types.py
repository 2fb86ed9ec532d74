"""Values that calls take and return: frozen, typed, without behaviour."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Attempt", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider says it counted.

    Attributes:
        input_tokens: Tokens of all inputs.
        requests: Requests that were answered.
        estimated: True where the provider reported nothing and the tokens are our own count.
    """

    input_tokens: int = 0
    requests: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        """Return the sum; estimated if either part is."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.requests + other.requests,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call that failed.

    Attributes:
        number: 1 for the first.
        at: Seconds since the call began when the attempt failed.
        error: Name of the error's class.
        status: HTTP status, or None where no answer came.
        request_id: The provider's id of the request, or None.
        wait: Seconds waited after it; 0.0 after the last.
    """

    number: int
    at: float
    error: str
    status: int | None
    request_id: str | None
    wait: float
