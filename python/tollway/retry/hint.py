"""What an error says of the time after which to ask again."""

from __future__ import annotations

__all__ = ["LONGEST_HINT", "hint_of"]

# Seconds: a server that asks for more is not waited for.
LONGEST_HINT = 600.0


def hint_of(error: BaseException) -> float | None:
    """Seconds that the server asks to wait (`error.retry_after`), or None."""
    seconds = getattr(error, "retry_after", None)
    if not isinstance(seconds, (int, float)):
        return None
    try:
        return float(seconds)
    except OverflowError:
        return float("inf")
