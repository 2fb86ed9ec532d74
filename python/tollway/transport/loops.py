"""Clients whose connections belong to the event loop that opened them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["LoopClients"]

C = TypeVar("C")

# A loop keeps its tasks by weak references only.
_closing: set[asyncio.Task[None]] = set()

# Whether a request was made ready for in this process: modules are loaded once.
_is_loaded = False


class LoopClients(Generic[C]):
    """One client for each event loop, made on first use.

    Each is closed by `aclose` in its loop, or when this object is no longer used; one whose loop
    was closed before is dropped when the next is made. A given client is used in every loop and
    left open.

    Args:
        make: Makes a client; called in the loop.
        close: Closes one.
        given: The caller's own client, or None.
    """

    def __init__(
        self,
        make: Callable[[], C],
        close: Callable[[C], Coroutine[Any, Any, None]],
        given: C | None = None,
    ) -> None:
        self._make = make
        self._close = close
        self._given = given
        self._own: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, C] = (
            weakref.WeakKeyDictionary()
        )
        # A loop that goes on after its last user, as that of the synchronous calls does, would
        # hold the sockets for as long as the process lives.
        weakref.finalize(self, _close_all, self._own, close, os.getpid()).atexit = False

    def get(self) -> C:
        """Return the client of the running loop.

        Raises:
            ConfigurationError: The environment names a SOCKS proxy, and what it needs is missing.
        """
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        client = self._own.get(loop)
        if client is None:
            self._drop_those_of_closed_loops()
            client = self._own[loop] = self._made()
        return client

    def _drop_those_of_closed_loops(self) -> None:
        # A client's open connections lead to its loop, which the weak key would keep for ever.
        for ref in self._own.keyrefs():
            loop = ref()
            if loop is not None and loop.is_closed():
                self._own.pop(loop, None)

    async def open(self) -> None:
        """Make the client of the running loop, and load what its first request would load.

        That takes up to a quarter of a second, which must not lie between a permit and the wire.
        """
        global _is_loaded  # noqa: PLW0603
        if not _is_loaded:
            import anyio.lowlevel  # noqa: PLC0415 - what the SDKs send with imports it late as well

            await anyio.lowlevel.checkpoint()
            _is_loaded = True
        self.get()

    def _made(self) -> C:
        try:
            return self._make()
        except ImportError as error:
            if "socksio" not in str(error):
                raise
            raise ConfigurationError(
                "ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names a SOCKS proxy, which needs a package "
                "more: pip install socksio, or give an http_client of your own"
            ) from error

    async def aclose(self) -> None:
        """Close the running loop's own client; a given one stays open."""
        client = self._own.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await self._close(client)


def _close_all(
    clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, C],
    close: Callable[[C], Coroutine[Any, Any, None]],
    pid: int,
) -> None:
    """Close each client in its own loop, where that still runs; a forked child leaves them be."""
    if os.getpid() != pid:
        return
    for loop, client in list(clients.items()):
        # A closed loop refuses: its connections are gone with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_close_soon, loop, close, client)


def _close_soon(
    loop: asyncio.AbstractEventLoop, close: Callable[[C], Coroutine[Any, Any, None]], client: C
) -> None:
    task = loop.create_task(close(client))
    _closing.add(task)
    task.add_done_callback(_closing.discard)
