"""Requests over HTTP: a small protocol, our own client, and an adapter for those of httpx."""

from tollway.transport.adapter import (
    HttpxTransport,
    response_class,
    transport_error,
    transport_exceptions,
)
from tollway.transport.base import Request, Response, Timeouts, Transport
from tollway.transport.native import NativeTransport

__all__ = [
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
