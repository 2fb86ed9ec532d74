"""The client of our own, against servers that do what they should and servers that do not."""

from __future__ import annotations

import asyncio
import gc
import gzip
import math
import threading
import time
import zlib

import pytest

import tollway
from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadResponseError,
    ConfigurationError,
)
from tollway.transport import NativeTransport, Request, Timeouts
from wire import Wire, answer

KEY = "sk-secret"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


def post(url, body=b"{}", **fields):
    return Request("POST", url, HEADERS, body, **fields)


async def fails(error, url, match, transport=None, **fields):
    with pytest.raises(error, match=match) as caught:
        await (transport or NativeTransport()).send(post(url, **fields))
    assert caught.value.__context__ is None
    return str(caught.value)


# Answers


async def test_connections_are_used_again_and_what_is_sent_arrives():
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-Many: a\r\nx-many: b\r\n\r\n"
        b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\ntrailer: t\r\n\r\n"
    )

    def script(connection):
        for data in (answer(b"first"), chunked, answer(b"")):
            connection.read()
            connection.send(data)
        connection.read()

    with Wire(script) as wire:
        transport = NativeTransport(headers={"x-extra": "yes", "Content-Type": "text/plain"})
        await transport.open()
        first = await transport.send(post(wire.url, b"body"))
        second = await transport.send(post(wire.url, b""))
        third = await transport.send(Request("GET", wire.url, {}))
        assert wire.connections == 1
        await transport.aclose()
    assert (first.status, first.body) == (200, b"first")
    assert (second.body, second.headers["x-many"]) == (b"abcde", "a, b")
    assert third.body == b""
    head, body = wire.requests[0]
    assert body == b"body"
    lines = head.lower().split("\r\n")
    assert lines[0] == "post /v1/embeddings http/1.1"
    assert set(lines[1:]) == {
        f"host: 127.0.0.1:{wire.port}",
        f"authorization: bearer {KEY}",
        "content-type: text/plain",
        f"user-agent: tollway/{tollway.__version__}",
        "x-extra: yes",
        "content-length: 4",
    }
    assert wire.requests[2][0].startswith("GET ")


async def test_answers_of_every_status_are_answers_and_no_redirect_is_followed():
    def script(connection):
        for status in (307, 302, 404, 429, 500):
            connection.read()
            connection.send(answer(b"why", f"{status} x", "location: /elsewhere"))

    with Wire(script) as wire:
        transport = NativeTransport()
        statuses = [(await transport.send(post(wire.url))).status for _ in range(5)]
    assert statuses == [307, 302, 404, 429, 500]
    assert {head.split(" ")[1] for head, _ in wire.requests} == {"/v1/embeddings"}


async def test_informational_answers_come_before_the_answer():
    def script(connection):
        connection.read()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n")
        connection.send(answer(b"real"))

    with Wire(script) as wire:
        assert (await NativeTransport().send(post(wire.url))).body == b"real"


async def test_a_body_that_ends_with_the_connection():
    def script(connection):
        connection.read()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    with Wire(script) as wire:
        transport = NativeTransport()
        for _ in range(2):
            assert (await transport.send(post(wire.url))).body == b"until the end"
    assert wire.connections == 2


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "after 4 of 10 bytes"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nha", "after 2 bytes"),
        (b"220 mail.example ESMTP\r\n", "broke off"),
    ],
)
async def test_an_answer_that_is_cut_short_is_none(data, match):
    def script(connection):
        connection.read()
        connection.send(data)

    with Wire(script) as wire:
        await fails(APIConnectionError, wire.url, match)
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [(gzip.compress, "gzip"), (zlib.compress, "deflate"), (bytes, "identity")],
)
async def test_packed_answers_are_unpacked(pack, encoding):
    def script(connection):
        connection.read()
        connection.send(answer(pack(b"long " * 999), "200 OK", f"content-encoding: {encoding}"))

    with Wire(script) as wire:
        assert (await NativeTransport().send(post(wire.url))).body == b"long " * 999


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (answer(b"x" * 101), "longer than 100 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n",
            "longer than 100 bytes",
        ),
        (
            answer(gzip.compress(b"x" * 9999), "200 OK", "content-encoding: gzip"),
            "longer than 100 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n", "longer"),
        (answer(b"?", "200 OK", "content-encoding: br"), "was not asked for"),
        (answer(b"?", "200 OK", "content-encoding: gzip"), "could not be unpacked"),
    ],
)
async def test_answers_that_are_not_taken(data, match):
    def script(connection):
        connection.read()
        connection.send(data)
        connection.wait_for_the_end()

    with Wire(script) as wire:
        transport = NativeTransport(max_answer=100)
        error = APIConnectionError if b"18446744073709551615" in data else BadResponseError
        if error is APIConnectionError:
            match = "broke off|longer"
        with pytest.raises((error, BadResponseError), match=match):
            await transport.send(post(wire.url))


