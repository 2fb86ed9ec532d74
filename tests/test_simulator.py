"""The simulator over its socket: vectors, connections, faults."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import math
import socket
from collections import Counter

import httpx
import numpy as np
import pytest

from tollway.errors import ConfigurationError
from tollway.simulator import FAULTS, Faults, Ledger, Simulator, digest, vector

MODEL = "text-embedding-3-small"
KEY = {"authorization": "Bearer any"}
TEXTS = ["one", "two", "three", "네 번째"]


@pytest.fixture(scope="module")
def plain():
    with Simulator(dimensions=8) as sim:
        yield sim


def post(sim, texts=None, *, fault=None, headers=KEY, **arguments):
    if fault:
        headers = {**headers, "x-simulator-fault": fault}
    body = {"model": MODEL, "input": TEXTS if texts is None else texts, **arguments}
    return httpx.post(f"{sim.base_url}/embeddings", json=body, headers=headers)


def rows_of(answer):
    """Return [(index, vector or None)] of an answer in either form."""
    rows = []
    for row in answer.json()["data"]:
        values = row["embedding"]
        if isinstance(values, str):
            values = np.frombuffer(base64.b64decode(values), "<f4")
        elif values is not None:
            values = np.array(values, np.float32)
        rows.append((row["index"], values))
    return rows


def is_right(rows, texts=TEXTS, dimensions=8):
    """Whether every index from 0 is there once with the vector of its text, to the byte."""
    if sorted(index for index, _ in rows) != list(range(len(texts))):
        return False
    return all(
        values is not None and values.tobytes() == vector(texts[index], dimensions).tobytes()
        for index, values in rows
    )


@contextlib.contextmanager
def connected(sim):
    url = httpx.URL(sim.base_url)
    with socket.create_connection((url.host, url.port), timeout=10) as sock:
        yield sock


def wire_request(body, *headers, method="POST", path="/v1/embeddings"):
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "authorization: Bearer k", *headers]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def read_all(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))


BODY = json.dumps({"model": MODEL, "input": TEXTS}).encode()


# Vectors


def test_a_vector_is_a_unit_vector_that_only_its_text_decides():
    first = vector("a text", 1536)
    assert first.dtype == np.float32
    assert first.shape == (1536,)
    assert np.linalg.norm(first.astype(np.float64)) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(first, vector("a text", 1536))
    assert abs(first @ vector("a text ", 1536)) < 0.2
    # Pinned: a ledger or a checkpoint of another release stays comparable.
    assert vector("a text", 4).tobytes().hex() == "4cb9053fb986203d0360a1be1a974a3f"
    assert digest("a text") == "536408935be0e950"


def test_a_shorter_vector_is_the_beginning_of_a_longer_one_scaled():
    beginning = vector("text", 3072)[:256].astype(np.float64)
    expected = (beginning / np.linalg.norm(beginning)).astype(np.float32)
    np.testing.assert_allclose(vector("text", 256), expected, atol=1e-7)


def test_a_lone_surrogate_is_the_replacement_character():
    assert np.array_equal(vector("a\ud800b", 8), vector("a\ufffdb", 8))
    assert digest("a\ud800b") == digest("a\ufffdb")


@pytest.mark.parametrize("form", ["base64", "float"])
def test_both_forms_carry_the_same_bytes(plain, form):
    answer = post(plain, encoding_format=form)
    assert is_right(rows_of(answer))
    assert post(plain, TEXTS[0]).json()["data"][0]["object"] == "embedding"
    assert len(post(plain, TEXTS[0], dimensions=3).json()["data"][0]["embedding"]) == 3


# Connections


def test_one_connection_carries_many_requests_even_pipelined(plain):
    with connected(plain) as sock:
        closing = wire_request(BODY, "connection: close")
        sock.sendall(wire_request(BODY) * 2 + closing)
        answers = read_all(sock)
    assert answers.count(b"HTTP/1.1 200") == 3


def test_a_body_may_come_in_chunks_after_a_go_ahead(plain):
    with connected(plain) as sock:
        head = wire_request(b"", "connection: close", "expect: 100-continue")
        sock.sendall(head.replace(b"content-length: 0", b"transfer-encoding: chunked"))
        assert sock.recv(1024).startswith(b"HTTP/1.1 100")
        for part in (BODY[:10], BODY[10:], b""):
            sock.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        assert read_all(sock).startswith(b"HTTP/1.1 200")


def test_what_is_not_http_gets_a_400_and_a_closed_connection(plain):
    with connected(plain) as sock:
        sock.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 400")


def test_head_is_answered_without_a_body(plain):
    with connected(plain) as sock:
        sock.sendall(wire_request(b"", "connection: close", method="HEAD", path="/v1/models"))
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 405")
    assert answer.endswith(b"\r\n\r\n")


def test_a_body_over_the_bound_gets_a_413_and_the_connection_goes_on():
    with Simulator(max_body=1000) as sim, httpx.Client(headers=KEY) as client:
        answer = client.post(f"{sim.base_url}/embeddings", content=b"x" * 3_000_000)
        assert answer.status_code == 413
        assert "1000 bytes" in answer.json()["error"]["message"]
        assert client.get(f"{sim.base_url}/models").status_code == 200


def test_a_client_that_leaves_early_disturbs_nobody():
    with Simulator(latency=0.02, dimensions=8) as sim:
        with connected(sim) as sock:
            sock.sendall(wire_request(BODY))
        with connected(sim) as sock:
            sock.sendall(wire_request(BODY)[:-5])
        assert is_right(rows_of(post(sim)))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "example.com", ""])
def test_only_loopback_addresses_are_served(host):
    with pytest.raises(ConfigurationError, match="loopback"):
        Simulator(host=host)


def test_localhost_and_ipv6_are_loopback():
    with Simulator(host="localhost") as sim:
        assert sim.base_url.startswith("http://127.0.0.1:")
    with contextlib.suppress(ConfigurationError), Simulator(host="::1", dimensions=8) as sim:
        assert is_right(rows_of(post(sim)))  # where the machine has IPv6


def test_a_port_in_use_or_a_second_start_is_refused(plain):
    port = httpx.URL(plain.base_url).port
    with pytest.raises(ConfigurationError, match=str(port)), Simulator(port=port):
        pass
    with pytest.raises(ConfigurationError, match="already"), plain:
        pass


def test_it_can_be_started_again_and_goes_on_where_it_was():
    sim = Simulator(rpm=2, sub_window=60)
    for expected in (200, 200, 429):
        with sim:
            assert post(sim).status_code == expected
        with pytest.raises(ConfigurationError, match="not running"):
            _ = sim.base_url
    assert sim.ledger.statuses() == {200: 2, 429: 1}


async def test_stopping_closes_connections_that_have_only_just_come():
    async with Simulator() as sim:
        url = httpx.URL(sim.base_url)
        clients = [socket.create_connection((url.host, url.port)) for _ in range(50)]
        for client in clients:
            client.sendall(wire_request(BODY))
        await asyncio.sleep(0)
    gc.collect()  # a socket that was not closed is a warning now
    for client in clients:
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert not sim.ledger.statuses()


def test_an_event_loop_that_cannot_watch_sockets_serves_too():
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, *_):
            raise NotImplementedError

    async def main():
        async with Simulator(dimensions=8) as sim, httpx.AsyncClient(headers=KEY) as client:
            body = {"model": MODEL, "input": TEXTS}
            return await client.post(f"{sim.base_url}/embeddings", json=body)

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert is_right(rows_of(runner.run(main())))


async def test_stopping_closes_what_is_in_flight_and_writes_it_down(tmp_path):
    path = tmp_path / "ledger.jsonl"
    async with httpx.AsyncClient(headers=KEY) as client:
        async with Simulator(latency=60, ledger=path) as sim:
            url = f"{sim.base_url}/embeddings"
            body = {"model": MODEL, "input": TEXTS}
            waiting = asyncio.create_task(client.post(url, json=body))
            for _ in range(2):  # round trips that the request above is ahead of
                await client.get(f"{sim.base_url}/models")
        with pytest.raises(httpx.RemoteProtocolError):
            await waiting
    record = Ledger.read(path)[-1]
    assert (record.status, record.admitted, record.inputs) == (None, True, 4)
    assert not record.answered


# Faults


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("500", 500, "server_error"),
        ("503", 503, "service_unavailable_error"),
        ("429", 429, "requests"),
        ("insufficient_quota", 429, "insufficient_quota"),
    ],
)
def test_a_fault_with_a_status_has_its_error_body(fault, status, kind):
    with Simulator(faults=Faults(retry_after=0.25)) as sim:
        answer = post(sim, fault=fault)
        (record,) = sim.ledger
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == kind
    waits = (answer.headers.get("retry-after-ms"), answer.headers.get("retry-after"))
    assert waits == (("250", "1") if fault == "429" else (None, None))
    assert (record.fault, record.admitted) == (fault, status >= 500)
    assert record.request_id == answer.headers["x-request-id"]


@pytest.mark.parametrize("form", ["base64", "float"])
@pytest.mark.parametrize(
    ("fault", "rows", "wrong"),
    [
        ("permuted", 4, set()),
        ("missing_row", 3, {"missing"}),
        ("null_row", 4, {"null"}),
        ("nan_row", 4, {"nan"}),
        ("short_row", 4, {"short"}),
        ("duplicate_index", 4, {"missing", "twice"}),
    ],
)
def test_a_fault_of_the_rows_spoils_one_row_and_no_other(plain, fault, rows, wrong, form):
    answer = post(plain, fault=fault, encoding_format=form)
    assert answer.status_code == 200
    found = rows_of(answer)
    indices = Counter(index for index, _ in found)
    met = {"twice"} if max(indices.values()) > 1 else set()
    met |= {"missing"} if set(indices) != {0, 1, 2, 3} else set()
    met |= {"null" for _, values in found if values is None}
    met |= {"nan" for _, values in found if values is not None and np.isnan(values).all()}
    met |= {"short" for _, values in found if values is not None and len(values) == 7}
    assert (len(found), met) == (rows, wrong)
    right = [
        values is not None and np.array_equal(values, vector(TEXTS[index], 8))
        for index, values in found
    ]
    assert right.count(False) == (0 if fault in {"permuted", "missing_row"} else 1)
    assert ([index for index, _ in found] != [0, 1, 2, 3]) == (
        fault in {"permuted", "missing_row", "duplicate_index"}
    )
    assert plain.ledger[-1].answered == (fault == "permuted")


def test_a_fault_that_needs_two_rows_leaves_a_single_one_alone(plain):
    for fault in ("permuted", "duplicate_index"):
        assert is_right(rows_of(post(plain, ["one"], fault=fault)), ["one"])
        assert plain.ledger[-1].fault is None
    assert post(plain, ["one"], fault="missing_row").json()["data"] == []


def test_disconnect_closes_without_a_byte(plain):
    with connected(plain) as sock:
        sock.sendall(wire_request(BODY, "x-simulator-fault: disconnect"))
        assert read_all(sock) == b""
    assert (plain.ledger[-1].status, plain.ledger[-1].fault) == (None, "disconnect")


def test_truncated_promises_more_than_it_sends(plain):
    with connected(plain) as sock:
        sock.sendall(wire_request(BODY, "x-simulator-fault: truncated"))
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert 0 < len(body) < promised
    assert not plain.ledger[-1].answered


def test_delay_is_added_to_the_latency():
    with Simulator(faults=Faults(delay=0.03)) as sim:
        answer = post(sim, fault="delay")
    assert answer.status_code == 200
    assert int(answer.headers["openai-processing-ms"]) >= 30


def test_the_seed_and_the_number_of_the_request_decide():
    faults = Faults({"500": 0.2, "disconnect": 0.1, "nan_row": 0.7}, seed=7)
    drawn = [faults.draw(ordinal) for ordinal in range(10_000)]
    counts = Counter(drawn)
    for name, rate in faults.rates.items():
        # Five standard deviations.
        assert abs(counts[name] - 10_000 * rate) < 5 * math.sqrt(10_000 * rate * (1 - rate))
    assert counts.total() == sum(counts[name] for name in faults.rates)
    again = Faults(dict(reversed(faults.rates.items())), seed=7)
    assert drawn == [again.draw(ordinal) for ordinal in range(10_000)]
    assert drawn != [Faults(faults.rates, seed=8).draw(ordinal) for ordinal in range(10_000)]
    with Simulator(faults=Faults({"500": 0.5}, seed=3)) as sim:
        statuses = [post(sim).status_code for _ in range(20)]
    halves = Faults({"500": 0.5}, seed=3)
    assert statuses == [500 if halves.draw(ordinal) else 200 for ordinal in range(20)]
    assert set(statuses) == {200, 500}


@pytest.mark.parametrize(
    "rates", [{"501": 0.1}, {"500": -0.1}, {"500": 1.1}, {"500": 0.6, "503": 0.6}]
)
def test_rates_that_cannot_be_are_refused(rates):
    with pytest.raises(ConfigurationError):
        Faults(rates)


def test_rates_cannot_be_changed_afterwards():
    given = {"500": 0.5}
    faults = Faults(given)
    given["500"] = 0.0
    assert faults.rates == {"500": 0.5}
    with pytest.raises(TypeError):
        faults.rates["500"] = 0.0


def test_an_unknown_fault_in_the_header_is_named(plain):
    answer = post(plain, fault="earthquake")
    assert answer.status_code == 400
    assert all(name in answer.json()["error"]["message"] for name in ("earthquake", *FAULTS))
