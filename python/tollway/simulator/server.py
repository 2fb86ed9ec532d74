"""HTTP/1.1 on loopback: connections, framing and shutdown, for any handler."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, SupportsIndex

import h11

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

__all__ = ["HTTPServer", "Request", "Response", "loopback"]

_CHUNK = 1 << 20
_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Attributes:
        method: In capitals.
        path: Without the query.
        headers: Names in lower case.
        body: Empty where there is none.
        arrival: When its last byte was read, seconds of `time.monotonic`.
        query: What follows the path, without the question mark.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    arrival: float
    query: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        status: HTTP status.
        body: JSON.
        headers: Beside content-type and content-length.
        cut: Bytes of the body to send before the connection is closed; None for all of it.
        parts: The body in parts that are sent as they come, in place of `body`. Where `cut` is
            given, the connection is closed after them without the end of the body.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    cut: int | None = None
    parts: AsyncGenerator[bytes, None] | None = None


class _TooLarge(Exception):  # noqa: N818 - becomes an answer
    pass


class _Reader(asyncio.StreamReader):
    """Knows when it got its last bytes: requests that come together are worked on in turn."""

    fed_at = 0.0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.fed_at = time.monotonic_ns() / 1e9
        super().feed_data(data)


async def _connection(accepted: socket.socket) -> tuple[_Reader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = _Reader(_CHUNK, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=accepted)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class HTTPServer:
    """Serves a handler on a loopback address.

    Args:
        handler: Takes a request, returns the answer; None closes the connection without one.
        refuse: Makes the answer to what is not a proper request, from a status and a message.
        host: A loopback address.
        port: 0 for any free one.
        max_body: Bytes of a request's body; a longer one is answered with 413.
    """

    def __init__(
        self,
        handler: Callable[[Request], Awaitable[Response | None]],
        refuse: Callable[[int, str], Response],
        *,
        host: str,
        port: int,
        max_body: int,
    ) -> None:
        self._handler = handler
        self._refuse = refuse
        self._host = loopback(host)
        self._port = port
        self._max_body = max_body
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._poll: asyncio.TimerHandle | None = None

    async def start(self) -> str:
        """Listen, and return the address as `http://host:port`.

        Raises:
            ConfigurationError: The port is in use or not allowed.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server((self._host, self._port), family=family, backlog=1024)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None)
            raise ConfigurationError(
                f"cannot listen on {self._host} port {self._port}: "
                f"{os.strerror(number) if number else error}; port 0 takes any free one"
            ) from error
        listener.setblocking(False)
        self._listener = listener
        try:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        except NotImplementedError:
            self._accept_now_and_then(listener)
        host, port = listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening and close every connection; what was in flight gets no answer."""
        assert self._listener is not None
        if self._poll is None:
            asyncio.get_running_loop().remove_reader(self._listener)
        else:
            self._poll.cancel()
            self._poll = None
        self._listener.close()
        # A task that is cancelled before it first runs would not close its socket.
        await asyncio.sleep(0)
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    # The loops' own ways to accept lose connections that arrive while they are stopped.
    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                accepted, _ = listener.accept()
                task = asyncio.create_task(self._serve(accepted))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)

    def _accept_now_and_then(self, listener: socket.socket) -> None:
        """Accept without a reader: the default loop of Windows has none."""
        self._accept(listener)
        self._poll = asyncio.get_running_loop().call_later(
            0.005, self._accept_now_and_then, listener
        )

    async def _serve(self, accepted: socket.socket) -> None:
        with accepted:
            reader, writer = await _connection(accepted)
            try:
                await self._converse(reader, writer)
                writer.close()
                await writer.wait_closed()
            except ConnectionError:
                pass  # a client may go away at any moment; that is its right
            finally:
                # At once: closing would wait for a client that does not read its answer.
                writer.transport.abort()

    async def _converse(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until either side wants to close."""
        connection = h11.Connection(h11.SERVER)
        while True:
            method = ""
            response: Response | None
            try:
                request = await self._read(connection, reader, writer)
                if request is None:
                    return
                method = request.method
                response = await self._handler(request)
            except _TooLarge:
                response = self._refuse(413, f"The body is over {self._max_body} bytes")
            except h11.RemoteProtocolError as error:
                response = self._refuse(error.error_status_hint, str(error))
            if response is None:
                return
            if response.parts is not None:
                whole = await self._send_parts(connection, writer, response, response.parts)
            else:
                whole = await self._send(connection, writer, response, method)
            if not whole:
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _send(
        self,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        response: Response,
        method: str,
    ) -> bool:
        """Send a whole answer; False where it is cut short."""
        headers = {
            "content-type": "application/json",
            "content-length": str(len(response.body)),
            **response.headers,
        }
        head = connection.send(
            h11.Response(status_code=response.status, headers=list(headers.items()))
        )
        assert head is not None
        body = b"" if method == "HEAD" else response.body
        # An empty part would stay in the transport's buffer for ever from Python 3.12 on.
        writer.writelines(part for part in (head, body[: response.cut]) if part)
        await writer.drain()
        if response.cut is not None:
            return False
        if body:
            connection.send(h11.Data(data=body))
        connection.send(h11.EndOfMessage())
        return True

    async def _send_parts(
        self,
        connection: h11.Connection,
        writer: asyncio.StreamWriter,
        response: Response,
        parts: AsyncGenerator[bytes, None],
    ) -> bool:
        """Send an answer as its parts come; False where it is cut short."""
        headers = {"content-type": "text/event-stream", **response.headers}
        if "content-length" not in headers:
            headers["transfer-encoding"] = "chunked"
        head = h11.Response(status_code=response.status, headers=list(headers.items()))
        writer.write(connection.send(head) or b"")
        async with contextlib.aclosing(parts):
            async for part in parts:
                writer.write(connection.send(h11.Data(data=part)) or b"")
                await writer.drain()
                if writer.transport.is_closing():
                    return False
        if response.cut is not None:
            return False
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return True

    async def _read(
        self,
        connection: h11.Connection,
        reader: _Reader,
        writer: asyncio.StreamWriter,
    ) -> Request | None:
        """Read one request; None where the client has closed the connection."""
        head: h11.Request | None = None
        parts: list[bytes] = []
        size = 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    writer.write(connection.send(go_on) or b"")
                connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                # The rest of too long a body is read and dropped: a client that is still
                # sending would not see an answer.
                size += len(event.data)
                if size <= self._max_body:
                    parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return None
        if size > self._max_body:
            raise _TooLarge
        assert head is not None
        path, _, query = head.target.decode("latin-1").partition("?")
        return Request(
            head.method.decode(),
            path,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
            b"".join(parts),
            reader.fed_at,
            query,
        )


def loopback(host: str) -> str:
    """Return the loopback address a host name stands for.

    Raises:
        ConfigurationError: It is not one: the simulator takes any key and must not be reachable.
    """
    # A name may stand for two addresses, and then for two different free ports.
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise ConfigurationError(f"host {host!r} is not a loopback address such as 127.0.0.1 or ::1")
