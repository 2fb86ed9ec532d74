"""When a request is on the wire: whoever writes it tells whoever counts it.

An SDK takes its time between being called and writing a request: it builds the body, waits for a
connection and for its turn in the event loop, and a collection of garbage may come in between. A
provider that judges by the second counts from when the request arrives.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["on_written", "tell_when_written"]

# What the attempt of this context has called at each writing of a request; None for nothing.
on_written: ContextVar[Callable[[], object] | None] = ContextVar("on_written", default=None)

_LAST_BYTE = "send_request_body.complete"


async def tell_when_written(request: Any) -> None:
    """Have a request call `on_written`: a request hook for clients of httpx and httpx2."""
    tell = on_written.get()
    if tell is None:
        return

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        del info
        # Of HTTP/1.1 or HTTP/2, which stands before it.
        if event.endswith(_LAST_BYTE):
            tell()

    request.extensions["trace"] = trace
