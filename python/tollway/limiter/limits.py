"""What a limiter holds."""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass, fields

from tollway.errors import ConfigurationError

__all__ = ["AUTO_LIMITS", "Limits"]

# The core's sums have 31 bits; those of a day 27 for requests and 35 for tokens.
_SUMS: int = 2**31 - 1
_MOST = {"rpd": 2**27 - 1, "tpd": 2**35 - 1, "output_weight": 1_000}
_NUMBERS = frozenset(
    {
        "rpm", "tpm", "input_tpm", "output_tpm", "rps", "rpd", "tpd", "output_weight",
        "max_in_flight",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings that hold together; None is no ceiling.

    Attributes:
        rpm: Requests in any 60 seconds.
        tpm: Tokens in any 60 seconds, of input and output together.
        input_tpm: Input tokens in any 60 seconds.
        output_tpm: Output tokens in any 60 seconds.
        rps: Requests in any second.
        rpd: Requests a day.
        tpd: Tokens a day, of input and output together.
        sub_window: Seconds over which the provider judges `rpm`, if shorter than a minute: 1.0
            allows `ceil(rpm / 60)` requests a second; several as `(1.0, 10.0)`. 0 switches off what
            a provider has by default.
        time_zone: IANA name of the zone whose calendar days `rpd` and `tpd` are about, such as
            `America/Los_Angeles`; None: any 24 hours, and up to a minute more.
        output_weight: How often an output token counts in `tpm` and `tpd`; None is once.
        cached_free: Whether cached input tokens, as a settled usage reports them, do not count.
        max_in_flight: Requests under way at once, of all who reserve.
        auto: The limits are where to begin: what the server's answers state replaces them, up or
            down, and a day's limit is held once it is stated.

    Raises:
        ConfigurationError: A value is not a whole number above zero or too large, `sub_window` not
            from 0 to 60, or the zone not known.
    """

    rpm: int | None = None
    tpm: int | None = None
    rps: int | None = None
    sub_window: float | tuple[float, ...] | None = None
    max_in_flight: int | None = None
    input_tpm: int | None = None
    output_tpm: int | None = None
    rpd: int | None = None
    tpd: int | None = None
    time_zone: str | None = None
    output_weight: int | None = None
    cached_free: bool | None = None
    auto: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no limiter could hold."""
        for name in _NUMBERS:
            value = getattr(self, name)
            most = _MOST.get(name, _SUMS)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
                raise ConfigurationError(
                    f"{name} must be a whole number from 1 to {most}, not {value!r}"
                )
        for length in self.sub_windows:
            if not isinstance(length, (int, float)) or not 0 <= length <= 60:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(
                    "sub_window must be 0 to 60 seconds, several as a tuple, not "
                    f"{self.sub_window!r}"
                )
        if self.time_zone is not None:
            try:
                zoneinfo.ZoneInfo(self.time_zone)
            except (zoneinfo.ZoneInfoNotFoundError, TypeError, ValueError, OSError) as error:
                raise ConfigurationError(
                    f"time_zone must be an IANA name that this machine knows, such as "
                    f"America/Los_Angeles, not {self.time_zone!r}"
                ) from error

    @property
    def sub_windows(self) -> tuple[float, ...]:
        """The lengths of all sub-windows, in seconds."""
        if self.sub_window is None:
            return ()
        return self.sub_window if isinstance(self.sub_window, tuple) else (self.sub_window,)

    def __str__(self) -> str:
        """Show the limits that are given."""
        given = (
            f"{field.name}={value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None and value is not False
        )
        return " ".join(given) or "without limits"


AUTO_LIMITS = Limits(rpm=500, tpm=100_000, max_in_flight=25, auto=True)
"""Where `limits="auto"` begins, until the first answer: what the lowest paid tiers allow."""
