"""What an answer says about the provider's limits: a table for each provider, and how it is read.

Reading never fails and takes time linear in the answer: what is negative, absurd or of an unknown
form is left out, as if the server had not said it.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ANTHROPIC_FEEDBACK",
    "AZURE_FEEDBACK",
    "GEMINI_FEEDBACK",
    "GROQ_FEEDBACK",
    "OPENAI_FEEDBACK",
    "Feedback",
    "FeedbackTable",
    "HeaderRow",
    "Reported",
    "duration",
    "retry_after",
]

# The longest wait that is believed, in seconds, and the largest quota: what a limiter can hold.
_LONGEST = 31 * 86_400.0
_LARGEST = 2**31 - 1

# What is longer is no number or time of any provider; no parser sees it.
_MAX_CHARACTERS = 64
# An error that names a limit does so at its beginning.
_MAX_BODY = 65_536

# A bucket that would take longer than this to fill from empty is a day's, not a minute's.
_DAY_FROM = 1_800.0

_UNITS = {
    "d": 86_400.0,
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_PART = r"(\d+(?:\.\d+)?)(d|h|ms|us|µs|ns|m|s)"
_DURATION = re.compile(rf"(?:{_PART})+", re.ASCII)
_PARTS = re.compile(_PART, re.ASCII)


@dataclass(frozen=True, slots=True)
class Reported:
    """One limit, as the server states it.

    Attributes:
        limit: Its name in `Limits`: `rpm`, `tpm`, `rpd`, `tpd`, `input_tpm` or `output_tpm`.
        quota: Requests or tokens that it allows.
        remaining: What is left of it, or None.
        reset: Seconds until it is whole again, or None.
    """

    limit: str
    quota: int
    remaining: int | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """What one answer says about limits.

    Attributes:
        reported: The limits it states.
        retry_after: Seconds it asks to wait, or None.
        exceeded: Names of the limits that a refusal is about; none where it does not tell.
        too_steep: Whether it refuses how fast the traffic grows, not how much it is.
    """

    reported: tuple[Reported, ...] = ()
    retry_after: float | None = None
    exceeded: tuple[str, ...] = ()
    too_steep: bool = False


@dataclass(frozen=True, slots=True)
class HeaderRow:
    """Three headers about one limit.

    Attributes:
        name: Of the headers, with `{}` where they say `limit`, `remaining` or `reset`.
        minute: The limit it is, by the minute; None where the headers are always about a day.
        day: The limit it is where they are about a day; None where they never are. With both, the
            time that a bucket needs to fill again tells which.
    """

    name: str
    minute: str | None
    day: str | None = None

    def read(self, headers: Mapping[str, str], now: float) -> Reported | None:
        """Return what the headers say, or None."""
        quota = _whole(headers.get(self.name.format("limit")))
        if not quota:
            return None
        remaining = _whole(headers.get(self.name.format("remaining")))
        if remaining is not None and remaining > quota:
            remaining = None
        text = headers.get(self.name.format("reset"))
        reset = None if text is None else _reset(text, now)
        limit = self.minute or self.day
        if self.minute and self.day and _is_of_a_day(quota, remaining, reset):
            limit = self.day
        return None if limit is None else Reported(limit, quota, remaining, reset)


@dataclass(frozen=True, slots=True)
class FeedbackTable:
    """How one provider speaks of its limits.

    Attributes:
        headers: Headers of every answer.
        exceeded: (expression, limit): an error whose body the expression matches is about the
            limit; the first that does counts.
        too_steep: An expression for the body of an error about growth, or None.
        has_details: Whether errors carry Google's `RetryInfo` and `QuotaFailure`.
    """

    headers: tuple[HeaderRow, ...] = ()
    exceeded: tuple[tuple[str, str], ...] = ()
    too_steep: str | None = None
    has_details: bool = False

    def read(
        self, status: int, headers: Mapping[str, str], body: bytes = b"", *, now: float
    ) -> Feedback:
        """Return what an answer says about limits; never raises.

        Args:
            status: HTTP status.
            headers: Names in lower case.
            body: The body of an error; of other answers nothing is read.
            now: Seconds since the epoch, for dates.
        """
        rows = (row.read(headers, now) for row in self.headers)
        reported = tuple(row for row in rows if row is not None)
        wait = retry_after(headers, now)
        if status < 400:
            return Feedback(reported, wait)
        text = body[:_MAX_BODY].decode(errors="replace")
        if self.has_details:
            asked, violated = _google_details(text, now)
            reported += violated
            wait = asked if wait is None else wait
        matching = (limit for expression, limit in self.exceeded if re.search(expression, text))
        first = next(matching, None)
        spent = tuple(row.limit for row in reported if row.remaining == 0)
        too_steep = self.too_steep is not None and re.search(self.too_steep, text) is not None
        return Feedback(reported, wait, spent if first is None else (first,), too_steep)


_OPENAI_EXCEEDED = (
    (r"\(RPM\)|requests per min", "rpm"),
    (r"\(TPM\)|tokens per min", "tpm"),
    (r"\(RPD\)|requests per day", "rpd"),
    (r"\(TPD\)|tokens per day", "tpd"),
    (r'"type":\s*"requests"', "rpm"),
    (r'"type":\s*"tokens"', "tpm"),
)

# https://platform.openai.com/docs/guides/rate-limits: the headers show the minute's or, on lower
# tiers, the day's bucket under one name.
OPENAI_FEEDBACK = FeedbackTable(
    headers=(
        HeaderRow("x-ratelimit-{}-requests", "rpm", "rpd"),
        HeaderRow("x-ratelimit-{}-tokens", "tpm", "tpd"),
    ),
    exceeded=_OPENAI_EXCEEDED,
    too_steep='"slow_down"',
)
"""OpenAI, and what speaks the same."""

AZURE_FEEDBACK = FeedbackTable(
    headers=(
        HeaderRow("x-ratelimit-{}-requests", "rpm"),
        HeaderRow("x-ratelimit-{}-tokens", "tpm"),
    ),
    exceeded=_OPENAI_EXCEEDED,
)
"""Azure OpenAI, whose limit of tokens may be below the one configured for hours."""

# https://console.groq.com/docs/rate-limits: requests are the day's, tokens the minute's, always.
GROQ_FEEDBACK = FeedbackTable(
    headers=(
        HeaderRow("x-ratelimit-{}-requests", None, "rpd"),
        HeaderRow("x-ratelimit-{}-tokens", "tpm"),
    ),
    exceeded=(
        (r"\(ITPM\)|input tokens per minute", "input_tpm"),
        (r"\(OTPM\)|output tokens per minute", "output_tpm"),
        *_OPENAI_EXCEEDED,
    ),
)
"""Groq."""

# https://docs.anthropic.com/en/api/rate-limits
ANTHROPIC_FEEDBACK = FeedbackTable(
    headers=(
        HeaderRow("anthropic-ratelimit-requests-{}", "rpm"),
        HeaderRow("anthropic-ratelimit-tokens-{}", "tpm"),
        HeaderRow("anthropic-ratelimit-input-tokens-{}", "input_tpm"),
        HeaderRow("anthropic-ratelimit-output-tokens-{}", "output_tpm"),
    ),
    exceeded=(
        ("input tokens per minute", "input_tpm"),
        ("output tokens per minute", "output_tpm"),
        ("requests per minute", "rpm"),
        ("tokens per minute", "tpm"),
    ),
    too_steep="acceleration",
)
"""Anthropic, whose resets are times of RFC 3339."""

GEMINI_FEEDBACK = FeedbackTable(
    exceeded=(
        (r'"quotaId":\s*"\w{0,200}Request\w{0,200}PerDay', "rpd"),
        (r'"quotaId":\s*"\w{0,200}Token\w{0,200}PerDay', "tpd"),
        (r'"quotaId":\s*"\w{0,200}Token\w{0,200}PerMinute', "input_tpm"),
        (r'"quotaId":\s*"\w{0,200}Request\w{0,200}PerMinute', "rpm"),
    ),
    has_details=True,
)
"""Gemini, which has no headers: its errors tell."""


def duration(text: str) -> float | None:
    """Return the seconds of a duration such as `6m0s`, `20ms`, `23h18m29.144s` or `1.5`."""
    text = text.strip()
    if len(text) > _MAX_CHARACTERS:
        return None
    if _DURATION.fullmatch(text):
        found = sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(text))
    else:
        number = _number(text)
        if number is None:
            return None
        found = number
    return found if 0 <= found < _LONGEST else None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait: in milliseconds, in seconds, or by a date.

    Args:
        headers: Names in lower case.
        now: Seconds since the epoch. A date that is past is no wait, 0.0.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None or len(value) > _MAX_CHARACTERS:
            continue
        wait = _number(value)
        if wait is not None:
            wait *= unit
        elif name == "retry-after":
            wait = _until_date(value, now)
        if wait is not None and 0 <= wait < _LONGEST:
            return wait
    return None


def _whole(text: str | None) -> int | None:
    if text is None or len(text) > _MAX_CHARACTERS:
        return None
    number = _number(text)
    # Some servers write whole numbers as 1000.0.
    return int(number) if number is not None and 0 <= number <= _LARGEST else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _reset(text: str, now: float) -> float | None:
    """Seconds until a limit is whole again, from a duration or a time of RFC 3339."""
    found = duration(text)
    if found is not None or len(text) > _MAX_CHARACTERS:
        return found
    try:
        then = datetime.fromisoformat(text.strip())
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        wait = then.timestamp() - now
    except (ValueError, OverflowError):
        return None
    return max(0.0, wait) if wait < _LONGEST else None


def _until_date(date: str, now: float) -> float | None:
    """Seconds from now to an HTTP date; 0.0 where it is past."""
    try:
        then = email.utils.parsedate_to_datetime(date)
        # HTTP dates are in GMT, said or not.
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        return max(0.0, then.timestamp() - now)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _is_of_a_day(quota: int, remaining: int | None, reset: float | None) -> bool:
    """Whether a bucket that fills continuously needs about a day for it, not a minute."""
    if reset is None:
        return False
    missing = quota - (quota - 1 if remaining is None else remaining)
    if missing == 0:
        return False
    # A reset is rounded up, to milliseconds or to seconds.
    least = reset - (1.0 if reset == int(reset) else 1e-3)
    return least * quota / missing > _DAY_FROM


def _google_details(text: str, now: float) -> tuple[float | None, tuple[Reported, ...]]:
    """The wait and the limits that a `google.rpc.Status` names.

    A day's quota comes back at midnight of the Pacific coast, whatever `retryDelay` says beside it:
    https://ai.google.dev/gemini-api/docs/rate-limits
    """
    wait: float | None = None
    reported: list[Reported] = []
    is_of_a_day = False
    for detail in _details(text):
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            wait = duration(delay)
        for violation in _mappings(detail.get("violations")):
            name, value = violation.get("quotaId"), violation.get("quotaValue")
            if not isinstance(name, str):
                continue
            is_of_a_day = is_of_a_day or "PerDay" in name
            quota = _whole(value) if isinstance(value, str) else None
            if quota:
                reported.append(Reported(_google_limit(name), quota, 0))
    return _until_pacific_midnight(now) if is_of_a_day else wait, tuple(reported)


def _google_limit(quota_id: str) -> str:
    if "PerDay" in quota_id:
        return "tpd" if "Token" in quota_id else "rpd"
    return "input_tpm" if "Token" in quota_id else "rpm"


def _details(text: str) -> Iterator[Mapping[str, Any]]:
    try:
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError):
        return
    # A stream's errors come as a list of one.
    if isinstance(parsed, list):
        parsed = next(_mappings(cast("object", parsed)), None)
    for name in ("error", "details"):
        parsed = cast("dict[str, Any]", parsed).get(name) if isinstance(parsed, dict) else None
    yield from _mappings(parsed)


def _mappings(found: object) -> Iterator[Mapping[str, Any]]:
    for item in cast("list[object]", found) if isinstance(found, list) else []:
        if isinstance(item, Mapping):
            yield cast("Mapping[str, Any]", item)


def _until_pacific_midnight(now: float) -> float | None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - for one error only

    try:
        here = datetime.fromtimestamp(now, ZoneInfo("America/Los_Angeles"))
    except (ZoneInfoNotFoundError, ValueError, OverflowError, OSError):
        return None
    tomorrow = (here + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(0.0, tomorrow.timestamp() - now)
