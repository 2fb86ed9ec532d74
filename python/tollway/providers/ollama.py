"""Chats by Ollama's own API, over plain HTTP: there is no SDK to install."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    BadResponseError,
    ConfigurationError,
    ContextWindowExceededError,
    NotFoundError,
    ProviderError,
)
from tollway.limiter import Limits
from tollway.limiter.feedback import FeedbackTable
from tollway.providers.base import (
    ALL_FEATURES,
    ALL_PARAMETERS,
    ChatCapabilities,
    ChatRules,
    Checked,
)
from tollway.providers.errors import OLLAMA_ERRORS
from tollway.providers.frame import Reading, fingerprint
from tollway.providers.messages import openai_message, openai_tool
from tollway.providers.ollama_wire import ChunkReader, chat_body, completion_of
from tollway.providers.openai import check_address, checked_key, error_of
from tollway.tokens import count_messages
from tollway.transport import CONNECT_TIMEOUT, Response, transport_error, transport_exceptions
from tollway.transport.loops import LoopClients
from tollway.types import Chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Mapping

    from tollway.providers.base import ChatFeature, ChatParameter, ChatRequest
    from tollway.providers.errors import ErrorTable
    from tollway.types import Completion

__all__ = ["KEY_VARIABLE", "OllamaHealth", "OllamaProvider", "address_of"]

# Of ollama.com; other servers want no key.
KEY_VARIABLE = "OLLAMA_API_KEY"
# Enough for a prompt as long as the answers that are asked for by default, and little memory.
NUM_CTX = 8_192
_PORT = 11_434
# No tokenizer in use has so few tokens for a text as o200k_base divided by this.
_SURELY = 1.25
_FEATURES: frozenset[ChatFeature] = ALL_FEATURES - {"tool_choice"}
_PARAMETERS: frozenset[ChatParameter] = ALL_PARAMETERS - {"parallel_tool_calls"}


@dataclass(frozen=True, slots=True)
class OllamaHealth:
    """What a server says of itself.

    Attributes:
        version: Of the server.
        models: Names of the models that it holds.
        has_model: Whether the provider's model is among them.
    """

    version: str
    models: tuple[str, ...]
    has_model: bool


class _Server:
    """One model at one server: requests, errors, health."""

    name = "ollama"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None,
        api_key: str | None,
        http_client: Any,
        headers: Mapping[str, str] | None,
        errors: ErrorTable,
    ) -> None:
        self.model = model
        self.base_url = address_of(base_url or os.environ.get("OLLAMA_HOST") or "")
        self._errors = errors
        self._key = checked_key(
            api_key or os.environ.get(KEY_VARIABLE), f"ollama/{model}", KEY_VARIABLE
        )
        self._headers = {"accept": "application/json", **(headers or {})}
        if self._key:
            self._headers["authorization"] = f"Bearer {self._key}"
        self._clients: LoopClients[Any] = LoopClients(_make_client, _close, http_client)

    def __repr__(self) -> str:
        """Show the model and the address, never the key."""
        return f"<{type(self).__name__} {self.model} at {self.base_url}>"

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, model."""
        return (self.name, self.base_url, fingerprint(self._key), self.model)

    async def open(self) -> None:
        """Make this loop's client."""
        await self._clients.open()

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._clients.aclose()

    async def health(self) -> OllamaHealth:
        """Return the server's version and models.

        Raises:
            APIConnectionError: No server is there.
        """
        _, version = await self._exchange("GET", "/api/version", None, 10.0)
        _, listed = await self._exchange("GET", "/api/tags", None, 10.0)
        found: list[dict[str, Any]] = listed.get("models") or []
        models = tuple(str(model.get("name")) for model in found)
        has_model = self.model in models or f"{self.model}:latest" in models
        return OllamaHealth(str(version.get("version")), models, has_model)

    async def check(self) -> Checked:
        """Ask for version and models; see `health`.

        Raises:
            ProviderError: As `health`.
        """
        found = await self.health()
        return Checked("its version and list of models", found.has_model, found.models)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Send a request and return the headers and the body of its answer."""
        client = self._clients.get()
        try:
            answer = await client.request(
                method,
                self.base_url + path,
                json=body,
                headers={**self._headers, **(headers or {})},
                timeout=_timeout(client, timeout),
            )
        except transport_exceptions() as error:
            raise self._broken(error) from error
        given = {name.lower(): value for name, value in answer.headers.items()}
        await self._check(answer, given)
        return given, self._parsed(answer.content, given)

    async def _check(self, answer: Any, headers: Mapping[str, str]) -> None:
        """Raise what an answer other than 200 means."""
        if answer.status_code != 200:
            raise self._refusal(answer.status_code, headers, await answer.aread())

    def _parsed(self, body: bytes | str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return an answer, or a line of one.

        Raises:
            BadResponseError: It is no JSON object.
            ProviderError: It is an error, after the status 200.
        """
        try:
            parsed: Any = json.loads(body)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise BadResponseError(f"ollama/{self.model} answered with something else than JSON")
        fields = cast("dict[str, Any]", parsed)
        if "error" in fields:
            raise self._refusal(200, headers, json.dumps(fields).encode())
        return fields

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        answer = Response(status, headers, body)
        unset = None if self._key else KEY_VARIABLE
        made = error_of(answer, self._key, self._errors, FeedbackTable(), unset=unset)
        if isinstance(made, NotFoundError):
            return NotFoundError(
                f"{made}; get it by: ollama pull {self.model}", status=made.status, code=made.code
            )
        return made

    def _broken(self, error: Exception) -> Exception:
        """Return what an exception of the HTTP library means."""
        return transport_error(error, self._where) or error

    @property
    def _where(self) -> str:
        """Who is asked, for messages."""
        return f"ollama/{self.model} at {self.base_url}"


