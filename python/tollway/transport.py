"""Requests over HTTP: a small protocol, and its adapter for the clients of httpx and httpx2.

This is the only module that asks which of the two a client belongs to. An adapter raises no
exception of either: a request that got no answer is an `APIConnectionError` or `APITimeoutError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tollway.errors import APIConnectionError, APITimeoutError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONNECT_TIMEOUT",
    "TIMEOUT",
    "HttpxTransport",
    "Request",
    "Response",
    "Transport",
    "response_class",
    "transport_error",
    "transport_exceptions",
]

# Seconds. An answer of 2,048 vectors takes long to compute; a server that is there accepts a
# connection soon.
TIMEOUT = 600.0
CONNECT_TIMEOUT = 5.0

_LIBRARIES = ("httpx", "httpx2")

# A loop keeps its tasks by weak references only.
_closing: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Its headers carry the key, so that they are not shown.

    Attributes:
        method: `GET`, `POST`.
        url: Absolute; never with a key in it.
        headers: As sent.
        body: As sent.
        timeout: Seconds for the whole exchange.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    timeout: float = TIMEOUT


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        body: Whole and decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Transport(Protocol):
    """What carries requests."""

    async def open(self) -> None:
        """Make ready for this event loop, so that the first request leaves as soon as the others.

        A permit counts from when it is given: what comes between it and the wire must be short.
        """
        ...

    async def send(self, request: Request) -> Response:
        """Send a request and return the whole answer.

        Raises:
            APITimeoutError: No whole answer within `request.timeout`.
            APIConnectionError: No connection, or it broke.

        Cancellation closes the request.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that the transport itself opened."""
        ...


class HttpxTransport:
    """Sends with a given `httpx.AsyncClient` or `httpx2.AsyncClient`, or with clients of its own.

    Args:
        client: Used as it is (but for a timeout of 5 s, the libraries' default, which becomes
            that of the request) and left open. Without one, each event loop gets a client, made
            on first use and closed by `aclose`, or when the transport is no longer used.
    """

    def __init__(self, client: Any = None) -> None:
        if client is not None and not (hasattr(client, "aclose") and _library(client)):
            raise ConfigurationError(
                "http_client must be an httpx.AsyncClient or httpx2.AsyncClient, not "
                f"{type(client).__name__}"
            )
        self._given = client
        # A client's connections belong to the loop that opened them.
        self._own: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = (
            weakref.WeakKeyDictionary()
        )
        # A loop that goes on after its last user, as that of the synchronous calls does, would
        # hold the sockets for as long as the process lives.
        weakref.finalize(self, _close_all, self._own, os.getpid()).atexit = False

    async def open(self) -> None:
        """Make this loop's client, and load what it would load with its first request.

        Together they take 0.1 s, which must not lie between a permit and the wire.
        """
        self._client()
        import anyio.lowlevel  # noqa: PLC0415 - both libraries import it with their first request

        await anyio.lowlevel.checkpoint()

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        client = self._own.get(loop)
        if client is None:
            import httpx  # noqa: PLC0415

            limits = httpx.Limits(
                max_connections=1000, max_keepalive_connections=100, keepalive_expiry=30.0
            )
            timeout = httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
            client = self._own[loop] = httpx.AsyncClient(limits=limits, timeout=timeout)
        return client

    async def send(self, request: Request) -> Response:
        """Send a request and return the whole answer; see `Transport.send`."""
        client = self._client()
        library = _library(client)
        # A read timeout of 5 s, the libraries' own default, is nobody's choice for a request that
        # computes thousands of vectors.
        timeout = client.timeout
        if timeout == library.Timeout(5.0):
            timeout = library.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(request.timeout):
                answer = await client.request(
                    request.method,
                    request.url,
                    headers=request.headers,
                    content=request.body,
                    timeout=timeout,
                    follow_redirects=False,
                )
        except (TimeoutError, library.TimeoutException) as error:
            raise APITimeoutError(
                f"{request.url} did not answer in time ({type(error).__name__}, at most "
                f"{request.timeout:g} s)"
            ) from error
        except library.TransportError as error:
            raise APIConnectionError(
                f"{request.url} could not be reached, or broke off: {_reason(error)}"
            ) from error
        return Response(
            answer.status_code,
            {name.lower(): value for name, value in answer.headers.items()},
            answer.content,
        )

    async def aclose(self) -> None:
        """Close this loop's own client; a given one stays open."""
        client = self._own.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def response_class(sdk: Any) -> Any:
    """Return the class of the answers that a major version of the OpenAI SDK deals in."""
    library = "httpx" if sdk.__version__.startswith("2.") else "httpx2"
    return importlib.import_module(library).Response


def transport_exceptions() -> tuple[type[Exception], ...]:
    """Return what both libraries raise for a broken exchange, as far as they are imported."""
    return tuple(sys.modules[name].TransportError for name in _LIBRARIES if name in sys.modules)


def transport_error(error: Exception, what: str) -> APIConnectionError | APITimeoutError | None:
    """Return what an exception of httpx or httpx2 means, or None for any other exception.

    Args:
        error: Such as an SDK lets pass in the middle of a stream.
        what: Who was asked, for the message.
    """
    library = _library(error)
    if library is not None and isinstance(error, library.TimeoutException):
        return APITimeoutError(f"{what} did not go on in time ({type(error).__name__})")
    if library is not None and isinstance(error, library.TransportError):
        return APIConnectionError(f"{what} broke off: {_reason(error)}")
    return None


def _library(client: Any) -> Any:
    """Return the module, httpx or httpx2, that a client's class or one of its bases is from."""
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _LIBRARIES:
            return importlib.import_module(name)
    return None


def _close_all(
    clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any], pid: int
) -> None:
    """Close each client in its own loop, where that still runs; a forked child leaves them be."""
    if os.getpid() != pid:
        return
    for loop, client in list(clients.items()):
        # The loop was closed: its connections are gone with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_close_soon, loop, client)


def _close_soon(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    task = loop.create_task(client.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        text += " (the server's certificate is not trusted: set SSL_CERT_FILE to your CA bundle)"
    return text
