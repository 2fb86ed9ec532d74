"""Requests over the clients of httpx and httpx2: whose they are, how they fail, who closes them."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import traceback
import weakref

import httpx
import httpx2
import openai
import pytest

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadResponseError,
    ConfigurationError,
)
from tollway.simulator import Simulator
from tollway.transport import HttpxTransport, Request, Response
from wire import Wire, answer

LIBRARIES = [httpx, httpx2]


class OfAUser(httpx.AsyncClient):
    """A client whose class is in a module of somebody's own."""


def post(url, **fields):
    return Request("POST", url, {"authorization": "Bearer sk-secret"}, b"{}", **fields)


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


async def status(transport, sim):
    answer = await transport.send(post(f"{sim.base_url}/embeddings"))
    assert isinstance(answer, Response)
    assert answer.headers["content-type"] == "application/json"
    assert b"error" in answer.body
    return answer.status


@pytest.mark.parametrize(
    "make", [httpx.AsyncClient, httpx2.AsyncClient, OfAUser, openai.DefaultAsyncHttpxClient]
)
async def test_a_client_that_is_given_is_used_and_left_open(sim, make):
    async with make() as client:
        transport = HttpxTransport(client)
        await transport.open()
        assert await status(transport, sim) == 400
        await transport.aclose()
        assert not client.is_closed
        assert await status(transport, sim) == 400
        del transport
        gc.collect()
        await asyncio.sleep(0)
        assert not client.is_closed


@pytest.mark.parametrize("wrong", [httpx.Client(), object(), "client"])
def test_what_is_no_client_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="must be an httpx"):
        HttpxTransport(wrong)


async def test_own_clients_are_closed_and_made_again(sim):
    transport = HttpxTransport()
    assert await status(transport, sim) == 400
    client = transport._clients.get()
    assert transport._clients.get() is client
    await transport.aclose()
    assert client.is_closed
    assert await status(transport, sim) == 400
    await transport.aclose()
    await transport.aclose()


def test_each_loop_has_a_client_of_its_own(sim):
    transport = HttpxTransport()

    async def once():
        assert await status(transport, sim) == 400
        client = transport._clients.get()
        await transport.aclose()
        return client

    first, second = asyncio.run(once()), asyncio.run(once())
    assert first is not second
    assert first.is_closed
    assert second.is_closed


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_connections_of_closed_loops_are_not_kept(sim):
    """As of a script that calls `asyncio.run` for each of its requests."""
    transport, loops = HttpxTransport(), []

    async def once():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        assert await status(transport, sim) == 400

    async def last():
        await once()
        await transport.aclose()

    for _ in range(3):
        asyncio.run(once())
    asyncio.run(last())
    gc.collect()
    assert [loop() for loop in loops[:3]] == [None] * 3


async def test_a_client_that_nobody_uses_any_more_is_closed(sim):
    transport = HttpxTransport()
    assert await status(transport, sim) == 400
    client = transport._clients.get()
    del transport
    gc.collect()
    for _ in range(100):
        if client.is_closed:
            break
        await asyncio.sleep(0.01)
    assert client.is_closed


