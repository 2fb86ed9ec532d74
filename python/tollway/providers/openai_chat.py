"""OpenAI's chat completions, and every endpoint that speaks the same, through the official SDK."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    ProviderError,
)
from tollway.limiter.feedback import OPENAI_FEEDBACK
from tollway.providers.base import CHECK_TIMEOUT, ChatRequest, Checked
from tollway.providers.compatible import chat_endpoint
from tollway.providers.errors import OPENAI_ERRORS
from tollway.providers.frame import (
    ChatFrame,
    Events,
    Reading,
    fingerprint,
    own_client,
    sdk_clients,
    sdk_failure,
    told_client,
)
from tollway.providers.openai import BASE_URL, check_address, checked_key, error_of, hosted
from tollway.providers.openai_batches import FILE, OpenAIBatches
from tollway.providers.openai_models import Learned, elsewhere, learned_of, model_of
from tollway.providers.openai_wire import ChunkReader, chat_body, completion_of, listed
from tollway.transport import Response, response_class, transport_exceptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping

    from tollway.providers.batches import BatchResult
    from tollway.providers.errors import ErrorTable
    from tollway.types import Completion

__all__ = ["OpenAIChatBatches", "OpenAIChatProvider", "sdk"]


class OpenAIChatProvider(ChatFrame):
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
        # What knows keys that change: what it returns is struck out of nothing.
        self._asked: object = api_key if callable(api_key) else client
        if client is not None:
            client = own_client(client, base_url, api_key, http_client)
            base_url, api_key = str(client.base_url), client.api_key
        given = base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
        self.base_url = (given or BASE_URL).rstrip("/")
        check_address(self.base_url)
        self._is_openai = self.base_url == BASE_URL
        endpoint = chat_endpoint(self.base_url)
        self._ask_key = api_key if callable(api_key) else None
        key = "" if callable(api_key) else api_key
        if self._asked is None:
            key = key or os.environ.get(endpoint.key) or os.environ.get("OPENAI_API_KEY")
        self._key = checked_key(key, f"openai/{model}", endpoint.key)
        if self._is_openai and not self._has_credential():
            raise ConfigurationError(
                f"openai/{model} needs a key: set the environment variable OPENAI_API_KEY, or give "
                "api_key"
            )
        feedback, self.limits = hosted(self.base_url, at_openai=self._is_openai)
        if self._is_openai:
            learned = learned_of(self.base_url, model, model_of(model))
        else:
            known = elsewhere(endpoint)
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
        self._clients = sdk_clients(self._make_client, self._http_client, client)

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, model."""
        secret = self._key or f"function {id(self._asked)}"
        return (self.name, self.base_url, fingerprint(secret), self.model)

    @property
    def _place(self) -> str:
        return self.base_url

    def _secret(self) -> str:
        """Return what no message may show; empty for none."""
        return self._key

    def _has_credential(self) -> bool:
        return bool(self._key or self._asked)

    def _make_client(self) -> Any:
        openai = sdk()
        return openai.AsyncOpenAI(
            api_key=self._ask_key or self._key or "none",
            base_url=self.base_url,
            max_retries=0,
            default_headers=self._headers,
            http_client=self._http_client or told_client(openai),
        )

    async def open(self) -> None:
        """Make this loop's client, and import the SDK, which takes a second."""
        await self._clients.open()

    async def _answer(self, request: ChatRequest) -> Completion:
        answer = await self._send(request, self.chat_body(request))
        return self.completion(answer.json(), answer.headers)

    def completion(self, answer: object, headers: Mapping[str, str]) -> Completion:
        """Return an answer's JSON as a `Completion`; see `completion_of`."""
        with Reading(self._where):
            return completion_of(
                answer, headers, self.name, model=self.model, split=not self._is_openai
            )

    async def _events(self, request: ChatRequest) -> Events:
        body = {**chat_body(self.model, request, self._learned), "stream": True}
        if "stream_usage" in self.capabilities.features:
            body["stream_options"] = {"include_usage": True}
        pieces = await self._send(request, body)
        headers = pieces.response.headers
        reader = ChunkReader(split=not self._is_openai)
        return Events(pieces, reader.read, headers, headers.get("x-request-id"), reader.end)

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
        by = "its list of models"
        options = {"timeout": CHECK_TIMEOUT, "headers": self._further({})}
        try:
            with self._failing(ChatRequest((), timeout=CHECK_TIMEOUT)):
                answer = await self._clients.get().get(
                    "/models", cast_to=response_class(sdk()), options=options
                )
                models = listed(answer.json())
        except NotFoundError:
            if self._is_openai:
                raise
            models = None
        if models is None:
            return Checked(f"{by}, which it does not have", None)
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
        options: dict[str, Any] = {"headers": self._further({})}
        answer_class = response_class(sdk())
        with self._failing(None):
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
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, headers, answer.content)

    async def download(self, file: str) -> AsyncGenerator[bytes, None]:
        """Return the content of a file in pieces; see `OpenAIAccount.download`."""
        files = self._clients.get().files.with_streaming_response
        with self._failing(None):
            async with files.content(file, extra_headers=self._further({})) as answer:
                async for piece in answer.iter_bytes(1 << 20):
                    yield piece

    def refusal(self, response: Response, request: ChatRequest | None = None) -> ProviderError:
        """Return what an answer other than 200 means, and learn from it what to leave out.

        Args:
            response: The answer.
            request: What it refuses; None for what is no chat.
        """
        made = self._error_of(response)
        return self._learn(made, request) or made

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

    def _failure(self, error: Exception, timeout: float) -> ProviderError | None:
        openai = sdk()
        # openai 2 passes on the exceptions of its HTTP library while a stream is read.
        kinds = (openai.OpenAIError, json.JSONDecodeError, *transport_exceptions())
        if not isinstance(error, kinds):
            return None
        known = sdk_failure(error, openai, openai.OpenAIError, self._where, timeout)
        if known is not None:
            return known
        if isinstance(error, openai.APIStatusError):
            response: Any = cast("Any", error).response
            headers = {name.lower(): value for name, value in response.headers.items()}
            return self._error_of(Response(response.status_code, headers, response.content))
        if isinstance(error, openai.APIError):
            return self._broken_off(cast("Any", error).body)
        return AuthenticationError(f"{self._where}: {error}")

    def _error_of(self, response: Response) -> ProviderError:
        feedback = self.rules.feedback or OPENAI_FEEDBACK
        unset = None if self._has_credential() else chat_endpoint(self.base_url).key
        return error_of(response, self._secret(), self._errors, feedback, unset=unset)

    def _broken_off(self, body: object) -> ProviderError:
        """Return what an error means that came inside a stream, after the status 200."""
        status = body.get("status") if isinstance(body, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        code = status if isinstance(status, int) else 500
        return self._error_of(Response(code, {}, json.dumps({"error": body}).encode()))


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
