"""What the client of our own sends of itself, and how it reads what is packed."""

from __future__ import annotations

import gzip
import zlib

import pytest

from tollway.errors import BadResponseError
from tollway.transport import NativeTransport, Request
from wire import Wire, answer

TEXT = b"long " * 999


def raw(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


async def sent(method, body=b"", headers=None, headers_of_all=None, path="/v1"):
    """The head and body of a request as they came; the one that follows it came so too."""
    heard = []

    def script(connection):
        while (request := connection.read()) is not None:
            heard.append(request)
            connection.send(answer())

    with Wire(script) as wire:
        transport = NativeTransport(headers=headers_of_all)
        url = f"http://127.0.0.1:{wire.port}{path}"
        for _ in range(2):
            reply = await transport.send(Request(method, url, headers or {}, body))
            assert reply.status == 200
        assert wire.connections == 1
    assert heard[0] == heard[1]
    head, arrived = heard[0]
    return head.lower().split("\r\n"), arrived


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_an_empty_body_has_a_length_where_one_is_expected(method):
    """Some servers answer 411 to a request that could have a body and does not say."""
    head, _ = await sent(method)
    assert "content-length: 0" in head
    head, _ = await sent("GET")
    assert not any(line.startswith("content-length") for line in head)


@pytest.mark.parametrize(
    "headers", [{"content-length": "1"}, {"Content-Length": "9"}, {"transfer-encoding": "chunked"}]
)
async def test_nobody_else_says_how_long_a_body_is(headers):
    for own, of_all in ((headers, {}), ({}, headers)):
        head, body = await sent("POST", b"whole", own, of_all)
        lengths = [line for line in head if line.startswith(("content-length", "transfer"))]
        assert lengths == ["content-length: 5"]
        assert body == b"whole"


async def test_who_asks_is_told_unless_somebody_else_says_so():
    head, _ = await sent("GET")
    assert any(line.startswith("user-agent: tollway/") for line in head)
    mine = {"User-Agent": "mine/1"}
    for own, of_all in ((mine, {}), ({}, mine)):
        head, _ = await sent("GET", b"", own, of_all)
        assert [line for line in head if "agent" in line] == ["user-agent: mine/1"]


async def test_an_address_is_sent_in_ascii():
    head, _ = await sent("GET", path="/v1/models/é b%2F?q=ü")
    assert head[0] == "get /v1/models/%c3%a9%20b%2f?q=%c3%bc http/1.1"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(TEXT), "GZip"),
        (gzip.compress(TEXT), "identity, x-gzip"),
        (gzip.compress(TEXT), "identity\r\ncontent-encoding: gzip"),
        (zlib.compress(TEXT), "Deflate"),
        (raw(TEXT), "deflate"),
        (TEXT, "Identity"),
        (TEXT, ""),
    ],
)
async def test_names_of_packings(body, encoding):
    def script(connection):
        connection.read()
        connection.send(answer(body, "200 OK", f"content-encoding: {encoding}"))

    with Wire(script) as wire:
        assert (await NativeTransport().send(Request("GET", wire.url, {}))).body == TEXT


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("POST", answer(b"", "200 OK", "content-encoding: gzip")),
        ("POST", b"HTTP/1.1 204 No Content\r\ncontent-encoding: br\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-encoding: gzip\r\n\r\n"),
    ],
)
async def test_a_body_that_is_not_there_is_not_unpacked(method, data):
    def script(connection):
        connection.read()
        connection.send(data)

    with Wire(script) as wire:
        reply = await NativeTransport().send(Request(method, wire.url, {}))
    assert reply.body == b""


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip, br", "zstd", "deflate"])
async def test_packings_that_are_not_taken(encoding):
    def script(connection):
        connection.read()
        connection.send(answer(b"\xff?", "200 OK", f"content-encoding: {encoding}"))

    match = r"not asked for|could not be unpacked"
    with Wire(script) as wire, pytest.raises(BadResponseError, match=match):
        await NativeTransport().send(Request("GET", wire.url, {}))
