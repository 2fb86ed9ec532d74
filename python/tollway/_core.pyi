"""The compiled core. Use it through the modules of `tollway`."""

class Limiter:
    """The decisions of `tollway.RateLimiter`. Times are seconds; `now` is the clock if not given."""

    def __new__(
        cls,
        *,
        rpm: int | None = None,
        tpm: int | None = None,
        rps: int | None = None,
        sub_window: float | None = None,
        margin: float | None = None,
    ) -> Limiter: ...
    def try_acquire(self, tokens: int = 0, now: float | None = None) -> float:
        """Return 0.0 when admitted, else seconds to wait."""

    def enqueue(self, tokens: int = 0, now: float | None = None) -> int | None:
        """Return None when admitted at once, else a ticket of the queue."""

    def cancel(self, ticket: int) -> bool:
        """Leave the queue; False if the ticket waits no longer."""

    def poll(self, most: int, now: float | None = None) -> tuple[list[int], float | None]:
        """Admit up to `most` from the front.

        Returns their tickets and the seconds until the next: None where nobody waits, 0.0 where
        more may be admitted at once.
        """

    def clear_queue(self) -> None:
        """Forget everybody who waits."""

    def used(self, now: float | None = None) -> list[int]:
        """Return what each quota's window holds: rpm, its sub-window, rps, tpm, as far as given."""

    @property
    def waiting(self) -> int:
        """How many wait."""