class OllamaProvider(_Server):
    """One chat model of a server of Ollama.

    The server's context window is always named (`num_ctx`), and a prompt that does not fit is an
    error: left alone, Ollama takes a small window and drops the beginning of the conversation
    without a word.

    Args:
        model: `llama3.2`.
        num_ctx: Tokens of the window that the server keeps for a conversation: prompt and answer.
            More take more of the server's memory, and another number makes it load the model
            again, so that it is one for all calls. Default: 8,192.
        options: The server's further options: `num_gpu`, `repeat_penalty`, `top_k`, …; `num_ctx`
            may stand there too. Those of a call go before, its defaults do not.
        keep_alive: How long the model stays loaded: `"10m"`, seconds, -1 for ever.
        base_url: Else from `OLLAMA_HOST`, else `http://127.0.0.1:11434`.
        api_key: For ollama.com; else from `OLLAMA_API_KEY`.
        http_client: An `httpx.AsyncClient` to send with; left open.
        headers: Further headers of every request.
        errors: What its errors mean.

    Raises:
        ConfigurationError: An address that is none, a window without room, or two windows.
    """

    def __init__(
        self,
        model: str,
        *,
        num_ctx: int | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: str | float | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        http_client: Any = None,
        headers: Mapping[str, str] | None = None,
        errors: ErrorTable = OLLAMA_ERRORS,
    ) -> None:
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            http_client=http_client,
            headers=headers,
            errors=errors,
        )
        self._options = {"num_ctx": NUM_CTX if num_ctx is None else num_ctx, **(options or {})}
        window = self._options["num_ctx"]
        if not isinstance(window, int) or window < 1:
            raise ConfigurationError(f"num_ctx is the tokens of the window, not {window!r}")
        if num_ctx not in {None, window}:
            raise ConfigurationError(f"num_ctx is {num_ctx}, and {window} in options: give one")
        self._keep_alive = keep_alive
        self.capabilities = ChatCapabilities(_FEATURES, _PARAMETERS)
        self.rules = ChatRules(model, window, price="free")
        self.limits = Limits(max_in_flight=4)

    async def complete(self, request: ChatRequest) -> Completion:
        """Send one request and return the whole answer; see `ChatProvider.complete`."""
        body = self._body(request, is_stream=False)
        headers, answer = await self._exchange(
            "POST", "/api/chat", body, request.timeout, request.extra_headers
        )
        self._check_window(answer, body)
        with Reading(self._where):
            return completion_of(answer, headers, self.model)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Send one request and return the pieces of its answer; see `ChatProvider.stream`."""
        client = self._clients.get()
        body = self._body(request, is_stream=True)
        reader, reading = ChunkReader(), Reading(self._where)
        try:
            async with client.stream(
                "POST",
                f"{self.base_url}/api/chat",
                json=body,
                headers={**self._headers, **request.extra_headers},
                timeout=_timeout(client, request.timeout),
            ) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                await self._check(answer, headers)
                yield Chunk(headers=headers)
                async with contextlib.aclosing(answer.aiter_lines()) as lines:
                    async for line in lines:
                        if line:
                            piece = self._parsed(line, headers)
                            self._check_window(piece, body)
                            with reading:
                                chunk = reader.read(piece)
                            yield chunk
        except transport_exceptions() as error:
            raise self._broken(error) from error

    def _body(self, request: ChatRequest, *, is_stream: bool) -> dict[str, Any]:
        body = chat_body(self.model, request, self._options)
        if self._keep_alive is not None:
            body["keep_alive"] = self._keep_alive
        further = dict(request.extra_body)
        # Beside the others, of which the window must not be lost.
        body["options"] |= further.pop("options", {})
        counted = count_messages(
            [openai_message(message) for message in request.messages],
            self.model,
            [openai_tool(tool) for tool in request.tools] or None,
        )
        if counted.basis > body["options"]["num_ctx"] * _SURELY:
            raise self._cut(f"has about {counted.basis:,} tokens", body)
        # Newer servers refuse a prompt over the window when asked to; older ones do not listen.
        return {**body, "stream": is_stream, "truncate": False, **further}

    def _check_window(self, answer: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        """Refuse an answer to a prompt that fills the window: its beginning is likely not there."""
        evaluated = answer.get("prompt_eval_count")
        if isinstance(evaluated, int) and evaluated >= body["options"]["num_ctx"]:
            raise self._cut("was cut by the server", body)

    def _cut(self, why: str, body: Mapping[str, Any]) -> ContextWindowExceededError:
        return ContextWindowExceededError(
            f"the prompt for ollama/{self.model} {why}, and the window is num_ctx="
            f"{body['options']['num_ctx']:,}: give a larger num_ctx, or less to read"
        )


def address_of(host: str) -> str:
    """Return the address that `OLLAMA_HOST` names: a host, a port, both, or an address.

    Raises:
        ConfigurationError: It is none of these.
    """
    scheme, mark, rest = host.rpartition("://")
    scheme = scheme if mark else "http"
    if not mark and (rest.startswith(":") or not rest):
        rest = f"127.0.0.1{rest}"
    try:
        check_address(f"{scheme}://{rest}")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; look at OLLAMA_HOST") from None
    parts = urllib.parse.urlsplit(f"{scheme}://{rest}")
    port = parts.port or (_PORT if not mark else {"http": 80, "https": 443}[scheme])
    # What a server listens on at every address is no address to send to.
    name = "127.0.0.1" if parts.hostname == "0.0.0.0" else parts.hostname or ""  # noqa: S104
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}:{port}{parts.path.rstrip('/')}"


def _make_client() -> Any:
    import httpx  # noqa: PLC0415 - `import tollway` brings in no HTTP client

    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
    return httpx.AsyncClient(limits=limits)


def _timeout(client: Any, seconds: float) -> Any:
    """Return what the client's library takes: seconds for each step, fewer to connect."""
    return type(client.timeout)(seconds, connect=min(seconds, CONNECT_TIMEOUT))


async def _close(client: Any) -> None:
    await client.aclose()
