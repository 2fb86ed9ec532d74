"""Gemini's SDK: its client for AI Studio or Vertex, and what its exceptions mean."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    ProviderError,
)
from tollway.limiter.feedback import GEMINI_FEEDBACK
from tollway.providers.errors import GEMINI_ERRORS
from tollway.providers.frame import fingerprint
from tollway.providers.openai import check_address, checked_key, error_of
from tollway.transport import Response, transport_error, transport_exceptions
from tollway.transport.loops import LoopClients

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from tollway.providers.errors import ErrorTable

__all__ = ["GeminiClient", "caught", "shown"]

BASE_URL = "https://generativelanguage.googleapis.com"
_TRUE = frozenset({"1", "true"})


class GeminiClient:
    """What chat and embeddings share: one model at one address with one credential.

    Args:
        model: Name of the model.
        api_key: Else from `GOOGLE_API_KEY` or `GEMINI_API_KEY`. It goes in a header, never in the
            address.
        vertexai: Whether to use Vertex; else from `GOOGLE_GENAI_USE_VERTEXAI` or
            `GOOGLE_GENAI_USE_ENTERPRISE`.
        project: At Vertex; else from `GOOGLE_CLOUD_PROJECT`.
        location: At Vertex; else from `GOOGLE_CLOUD_LOCATION`, else `global`.
        credentials: Of `google.auth`, for Vertex; else the application's default ones.
        base_url: Another address.
        client: A `google.genai.Client` to use as it is; left open.
        headers: Further headers of every request.
        errors: What its errors mean.

    Raises:
        ConfigurationError: No key or project, or an address that is none.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        vertexai: bool | None = None,
        project: str | None = None,
        location: str | None = None,
        credentials: Any = None,
        base_url: str | None = None,
        client: Any = None,
        headers: Mapping[str, str] | None = None,
        errors: ErrorTable = GEMINI_ERRORS,
    ) -> None:
        environment = os.environ
        self.model = model
        self._errors = errors
        self._headers = dict(headers or {})
        if vertexai is None:
            names = ("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE")
            vertexai = any(environment.get(name, "").lower() in _TRUE for name in names)
        if client is not None:
            vertexai = bool(client.vertexai)
            # To be struck out, and to tell one credential from another.
            api_key = getattr(getattr(client, "_api_client", None), "api_key", None)
        self.is_vertex = vertexai
        self._credentials = credentials
        self._project = project or environment.get("GOOGLE_CLOUD_PROJECT")
        self._location = location or environment.get("GOOGLE_CLOUD_LOCATION") or "global"
        self._base_url = base_url
        if base_url is not None:
            check_address(base_url)
        key = api_key or (
            None
            if vertexai or client is not None
            else environment.get("GOOGLE_API_KEY") or environment.get("GEMINI_API_KEY")
        )
        self._key = checked_key(key, f"gemini/{model}", "GEMINI_API_KEY")
        if client is None and vertexai and not (self._key or self._project):
            raise ConfigurationError(
                f"gemini/{model} at Vertex needs a project: set the environment variable "
                "GOOGLE_CLOUD_PROJECT, or give project"
            )
        if client is None and not vertexai and not self._key:
            raise ConfigurationError(
                f"gemini/{model} needs a key: set the environment variable GEMINI_API_KEY, or "
                "give api_key"
            )
        self.place = "Vertex" if vertexai else "AI Studio"
        self._clients: LoopClients[Any] = LoopClients(self._make, _close, client)

    @property
    def is_own_address(self) -> bool:
        """Whether it is Google itself that answers."""
        return self._base_url is None or self._base_url.rstrip("/") == BASE_URL

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, project or the key's fingerprint, model."""
        account = self._project if self.is_vertex and not self._key else None
        place = self._base_url or f"{self.place} {self._location if self.is_vertex else ''}"
        return ("gemini", place, account or fingerprint(self._key), self.model)

    def _make(self) -> Any:
        genai = sdk()
        options: dict[str, Any] = {"retry_options": {"attempts": 1}, "headers": self._headers}
        if self._base_url is not None:
            options["base_url"] = self._base_url
        arguments: dict[str, Any] = {"vertexai": self.is_vertex, "http_options": options}
        if self._key:
            arguments["api_key"] = self._key
        else:
            arguments["project"] = self._project
            arguments["location"] = self._location
            arguments["credentials"] = self._credentials
        try:
            return genai.Client(**arguments)
        except ValueError as error:
            raise ConfigurationError(f"gemini/{self.model}: {error}") from error

    async def open(self) -> None:
        """Make this loop's client, and import the SDK."""
        self._clients.get()

    def models(self) -> Any:
        """Return the SDK's models of the running loop, with their asynchronous methods."""
        return self._clients.get().aio.models

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._clients.aclose()

    def failure(self, error: Exception, timeout: float) -> ProviderError:
        """Return what one of the exceptions of `caught` means."""
        where = f"gemini/{self.model} at {self._base_url or self.place}"
        if isinstance(error, sdk().errors.APIError):
            return self._refusal(error)
        known = transport_error(error, where)
        if isinstance(error, TimeoutError) or isinstance(known, APITimeoutError):
            return APITimeoutError(f"{where} did not answer within {timeout:g} s")
        if known is not None:
            return known
        if _module(error) == "google.auth":
            return AuthenticationError(f"{where}: {error}")
        if _module(error) == "aiohttp":
            return APIConnectionError(f"{where} could not be reached, or broke off: {error}")
        if not _is_of_answer(error):
            return BadRequestError(f"{where}: the SDK takes no such request: {str(error)[:500]}")
        return BadResponseError(f"{where} answered with something else than JSON")

    def _refusal(self, error: Any) -> ProviderError:
        given: Any = error.details
        fields = _mapping(_mapping(given).get("error", given))
        status = error.code if isinstance(error.code, int) and error.code >= 400 else 500
        response_headers: Any = getattr(error.response, "headers", None) or {}
        headers = {str(name).lower(): str(value) for name, value in response_headers.items()}
        delay = _retry_delay(fields)
        if delay is not None:
            headers["retry-after"] = delay
        # The name of the status is what tells errors apart, where other APIs have a code.
        body = json.dumps({"error": {**fields, "code": error.status}})
        return error_of(
            Response(status, headers, body.encode()),
            self._key,
            self._errors,
            GEMINI_FEEDBACK,
        )