# Time


@pytest.mark.parametrize(
    ("begin", "timeouts", "name"),
    [
        (b"", Timeouts(first_byte=0.1), "did not begin to answer within 0.1 s .first byte"),
        (b"HTTP/1.1 200", Timeouts(first_byte=0.1), "first byte timeout"),
        (answer(b"xx")[:-1], Timeouts(idle=0.1), "stopped answering within 0.1 s .idle timeout"),
        (answer(b"xx")[:-1], Timeouts(total=0.1), "within 0.1 s .total timeout"),
        (b"", 0.1, "within 0.1 s .(first byte|total) timeout"),
    ],
)
async def test_each_time_that_runs_out_is_named_and_closes_the_connection(begin, timeouts, name):
    def script(connection):
        connection.read()
        connection.send(begin)
        connection.wait_for_the_end()

    with Wire(script) as wire:
        await fails(APITimeoutError, wire.url, name, NativeTransport(timeout=timeouts))
        assert wire.ended.wait(30)


async def test_a_time_of_the_request():
    with Wire(lambda connection: connection.wait_for_the_end()) as wire:
        await fails(APITimeoutError, wire.url, "total timeout", timeout=0.1)


async def test_a_connection_that_is_not_agreed_upon_in_time():
    """The server accepts and says nothing: TLS is part of connecting."""
    with Wire(lambda connection: connection.wait_for_the_end()) as wire:
        url = wire.url.replace("http:", "https:")
        transport = NativeTransport(timeout=Timeouts(connect=0.1))
        await fails(APITimeoutError, url, "within 0.1 s .connect timeout", transport)
        assert wire.ended.wait(30)


async def test_a_slow_answer_is_no_late_one():
    """The idle time is between two parts, and each of them begins it anew."""

    def script(connection):
        connection.read()
        data = answer(b"x" * 25)
        connection.send(data[:-25])
        for _ in range(25):
            time.sleep(0.1)
            connection.send(b"x")

    with Wire(script) as wire:
        transport = NativeTransport(timeout=Timeouts(idle=2.0, first_byte=math.inf))
        assert (await transport.send(post(wire.url))).body == b"x" * 25


@pytest.mark.parametrize("wrong", [0, -1, math.nan])
def test_times_are_over_zero(wrong):
    with pytest.raises(ConfigurationError, match="number of seconds over 0"):
        NativeTransport(timeout=Timeouts(idle=wrong))


# Cancelling, and connections that are closed


