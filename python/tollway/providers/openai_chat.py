"""OpenAI's chat completions, and every endpoint that speaks the same, through the official SDK."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    NotFoundError,
    ProviderError,
)
from tollway.limiter.feedback import OPENAI_FEEDBACK
from tollway.providers.base import CHECK_TIMEOUT, ChatRequest, Checked
from tollway.providers.compatible import chat_endpoint
from tollway.providers.errors import OPENAI_ERRORS
from tollway.providers.loops import LoopClients
from tollway.providers.openai import BASE_URL, check_address, checked_key, error_of, hosted
from tollway.providers.openai_batches import FILE, OpenAIBatches
from tollway.providers.openai_models import Learned, elsewhere, learned_of, model_of
from tollway.providers.openai_wire import ChunkReader, chat_body, completion_of
from tollway.transport import Response, response_class, transport_error, transport_exceptions
from tollway.types import Chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping

    from tollway.providers.base import ChatCapabilities
    from tollway.providers.batches import BatchResult
    from tollway.providers.errors import ErrorTable
    from tollway.types import Completion

__all__ = ["OpenAIChatProvider", "sdk"]


class OpenAIChatProvider:
    """One chat model of OpenAI, or of a compatible endpoint.

    What an endpoint does not take is learned from its first 400 and remembered for the process:
    `stream_options`, `max_tokens` or `max_completion_tokens`, the role `developer`, the default
    temperature, JSON schemas.

    Args:
        model: `gpt-4o`; with a `base_url` of your own, whatever that serves.
        api_key: Else from `OPENAI_API_KEY`, before that from `DEEPSEEK_API_KEY`, `GROQ_API_KEY`
            or `UPSTAGE_API_KEY` at these; or an async function that returns one. Needed at OpenAI,
            and wherever the endpoint asks.
        base_url: Else from `OPENAI_BASE_URL` or `OPENAI_API_BASE`, else OpenAI's.
        http_client: For the SDK to send with: an `httpx2.AsyncClient`, `httpx.AsyncClient` for
            openai 2.
        client: An `openai.AsyncOpenAI` to use as it is, but for its retries; left open.
        headers: Further headers of every request.
        errors: What its errors mean, where that is not what they mean at OpenAI.

    Raises:
        ConfigurationError: No key or no SDK, or an address that is none.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | Callable[[], Awaitable[str]] | None = None,
        base_url: str | None = None,
        http_client: Any = None,
        client: Any = None,
        headers: Mapping[str, str] | None = None,
        errors: ErrorTable = OPENAI_ERRORS,
    ) -> None:
        self.model = model
        self._errors = errors
        self._headers = dict(headers or {})
        self._http_client = http_client
        if client is not None:
            if base_url or api_key or http_client:
                raise ConfigurationError("the address, key and http_client are those of the client")
            client = client.with_options(max_retries=0)
            base_url, api_key = str(client.base_url), client.api_key or None
        given = base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
        self.base_url = (given or BASE_URL).rstrip("/")
        check_address(self.base_url)
        self._is_openai = self.base_url == BASE_URL
        endpoint = chat_endpoint(self.base_url)
        # A function's keys change: what it returns is struck out of nothing.
        self._ask_key = api_key if callable(api_key) else None
        self._key = (
            ""
            if callable(api_key)
            else checked_key(
                api_key or os.environ.get(endpoint.key) or os.environ.get("OPENAI_API_KEY"),
                f"openai/{model}",
                endpoint.key,
            )
        )
        if self._is_openai and not self._key and self._ask_key is None:
            raise ConfigurationError(
                f"openai/{model} needs a key: set the environment variable OPENAI_API_KEY, or give "
                "api_key"
            )
        feedback, self.limits = hosted(self.base_url, at_openai=self._is_openai)
        if self._is_openai:
            learned = learned_of(self.base_url, model, model_of(model))
        else:
            known = elsewhere(endpoint.no_features, endpoint.no_parameters)
            learned = learned_of(self.base_url, model, known, max_tokens="max_tokens")
        self._set_up(learned, client)
        self.rules = self._learned.rules(
            token_model=model,
            charges_max_tokens="larger" if self._is_openai else "no",
            feedback=feedback,
            price_provider="openai" if self._is_openai else endpoint.prices,
            price_model=model,
        )

    def _set_up(self, learned: Learned, client: Any) -> None:
        self._learned = learned
        self._clients: LoopClients[Any] = LoopClients(
            self._make_client, _close if self._http_client is None else _leave_open, client
        )

    def __repr__(self) -> str:
        """Show the model and the address, never the key."""
        return f"<{type(self).__name__} {self.model} at {self.base_url}>"

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, model."""
        secret = self._key or f"function {id(self._ask_key)}"
        fingerprint = hashlib.sha256(secret.encode()).hexdigest()[:16]
        return (self.name, self.base_url, fingerprint, self.model)

    @property
    def capabilities(self) -> ChatCapabilities:
        """What the model can do, as far as it has not shown otherwise."""
        return self._learned.capabilities

    def _secret(self) -> str:
        """Return what no message may show; empty for none."""
        return self._key

    def _has_credential(self) -> bool:
        return bool(self._key or self._ask_key)

    def _make_client(self) -> Any:
        openai = sdk()
        return openai.AsyncOpenAI(
            api_key=self._ask_key or self._key or "none",
            base_url=self.base_url,
            max_retries=0,
            default_headers=self._headers,
            http_client=self._http_client,
        )

    async def open(self) -> None:
        """Make this loop's client, and import the SDK, which takes a second."""
        await self._clients.open()

    async def complete(self, request: ChatRequest) -> Completion:
        """Send one request and return the whole answer; see `ChatProvider.complete`."""
        try:
            answer = await self._send(request, chat_body(self.model, request, self._learned))
            parsed = answer.json()
        except _caught() as error:
            raise self._failure(error, request) from _shown(error)
        return self.completion(parsed, answer.headers)

    def completion(self, answer: object, headers: Mapping[str, str]) -> Completion:
        """Return an answer's JSON as a `Completion`; see `completion_of`."""
        return completion_of(
            answer, headers, self.name, model=self.model, split=not self._is_openai
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Send one request and return the pieces of its answer; see `ChatProvider.stream`."""
        body = {**chat_body(self.model, request, self._learned), "stream": True}
        if "stream_usage" in self.capabilities.features:
            body["stream_options"] = {"include_usage": True}
        try:
            pieces = await self._send(request, body)
        except _caught() as error:
            raise self._failure(error, request) from _shown(error)
        reader = ChunkReader(split=not self._is_openai)
        headers = pieces.response.headers
        try:
            yield Chunk(headers=headers, request_id=headers.get("x-request-id"))
            async for piece in pieces:
                chunk = reader.read(piece)
                if chunk is not None:
                    yield chunk
            rest = reader.end()
            if rest is not None:
                yield rest
        except _caught() as error:
            raise self._failure(error, request) from _shown(error)
        finally:
            await pieces.close()

    def batches(self) -> OpenAIChatBatches:
        """Return the batch API of this model."""
        return OpenAIChatBatches(self, self.base_url, "/v1/chat/completions")

    async def check(self) -> Checked:
        """List the models, which costs nothing: address and key are right where that succeeds.

        Azure lists models and not deployments; other endpoints may know a model by more names than
        they list, or list none at all (404).

        Raises:
            ProviderError: As `complete`.
        """
        request = ChatRequest((), timeout=CHECK_TIMEOUT)
        headers = {} if self._has_credential() else {"Authorization": sdk().Omit()}
        by = "its list of models"
        try:
            listed = await self._clients.get().models.list(
                extra_headers=headers, timeout=request.timeout
            )
        except _caught() as error:
            failure = self._failure(error, request)
            if isinstance(failure, NotFoundError) and not self._is_openai:
                return Checked(f"{by}, which it does not have", None)
            raise failure from _shown(error)
        models = tuple(str(model.id) for model in listed.data)
        is_listed = self.model in models
        if self.name == "openai" and (is_listed or self._is_openai):
            return Checked(by, is_listed, models)
        return Checked(by, None, models)

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._clients.aclose()

    # What batches take

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        file: bytes | None = None,
    ) -> Response:
        """Return the answer to a request of another kind; see `OpenAIAccount.exchange`."""
        client = self._clients.get()
        options: dict[str, Any] = {"timeout": _NO_CHAT.timeout, "headers": self._further({})}
        answer_class = response_class(sdk())
        try:
            if method == "GET":
                answer = await client.get(path, cast_to=answer_class, options=options)
            elif file is None:
                answer = await client.post(path, cast_to=answer_class, body=body, options=options)
            else:
                options["headers"]["Content-Type"] = "multipart/form-data"
                files = {"file": (FILE, file, "application/jsonl")}
                answer = await client.post(
                    path, cast_to=answer_class, body=body, files=files, options=options
                )
        except _caught() as error:
            raise self._failure(error, _NO_CHAT) from _shown(error)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, headers, answer.content)

    async def download(self, file: str) -> AsyncGenerator[bytes, None]:
        """Return the content of a file in pieces; see `OpenAIAccount.download`."""
        files = self._clients.get().files.with_streaming_response
        try:
            async with files.content(file, extra_headers=self._further({})) as answer:
                async for piece in answer.iter_bytes(1 << 20):
                    yield piece
        except _caught() as error:
            raise self._failure(error, _NO_CHAT) from _shown(error)

    def refusal(self, response: Response, request: ChatRequest | None = None) -> ProviderError:
        """Return what an answer other than 200 means, and learn from it what to leave out.

        Args:
            response: The answer.
            request: What it refuses; None for what is no chat.
        """
        made = error_of(
            response, self._secret(), self._errors, self.rules.feedback or OPENAI_FEEDBACK
        )
        if request is None or not isinstance(made, BadRequestError) or self._is_known(made):
            return made
        change = self._learned.learn(str(made), request)
        if change is None:
            return made
        return BadResponseError(
            f"{self.base_url} {change}, which is remembered",
            status=made.status,
            request_id=made.request_id,
            retry_after=0.0,
        )

    def chat_body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the JSON of a request, as far as is known by now what the model takes."""
        return chat_body(self.model, request, self._learned)

    def _further(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the headers of a request, without a credential where there is none."""
        further: dict[str, Any] = dict(headers)
        if not self._has_credential():
            further["Authorization"] = sdk().Omit()
        return further

    async def _send(self, request: ChatRequest, body: dict[str, Any]) -> Any:
        """Return the HTTP answer, or the SDK's stream of events.

        The SDK's own method checks the types of a request that is made of right ones, and builds
        objects of an answer that is read once: together three fifths of what a call costs it.
        """
        client = self._clients.get()
        headers = self._further(request.extra_headers)
        options: dict[str, Any] = {"timeout": request.timeout, "headers": headers}
        if body.get("stream"):
            return await client.post(
                "/chat/completions",
                cast_to=object,
                body=body,
                options=options,
                stream=True,
                stream_cls=sdk().AsyncStream[object],
            )
        response = response_class(sdk())
        return await client.post("/chat/completions", cast_to=response, body=body, options=options)

    def _failure(self, error: Exception, request: ChatRequest) -> ProviderError:
        """Return what one of the exceptions of `_caught` means."""
        openai = sdk()
        where = f"{self.name}/{self.model} at {self.base_url}"
        if isinstance(error, openai.APIStatusError):
            return self._refusal(cast("Any", error).response, request)
        if isinstance(error, openai.APITimeoutError):
            return APITimeoutError(f"{where} did not answer within {request.timeout:g} s")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            known = transport_error(cause, where) if isinstance(cause, Exception) else None
            return known or APIConnectionError(f"{where} could not be reached, or broke off")
        if isinstance(error, openai.APIError):
            return self._broken_off(cast("Any", error).body)
        if isinstance(error, openai.OpenAIError):
            return AuthenticationError(f"{where}: {error}")
        return transport_error(error, where) or BadResponseError(
            f"{where} answered with something else than JSON"
        )

    def _refusal(self, response: Any, request: ChatRequest) -> ProviderError:
        headers = {name.lower(): value for name, value in response.headers.items()}
        answer = Response(response.status_code, headers, response.content)
        return self.refusal(answer, None if request is _NO_CHAT else request)

    def _is_known(self, error: BadRequestError) -> bool:
        return type(error) is not BadRequestError

    def _broken_off(self, body: object) -> ProviderError:
        """Return what an error means that came inside a stream, after the status 200."""
        status = body.get("status") if isinstance(body, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        return error_of(
            Response(
                status if isinstance(status, int) else 500, {}, json.dumps({"error": body}).encode()
            ),
            self._secret(),
            self._errors,
            self.rules.feedback or OPENAI_FEEDBACK,
        )


class OpenAIChatBatches(OpenAIBatches):
    """Batches of one chat model.

    Args:
        provider: What sends.
        address: Where.
        endpoint: What answers the requests.
    """

    def __init__(self, provider: OpenAIChatProvider, address: str, endpoint: str) -> None:
        model = f"{provider.name}/{provider.model}"
        super().__init__(provider, model=model, address=address, endpoint=endpoint)
        self._provider = provider

    async def open(self) -> None:
        """Make this loop's client."""
        await self._provider.open()

    def write(self, request: ChatRequest) -> bytes:
        """Return the body of a request; see `ChatBatchAPI.write`."""
        body = self._provider.chat_body(request)
        return json.dumps(body, separators=(",", ":")).encode()

    def read(self, result: BatchResult, request: ChatRequest | None) -> Completion:
        """Return the answer in a result; see `ChatBatchAPI.read`."""
        if result.refused is not None:
            status, body = result.refused
            headers = {"x-request-id": result.request_id or ""}
            raise self._provider.refusal(Response(status, headers, body), request)
        if result.error is not None:
            raise result.error
        return self._provider.completion(result.body, {"x-request-id": result.request_id or ""})


# For requests that are no chat: all that is looked at is the timeout.
_NO_CHAT = ChatRequest(())


async def _close(client: Any) -> None:
    await client.close()


async def _leave_open(client: Any) -> None:
    """Leave an SDK's client be that sends with one of the user's: closing it would close that."""
    del client


def sdk() -> Any:
    """Return the module of the OpenAI SDK.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import openai  # noqa: PLC0415 - it takes a second, and not every user needs it
    except ImportError as error:
        raise ConfigurationError("this needs the OpenAI SDK: pip install openai") from error
    return openai


def _caught() -> tuple[type[Exception], ...]:
    """Return what the SDK raises: its own, a body that is no JSON, and in a stream the library's.

    openai 2 passes on the exceptions of its HTTP library while a stream is read.
    """
    return (sdk().OpenAIError, json.JSONDecodeError, *transport_exceptions())


def _shown(error: Exception) -> Exception | None:
    """Return the cause to show: the SDK's own message of a refusal may repeat the key."""
    return None if hasattr(error, "status_code") else error
