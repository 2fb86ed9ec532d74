"""What carries requests, and what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CONNECT_TIMEOUT", "TIMEOUT", "Request", "Response", "Timeouts", "Transport"]

# Seconds. An answer of 2,048 vectors takes long to compute; a server that is there accepts a
# connection soon.
TIMEOUT = 600.0
CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each part of a request may take, in seconds; `math.inf` for no limit.

    The error says which of them ran out.

    Attributes:
        connect: To look up the name, connect, and agree on how to encrypt.
        first_byte: From then to the head of the answer.
        idle: Between two parts of the answer.
        total: For everything.
    """

    connect: float = CONNECT_TIMEOUT
    first_byte: float = TIMEOUT
    idle: float = 60.0
    total: float = TIMEOUT


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Its headers carry the key, so that they are not shown.

    Attributes:
        method: `GET`, `POST`.
        url: Absolute; never with a key in it.
        headers: As sent.
        body: As sent.
        timeout: Seconds for the whole exchange; None for what the transport allows.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    timeout: float | None = None


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
            APITimeoutError: No whole answer in time; the message says which time ran out.
            APIConnectionError: No connection, or it broke.

        Cancellation closes the request.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that the transport itself opened."""
        ...
