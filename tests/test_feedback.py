"""What answers say about limits: every form that providers use, and none that they do not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tollway.limiter.feedback import (
    ANTHROPIC_FEEDBACK,
    AZURE_FEEDBACK,
    GEMINI_FEEDBACK,
    GROQ_FEEDBACK,
    OPENAI_FEEDBACK,
    Reported,
    duration,
    retry_after,
)

# 2026-11-21 12:00:00 UTC, four in the morning on the Pacific coast.
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("120ms", 0.12),
        ("23h18m29.144s", 83_909.144),
        ("2m59.56s", 179.56),
        ("4m12s", 252.0),
        ("1d2h", 93_600.0),
        ("250µs", 250e-6),
        ("250us", 250e-6),
        ("10ns", 1e-8),
        (" 7s ", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("0s", 0.0),
        ("-1", None),
        ("-1s", None),
        ("", None),
        ("s", None),
        ("1 s", None),
        ("1x", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("99999h", None),
        ("1h" * 33, None),
        ("9" * 1_000_000, None),
        ("٣s", None),
    ],
)
def test_durations(text, seconds):
    found = duration(text)
    assert found is None if seconds is None else found == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "-5", "retry-after": "3"}, 3.0),
        ({"retry-after-ms": "9" * 100, "retry-after": "3"}, 3.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Sat, 21 Nov 2026 04:01:30 -0800"}, 90.0),
        ({"retry-after": "Saturday, 21-Nov-26 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Sat, 21 Nov 2027 11:00:00 GMT"}, None),
        ({"retry-after": "Sat, 41 Nov 2026 11:00:00 GMT"}, None),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_waits_that_a_server_asks_for(headers, seconds):
    assert retry_after(headers, NOW) == seconds


def openai(status=200, body=b"", **headers):
    named = {f"x-ratelimit-{name.replace('_', '-')}": text for name, text in headers.items()}
    return OPENAI_FEEDBACK.read(status, named, body, now=NOW)


def test_openais_headers():
    found = openai(
        limit_requests="10000",
        remaining_requests="9999",
        reset_requests="6ms",
        limit_tokens="5000000",
        remaining_tokens="4999000",
        reset_tokens="12ms",
    )
    assert found.reported == (
        Reported("rpm", 10_000, 9_999, 0.006),
        Reported("tpm", 5_000_000, 4_999_000, 0.012),
    )
    assert found.retry_after is None
    assert found.exceeded == ()


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "name"),
    [
        # 120 ms for one of 500 in a minute; 8.64 s for one of 10,000 in a day.
        ("500", "499", "120ms", "rpm"),
        ("10000", "9999", "8.64s", "rpd"),
        ("200", "199", "7m12s", "rpd"),
        ("200", "0", "23h59m59.5s", "rpd"),
        ("500", "0", "60s", "rpm"),
        ("500", "0", "1m0s", "rpm"),
        # Rounded up to a second, one of 10,000 in a minute looks like hours.
        ("10000", "9999", "1s", "rpm"),
        ("500", "500", "0s", "rpm"),
        ("500", "500", "1m0s", "rpm"),
        ("500", "499", None, "rpm"),
    ],
)
def test_a_days_bucket_is_told_from_a_minutes_by_how_fast_it_fills(limit, remaining, reset, name):
    headers = {"limit_requests": limit, "remaining_requests": remaining}
    if reset is not None:
        headers["reset_requests"] = reset
    (found,) = openai(**headers).reported
    assert found.limit == name


def test_a_days_bucket_of_tokens():
    found = openai(limit_tokens="1500000", remaining_tokens="1495625", reset_tokens="4m12s")
    assert [it.limit for it in found.reported] == ["tpd"]


@pytest.mark.parametrize("limit", ["-1", "0", "", "many", "nan", "1e30", str(2**31), "9" * 5_000])
def test_absurd_limits_are_no_limits(limit):
    assert openai(limit_tokens=limit, remaining_tokens="1").reported == ()


def test_absurd_remains_are_left_out():
    assert openai(limit_tokens="10", remaining_tokens="-1").reported == (Reported("tpm", 10),)
    assert openai(limit_tokens="10", remaining_tokens="11").reported == (Reported("tpm", 10),)
    assert openai(limit_tokens="10.0", reset_tokens="-3s").reported == (Reported("tpm", 10),)
    assert openai(remaining_tokens="10", reset_tokens="1s").reported == ()


@pytest.mark.parametrize(
    ("message", "kind", "limit"),
    [
        ("Rate limit reached on tokens per min (TPM): Limit 10000, Used 8554", "tokens", "tpm"),
        ("Rate limit reached on requests per min (RPM): Limit 3", "requests", "rpm"),
        ("Rate limit reached on requests per day (RPD): Limit 200", "requests", "rpd"),
        ("Rate limit reached on tokens per day (TPD): Limit 200", "tokens", "tpd"),
        ("slow", "requests", "rpm"),
        ("slow", "tokens", "tpm"),
        ("slow", "other", None),
    ],
)
def test_which_limit_openai_means(message, kind, limit):
    error = {"message": message, "type": kind, "code": "rate_limit_exceeded"}
    found = openai(429, json.dumps({"error": error}).encode())
    assert found.exceeded == (() if limit is None else (limit,))
    assert not found.too_steep


def test_openais_ramp():
    body = json.dumps({"error": {"type": "requests", "code": "slow_down", "message": "m"}})
    assert openai(429, body.encode()).too_steep


def test_without_words_an_empty_bucket_tells():
    found = openai(429, b"no", limit_requests="10", remaining_requests="0", limit_tokens="5")
    assert found.exceeded == ("rpm",)


def test_azures_headers_are_about_a_minute():
    headers = {
        "x-ratelimit-limit-tokens": "120000",
        "x-ratelimit-remaining-tokens": "119000",
        "x-ratelimit-reset-tokens": "3600",
        "x-ratelimit-limit-requests": "-1",
        "retry-after-ms": "1500",
        "retry-after": "2",
    }
    found = AZURE_FEEDBACK.read(429, headers, b"", now=NOW)
    assert found.reported == (Reported("tpm", 120_000, 119_000, 3600.0),)
    assert found.retry_after == 1.5


def test_groqs_requests_are_always_the_days():
    headers = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-limit-tokens": "18000",
        "x-ratelimit-remaining-tokens": "17997",
        "x-ratelimit-reset-tokens": "7.66s",
    }
    found = GROQ_FEEDBACK.read(200, headers, now=NOW)
    assert [it.limit for it in found.reported] == ["rpd", "tpm"]
    body = b'{"error": {"message": "on input tokens per minute (ITPM): Limit 6", "type": "tokens"}}'
    assert GROQ_FEEDBACK.read(429, {}, body, now=NOW).exceeded == ("input_tpm",)


def test_anthropics_headers():
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:02Z",
        "anthropic-ratelimit-tokens-limit": "38000",
        "anthropic-ratelimit-tokens-remaining": "38000",
        "anthropic-ratelimit-tokens-reset": "2026-11-21T11:59:59Z",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-21T13:01:00+01:00",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        "anthropic-ratelimit-output-tokens-reset": "yesterday",
        "retry-after": "12",
    }
    found = ANTHROPIC_FEEDBACK.read(429, headers, b"{}", now=NOW)
    assert found.reported == (
        Reported("rpm", 50, 49, 2.0),
        Reported("tpm", 38_000, 38_000, 0.0),
        Reported("input_tpm", 30_000, 0, 60.0),
        Reported("output_tpm", 8_000, 8_000),
    )
    assert found.exceeded == ("input_tpm",)
    assert found.retry_after == 12.0


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("the rate limit of your organization of 20,000 input tokens per minute", "input_tpm"),
        ("the rate limit of your organization of 8,000 output tokens per minute", "output_tpm"),
        ("the rate limit of your organization of 50 requests per minute", "rpm"),
    ],
)
def test_which_limit_anthropic_means(message, limit):
    body = json.dumps({"error": {"type": "rate_limit_error", "message": message}}).encode()
    assert ANTHROPIC_FEEDBACK.read(429, {}, body, now=NOW).exceeded == (limit,)


def gemini(*violations, delay="22s", wrap=lambda body: body):
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaId": name, "quotaValue": value} for name, value in violations],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}
    body = json.dumps(wrap({"error": error}), indent=1).encode()
    return GEMINI_FEEDBACK.read(429, {}, body, now=NOW)


@pytest.mark.parametrize("wrap", [lambda body: body, lambda body: [body]])
def test_geminis_minute(wrap):
    found = gemini(("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "10"), wrap=wrap)
    assert found.reported == (Reported("rpm", 10, 0),)
    assert found.exceeded == ("rpm",)
    assert found.retry_after == 22.0
    found = gemini(("GenerateContentInputTokensPerModelPerMinute-FreeTier", "250000"), delay="1.5s")
    assert (found.reported[0].limit, found.exceeded) == ("input_tpm", ("input_tpm",))
    assert found.retry_after == 1.5


def test_geminis_day_ends_at_midnight_of_the_pacific_whatever_delay_it_names():
    found = gemini(("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "50"))
    assert found.reported == (Reported("rpd", 50, 0),)
    assert found.exceeded == ("rpd",)
    assert found.retry_after == 20 * 3600.0


def test_a_violation_without_a_value_still_names_its_day():
    found = gemini(("GenerateRequestsPerDayPerProjectPerModel", None))
    assert (found.reported, found.exceeded) == ((), ("rpd",))
    assert found.retry_after == 20 * 3600.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[[[",
        b"[" * 100_000,
        b'{"error": "no"}',
        b'{"error": {"details": 3}}',
        b'{"error": {"details": [3, {"retryDelay": 3, "violations": [3, {"quotaId": 3}]}]}}',
        b'{"error": {"details": [{"retryDelay": "-3s"}]}}',
    ],
)
def test_bodies_of_other_forms_say_nothing(body):
    found = GEMINI_FEEDBACK.read(429, {}, body, now=NOW)
    assert (found.reported, found.retry_after, found.exceeded) == ((), None, ())
