"""A transport over the clients of httpx and httpx2.

This is the only module that asks which of the two a client belongs to. It raises no exception of
either: a request that got no answer is an `APIConnectionError` or `APITimeoutError`, an answer that
cannot be unpacked a `BadResponseError`, and a request that cannot be a `ConfigurationError`.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from typing import TYPE_CHECKING, Any

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadResponseError,
    ConfigurationError,
)
from tollway.transport.base import CONNECT_TIMEOUT, TIMEOUT, Response
from tollway.transport.loops import LoopClients

if TYPE_CHECKING:
    from tollway.transport.base import Request

__all__ = ["HttpxTransport", "response_class", "transport_error", "transport_exceptions"]

_LIBRARIES = ("httpx", "httpx2")

_NO_HEADER = (
    "a header of the http_client or of the request holds a character that no header may hold"
)

# What of an address is not shown: user and password, query.
_SECRET = re.compile(r"(?<=://)[^/?#]*@|[?#].*", re.DOTALL)


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
        self._clients: LoopClients[Any] = LoopClients(_make_client, _close, client)

    async def open(self) -> None:
        """Make this loop's client, and load what it would load with its first request."""
        await self._clients.open()

    async def send(self, request: Request) -> Response:
        """Send a request and return the whole answer; see `Transport.send`.

        Raises:
            BadResponseError: The answer is not packed as it says.
            ConfigurationError: An address or header that cannot be. Nothing was sent.
        """
        client = self._clients.get()
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
        except (library.InvalidURL, library.UnsupportedProtocol):
            wrong = "a request needs an address such as http://host/path"
        except UnicodeEncodeError:
            wrong = _NO_HEADER
        except library.TransportError as error:
            if not str(error).startswith("Illegal header"):
                raise APIConnectionError(
                    f"{where} could not be reached, or broke off: {_reason(error)}"
                ) from error
            wrong = _NO_HEADER
        except library.DecodingError as error:
            raise BadResponseError(f"{where}'s answer could not be unpacked: {error}") from error
        else:
            return Response(
                answer.status_code,
                {name.lower(): value for name, value in answer.headers.items()},
                answer.content,
            )
        # Raised from none of those, which show the address or the header's value.
        raise ConfigurationError(wrong)

    async def aclose(self) -> None:
        """Close this loop's own client; a given one stays open."""
        await self._clients.aclose()


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


def _make_client() -> Any:
    import httpx  # noqa: PLC0415 - `import tollway` brings in no HTTP client

    limits = httpx.Limits(
        max_connections=1000, max_keepalive_connections=100, keepalive_expiry=30.0
    )
    return httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT))


async def _close(client: Any) -> None:
    await client.aclose()


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        text += " (the server's certificate is not trusted: set SSL_CERT_FILE to your CA bundle)"
    return text