def sdk() -> Any:
    """Return the module of the SDK.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        from google import genai  # noqa: PLC0415 - it takes a second, and not every user needs it
    except ImportError as error:
        raise ConfigurationError(
            "gemini/… needs Google's SDK: pip install 'tollway[gemini]'"
        ) from error
    return genai


def caught() -> tuple[type[Exception], ...]:
    """Return what the SDK raises or lets pass: errors, broken connections, no JSON, no token."""
    kinds: list[type[Exception]] = [sdk().errors.APIError, ValueError, TimeoutError]
    kinds += transport_exceptions()
    for module, name in (("aiohttp", "ClientError"), ("google.auth.exceptions", "GoogleAuthError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


def shown(error: Exception) -> Exception | None:
    """Return the cause to show: the SDK's own message of a refusal may repeat the key."""
    return None if hasattr(error, "details") else error


async def _close(client: Any) -> None:
    await client.aio.aclose()
    client.close()


def _is_of_answer(error: Exception) -> bool:
    """Whether it is the answer that cannot be read, not the request that cannot be written."""
    kinds = (json.JSONDecodeError, UnicodeDecodeError, sdk().errors.UnknownApiResponseError)
    # Of pydantic, by the name of what was to be read.
    return isinstance(error, kinds) or "Response" in getattr(error, "title", "")


def _retry_delay(fields: Mapping[str, Any]) -> str | None:
    for detail in fields.get("details") or ():
        delay = _mapping(detail).get("retryDelay")
        if isinstance(delay, str):
            return delay.removesuffix("s")
    return None


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _module(error: Exception) -> str:
    name = type(error).__module__
    return "google.auth" if name.startswith("google.auth") else name.partition(".")[0]
