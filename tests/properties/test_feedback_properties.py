"""Reading feedback never fails, whatever a server sends, and takes time linear in it."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.limiter import feedback
from tollway.limiter.feedback import duration, retry_after
from tollway.simulator.openai import go_duration

TABLES = {name: getattr(feedback, name) for name in feedback.__all__ if name.endswith("_FEEDBACK")}
NAMES = sorted(
    {
        row.name.format(what)
        for table in TABLES.values()
        for row in table.headers
        for what in ("limit", "remaining", "reset")
    }
    | {"retry-after", "retry-after-ms"}
)
NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    st.floats(0, 1e5).map(lambda seconds: f"{seconds}s"),
)
VALUES = st.one_of(
    NUMBERS,
    st.text(max_size=80),
    st.text("0123456789.hms-+TZ: ", max_size=80),
    st.datetimes().map(lambda when: when.isoformat() + "Z"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | VALUES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "details", "violations", "quotaId", "quotaValue", "retryDelay", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
)
BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())


@given(
    st.sampled_from(sorted(TABLES)),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    BODIES,
    st.sampled_from([200, 400, 429, 503, 529]),
    st.floats(0, 4e9),
)
def test_whatever_is_sent_only_sane_values_are_read(name, headers, body, status, now):
    found = TABLES[name].read(status, headers, body, now=now)
    assert found.retry_after is None or 0 <= found.retry_after < 31 * 86_400
    for stated in found.reported:
        assert 1 <= stated.quota < 2**31
        assert stated.remaining is None or 0 <= stated.remaining <= stated.quota
        assert stated.reset is None or 0 <= stated.reset < 31 * 86_400
    assert set(found.exceeded) <= {"rpm", "tpm", "rpd", "tpd", "input_tpm", "output_tpm"}


@given(st.integers(0, 86_400_000 * 30))
def test_a_duration_as_go_writes_it_is_read_back(milliseconds):
    assert duration(go_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.floats(0, 1e6), st.floats(0, 4e9))
def test_seconds_to_wait_are_read_back(seconds, now):
    assert retry_after({"retry-after": repr(seconds)}, now) == seconds


HOSTILE = [
    b'"quotaId": "' + b"Token" * 200_000,
    b'"quotaId":' + b" " * 1_000_000,
    b'"quotaId": "Request' * 60_000,
    b'"type":' * 150_000,
    b"[" * 1_000_000,
    b'{"error":' * 100_000,
    b"input tokens per minut" * 50_000,
]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: body[:12].decode())
def test_hostile_bodies_take_linear_time(name, body):
    table = TABLES[name]

    def cost(size):
        took = []
        for _ in range(5):
            began = time.process_time()
            table.read(429, {}, body[:size], now=0.0)
            took.append(time.process_time() - began)
        return min(took)

    # Sixteen times the body: quadratic time would be 256 times as much.
    small = max(cost(4_000), 1e-5)
    assert cost(64_000) < 100 * small
