"""Our own HTTP client: `rust/io`, which runs on one thread for all event loops of a process."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import TYPE_CHECKING

from tollway import _core
from tollway.errors import ConfigurationError
from tollway.transport.base import Response, Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.transport.base import Request

    Path = str | os.PathLike[str]

__all__ = ["NativeTransport"]

# Bytes. The longest answer there is, 2,048 vectors of 3,072 numbers as text, has about 140 MB.
MAX_ANSWER = 256 << 20

# What wakes a loop is the loop's for as long as it lives.
_completions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _core.Completions] = (
    weakref.WeakKeyDictionary()
)
_of_parents: list[object] = []


class NativeTransport:
    """Sends from a thread of its own; any number of event loops may use it at once.

    Connections are kept for 30 s and used again. A request that was written to a connection is
    never sent a second time here. Redirects are not followed.

    Args:
        ca_bundle: PEM file of the authorities to trust, instead of the system's (or those that
            `SSL_CERT_FILE` and `SSL_CERT_DIR` name).
        client_cert: PEM file of our own certificate and its key, or a pair of two files.
        proxy: `http://user:password@host:port`; `""` for none. Default: `HTTPS_PROXY`,
            `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, which are not for this machine itself.
        headers: Sent with every request, in place of its own of the same name.
        timeout: Seconds for a whole request, or `Timeouts`. Default: `Timeouts()`.
        http2: Offer HTTP/2 to servers that are spoken to over TLS.
        max_answer: Bytes of the longest answer that is taken.

    Raises:
        ConfigurationError: A file, address or number that cannot be used. Nothing was sent.
    """

    def __init__(
        self,
        *,
        ca_bundle: Path | None = None,
        client_cert: Path | tuple[Path, Path] | None = None,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | Timeouts | None = None,
        http2: bool = False,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        if timeout is None:
            timeout = Timeouts()
        elif not isinstance(timeout, Timeouts):
            timeout = Timeouts(first_byte=timeout, idle=timeout, total=timeout)
        certificate, key = client_cert if isinstance(client_cert, tuple) else (client_cert, None)
        if max_answer < 1:
            raise ConfigurationError(f"max_answer must be at least 1, not {max_answer}")
        self._client = _core.HTTPClient(
            headers=dict(headers or {}),
            connect=timeout.connect,
            first_byte=timeout.first_byte,
            idle=timeout.idle,
            total=timeout.total,
            max_answer=max_answer,
            ca_bundle=ca_bundle,
            client_cert=certificate,
            client_key=key,
            proxy=proxy,
            http2=http2,
        )

    async def open(self) -> None:
        """Start the thread and read the certificates, once; see `Transport.open`."""
        _completions_of(asyncio.get_running_loop())
        self._client.prepare()

    async def send(self, request: Request) -> Response:
        """Send a request and return the whole answer; see `Transport.send`.

        Raises:
            BadResponseError: The answer is longer than `max_answer`, or packed in a form that was
                not asked for.
            ConfigurationError: An address or header that cannot be. Nothing was sent.
        """
        loop = asyncio.get_running_loop()
        completions, future = _completions_of(loop), loop.create_future()
        number = self._client.send(
            completions,
            future,
            request.method,
            request.url,
            dict(request.headers),
            request.body,
            request.timeout,
        )
        answer = await _answer(completions, future, number)
        return Response(answer.status, answer.headers, answer.body)

    async def embed(
        self,
        url: str,
        headers: Mapping[str, str],
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        base64: bool = True,
        extra: bytes | None = None,
        length: int | None = None,
        timeout: float | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> _core.HTTPResponse:
        """Post texts to an endpoint that speaks as OpenAI's does, and decode its answer.

        The body is written and the answer decoded in the core, detached from the interpreter: the
        answer never becomes a Python object.

        Args:
            url: Of the endpoint.
            headers: As sent.
            model: The provider's name of it.
            texts: n strings.
            dimensions: Length of the vectors to ask for.
            base64: Ask for base64 of float32, not for lists of numbers.
            extra: More members of the request, as the text of a JSON object.
            length: Length that the vectors must have; None for that of the first.
            timeout: Seconds for the whole exchange, where less than the transport's own.
            out: Shape (n, d), float32, C-contiguous: where the rows go. While the request is under
                way it must not be used, and after a failure its rows hold NaN or what they held.

        Returns:
            The answer, whatever its status. `embeddings` holds the rows; where it is None, `body`
            has what came instead.

        Raises:
            ProviderError: As `send` says.

        Cancellation closes the request; nothing is written to `out` afterwards.
        """
        loop = asyncio.get_running_loop()
        completions, future = _completions_of(loop), loop.create_future()
        number = self._client.embed(
            completions,
            future,
            url,
            dict(headers),
            model,
            texts,
            timeout,
            dimensions=dimensions,
            base64=base64,
            extra=extra,
            length=length,
            out=out,
        )
        return await _answer(completions, future, number)

    async def aclose(self) -> None:
        """Close the connections that no request uses; a later request opens others."""
        self._client.close_idle()


async def _answer(
    completions: _core.Completions, future: asyncio.Future[_core.HTTPResponse], number: int
) -> _core.HTTPResponse:
    try:
        return await future
    except BaseException:
        # One that has failed is known no more; one that is given up is closed.
        completions.cancel(number)
        raise


def _completions_of(loop: asyncio.AbstractEventLoop) -> _core.Completions:
    completions = _completions.get(loop)
    if completions is None:
        _close_those_of_closed_loops()
        completions = _completions[loop] = _watched_by(loop)
    return completions


def _close_those_of_closed_loops() -> None:
    """End the requests of loops that were closed over them, which they would keep in memory."""
    # A list at once: other threads have loops of their own.
    for ref in _completions.keyrefs():
        loop = ref()
        if loop is not None and loop.is_closed():
            _completions[loop].close()


def _watched_by(loop: asyncio.AbstractEventLoop) -> _core.Completions:
    if os.name == "posix":
        completions = _core.Completions()
        try:
            loop.add_reader(completions.fileno(), completions.drain)
        except NotImplementedError:
            pass
        else:
            return completions
    weak = weakref.ref(loop)

    def wake() -> None:
        loop = weak()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(called.drain)

    called = _core.Completions(wake)
    return called


def _after_fork() -> None:
    # The parent's files wake the parent.
    global _completions  # noqa: PLW0603
    _of_parents.append(_completions)
    _completions = weakref.WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
