"""A transport over the clients of httpx and httpx2.

This is the only module that asks which of the two a client belongs to. It raises no exception of
either: a request that got no answer is an `APIConnectionError` or `APITimeoutError`, an answer that
cannot be unpacked a `BadResponseError`, and a request that cannot be a `ConfigurationError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadResponseError,
    ConfigurationError,
)
from tollway.transport.base import CONNECT_TIMEOUT, TIMEOUT, Response

if TYPE_CHECKING:
    from tollway.transport.base import Request

__all__ = ["HttpxTransport", "response_class", "transport_error", "transport_exceptions"]

_LIBRARIES = ("httpx", "httpx2")

# What of an address is not shown: user and password, query.
_SECRET = re.compile(r"(?<=://)[^/?#]*@|[?#].*", re.DOTALL)

# A loop keeps its tasks by weak references only.
_closing: set[asyncio.Task[None]] = set()


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
        """Send a request and return the whole answer; see `Transport.send`.

        Raises:
            BadResponseError: The answer is not packed as it says.
            ConfigurationError: An address or header that cannot be. Nothing was sent.
        """
        client = self._client()
        library = _library(client)
        where = _SECRET.sub("", request.url)
        # A read timeout of 5 s, the libraries' own default, is nobody's choice for a request that
        # computes thousands of vectors.
        timeout = client.timeout
        if timeout == library.Timeout(5.0):
            timeout = library.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
        total = TIMEOUT if request.timeout is None else request.timeout
        try:
            async with asyncio.timeout(total):
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
                f"{where} did not answer in time ({type(error).__name__}, at most {total:g} s)"
            ) from error
        except library.TransportError as error:
            # It shows the header's value, and must not be what the exception is raised from.
            if not str(error).startswith("Illegal header"):
                raise APIConnectionError(
                    f"{where} could not be reached, or broke off: {_reason(error)}"
                ) from error
        except library.DecodingError as error:
            raise BadResponseError(f"{where}'s answer could not be unpacked: {error}") from error
        except library.InvalidURL as error:
            raise ConfigurationError(f"{where} is no address: {error}") from error
        else:
            return Response(
                answer.status_code,
                {name.lower(): value for name, value in answer.headers.items()},
                answer.content,
            )
        raise ConfigurationError(
            f"a header for {where}, of the http_client or of the request, holds a character that "
            "no header may hold"
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