@pytest.mark.parametrize("library", LIBRARIES)
async def test_nobody_listens(library):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/embeddings"
        async with library.AsyncClient() as client:
            with pytest.raises(APIConnectionError, match="could not be reached") as caught:
                await HttpxTransport(client).send(post(url))
    assert url in str(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("fault", ["disconnect", "truncated"])
async def test_a_connection_that_breaks(sim, library, fault):
    headers = {"authorization": "Bearer any", "x-simulator-fault": fault}
    body = b'{"model": "text-embedding-3-small", "input": ["a", "b"]}'
    async with library.AsyncClient() as client:
        with pytest.raises(APIConnectionError):
            await HttpxTransport(client).send(
                Request("POST", f"{sim.base_url}/embeddings", headers, body)
            )


@pytest.mark.parametrize("library", LIBRARIES)
async def test_the_time_of_a_request_and_of_the_clients_own(library):
    body = b'{"model": "text-embedding-3-small", "input": "a"}'
    with Simulator(latency=5) as slow:
        url = f"{slow.base_url}/embeddings"
        headers = {"authorization": "Bearer any"}
        async with library.AsyncClient() as client:
            with pytest.raises(APITimeoutError, match=r"at most 0.05 s"):
                await HttpxTransport(client).send(Request("POST", url, headers, body, timeout=0.05))
        async with library.AsyncClient(timeout=library.Timeout(30.0, read=0.05)) as client:
            with pytest.raises(APITimeoutError, match="ReadTimeout"):
                await HttpxTransport(client).send(Request("POST", url, headers, body))


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_timeout_that_nobody_chose_does_not_end_a_long_request(library):
    seen = []

    def answer(request):
        seen.append(request.extensions["timeout"])
        return library.Response(200, content=b"{}")

    for timeout in (library.Timeout(5.0), library.Timeout(7.0)):
        mock = library.MockTransport(answer)
        async with library.AsyncClient(transport=mock, timeout=timeout) as client:
            await HttpxTransport(client).send(post("http://127.0.0.1:1/v1"))
    assert [timeout["read"] for timeout in seen] == [600.0, 7.0]
    assert seen[0]["connect"] == 5.0


async def test_cancelling_closes_the_request():
    """The server sees the connection end while it is still at work."""
    arrived, closed = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65_536):
                    arrived.set()
            closed.set()

        thread = threading.Thread(target=serve)
        thread.start()
        transport = HttpxTransport()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        task = asyncio.create_task(transport.send(post(url)))
        assert await asyncio.to_thread(arrived.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(closed.wait, 30)
        await transport.aclose()
        thread.join(10)


async def fails(transport, url, error, match):
    with pytest.raises(error, match=match) as caught:
        await transport.send(post(url))
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("library", LIBRARIES)
async def test_an_answer_that_is_not_packed_as_it_says(library):
    def script(connection):
        connection.read()
        connection.send(answer(b"plain", "200 OK", "content-encoding: gzip"))

    with Wire(script) as wire:
        async with library.AsyncClient() as client:
            await fails(HttpxTransport(client), wire.url, BadResponseError, "could not be unpacked")


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_header_that_cannot_be_is_not_shown(library):
    with Wire() as wire:
        async with library.AsyncClient(headers={"x-key": "hunter2\n"}) as client:
            transport = HttpxTransport(client)
            shown = await fails(transport, wire.url, ConfigurationError, "no header may hold")
    assert "hunter2" not in shown
    assert wire.requests == []


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_header_that_is_not_ascii_is_not_shown(library):
    with Wire() as wire:
        request = Request("POST", wire.url, {"x-key": "hunter2é"}, b"")
        async with library.AsyncClient() as client:
            with pytest.raises(ConfigurationError, match="no header may hold") as caught:
                await HttpxTransport(client).send(request)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert wire.requests == []


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "url",
    ["http://[::1/?key=hunter2", "http://user:hunter2/x@host/", "http://user:hunter2#x@host/",
     "hunter2.example/v1", "ftp://hunter2/", "http://", "http://host/hunter2\n"],
)  # fmt: skip
async def test_what_is_no_address_is_a_mistake_and_not_shown(library, url):
    async with library.AsyncClient() as client:
        shown = await fails(HttpxTransport(client), url, ConfigurationError, "needs an address")
    assert "hunter2" not in shown


@pytest.mark.parametrize("library", LIBRARIES)
async def test_of_an_address_neither_password_nor_query_is_shown(library):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unused.getsockname()[1]}/v1"
        async with library.AsyncClient() as client:
            transport = HttpxTransport(client)
            for url in (f"http://user:hunter2@{place}?key=hunter2", f"http://{place}#hunter2"):
                shown = await fails(transport, url, APIConnectionError, f"http://{place} could")
                assert "hunter2" not in shown


def test_headers_and_bodies_are_not_shown():
    shown = repr(post("http://127.0.0.1/v1"))
    assert "sk-secret" not in shown
    assert "http://127.0.0.1/v1" in shown
    assert "vector" not in repr(Response(200, {}, b"vector"))