@pytest.mark.parametrize("begin", [b"", answer(b"xx")[:-1]])
async def test_cancelling_closes_the_connection(begin):
    sent = threading.Event()

    def script(connection):
        connection.read()
        connection.send(begin)
        sent.set()
        connection.wait_for_the_end()

    with Wire(script) as wire:
        task = asyncio.create_task(NativeTransport().send(post(wire.url)))
        await asyncio.to_thread(sent.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(wire.ended.wait, 30)


async def test_a_connection_closed_between_requests_is_not_used():
    """Each request is seen once, whenever the server closes between them."""
    closing = threading.Semaphore(0)
    closed = threading.Semaphore(0)

    def script(connection):
        connection.read()
        connection.send(answer())
        closing.acquire(timeout=30)
        connection.sock.close()
        closed.release()

    with Wire(script) as wire:
        transport = NativeTransport()
        for i in range(5):
            body = f"{i}".encode()
            assert (await transport.send(post(wire.url, body))).status == 200
            closing.release()
            await asyncio.to_thread(closed.acquire, timeout=30)
            # The kernel has yet to deliver the end.
            await asyncio.sleep(0.1)
    assert [body for _, body in wire.requests] == [b"0", b"1", b"2", b"3", b"4"]
    assert wire.connections == 5


async def test_a_request_that_was_written_is_never_sent_again():
    """The server has it, and may have done what it asks for, though no byte of an answer came."""

    def script(connection):
        connection.read()
        connection.send(answer())
        connection.read()

    with Wire(script) as wire:
        transport = NativeTransport()
        await transport.send(post(wire.url, b"0"))
        await fails(APIConnectionError, wire.url, "broke off", transport, body=b"1")
        assert [body for _, body in wire.requests] == [b"0", b"1"]
        assert wire.connections == 1


async def test_a_server_that_closes_after_each_answer_at_its_own_pace():
    """The race of keep-alive, many times: nothing is lost in silence and nothing sent twice."""

    def script(connection):
        for _ in range(3):
            if connection.read() is None:
                return
            connection.send(answer())

    with Wire(script) as wire:
        transport = NativeTransport()

        async def one(i):
            try:
                await transport.send(post(wire.url, f"{i}".encode()))
            except APIConnectionError:
                return False
            return True

        answered = []
        for start in range(0, 400, 8):
            answered += await asyncio.gather(*(one(i) for i in range(start, start + 8)))
    seen = [int(body) for _, body in wire.requests]
    assert len(seen) == len(set(seen))
    assert set(seen) >= {i for i, right in enumerate(answered) if right}
    assert sum(answered) > 200


@pytest.mark.parametrize("is_later", [False, True])
async def test_what_a_server_says_unasked_ends_the_connection(is_later):
    late = answer(b"for nobody", "408 Request Timeout")
    idle, said = threading.Semaphore(0), threading.Semaphore(0)

    def script(connection):
        connection.read()
        connection.send(answer() if is_later else answer() + late)
        if is_later:
            idle.acquire(timeout=30)
            connection.send(late)
        said.release()
        connection.wait_for_the_end()

    with Wire(script) as wire:
        transport = NativeTransport()
        for _ in range(3):
            reply = await transport.send(post(wire.url))
            assert (reply.status, reply.body) == (200, b"{}")
            idle.release()
            await asyncio.to_thread(said.acquire, timeout=30)
            await asyncio.sleep(0.1)
    assert wire.connections == 3


async def test_connection_close_is_heard():
    def script(connection):
        connection.read()
        connection.send(answer(b"{}", "200 OK", "connection: close"))
        connection.wait_for_the_end()

    with Wire(script) as wire:
        transport = NativeTransport()
        await transport.send(post(wire.url))
        assert await asyncio.to_thread(wire.ended.wait, 30)


async def test_closing_and_dropping_a_transport_close_its_connections():
    def script(connection):
        connection.read()
        connection.send(answer())
        connection.wait_for_the_end()

    for close in (True, False):
        with Wire(script) as wire:
            transport = NativeTransport()
            await transport.send(post(wire.url))
            if close:
                await transport.aclose()
            else:
                del transport
                gc.collect()
            assert await asyncio.to_thread(wire.ended.wait, 30)


async def test_requests_that_cannot_be():
    transport = NativeTransport()
    for url in ("", "ftp://host/", "http://", "http://user:pw@host/", "http://h:x/", "/path"):
        with pytest.raises((ConfigurationError, APIConnectionError)) as caught:
            await transport.send(post(url))
        assert "pw" not in str(caught.value)
    for headers in ({"a b": "c"}, {"a": f"{KEY}\n"}):
        with pytest.raises(ConfigurationError, match="no header may hold") as caught:
            await transport.send(Request("POST", "http://127.0.0.1:1/", headers))
        assert KEY not in str(caught.value)
    with pytest.raises(TypeError, match="not one str"):
        await transport.embed("http://127.0.0.1:1/", {}, "m", "one text")
    with pytest.raises(ConfigurationError, match="max_answer"):
        NativeTransport(max_answer=0)
