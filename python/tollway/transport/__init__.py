"""Requests over HTTP: a small protocol, our own client, and an adapter for those of httpx."""

from tollway.transport.adapter import (
    HttpxTransport,
    response_class,
    transport_error,
    transport_exceptions,
)
from tollway.transport.base import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Request,
    Response,
    Timeouts,
    Transport,
)
from tollway.transport.native import NativeTransport

__all__ = [
    "CONNECT_TIMEOUT",
    "TIMEOUT",
    "HttpxTransport",
    "NativeTransport",
    "Request",
    "Response",
    "Timeouts",
    "Transport",
    "response_class",
    "transport_error",
    "transport_exceptions",
]
