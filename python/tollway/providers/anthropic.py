"""Anthropic's messages, through the official SDK."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    AuthenticationError,
    BadResponseError,
    ConfigurationError,
    ProviderError,
)
from tollway.limiter import AUTO_LIMITS, Limits
from tollway.limiter.feedback import ANTHROPIC_FEEDBACK
from tollway.providers.anthropic_batches import AnthropicBatches
from tollway.providers.anthropic_wire import ChunkReader, completion_of, messages_body
from tollway.providers.base import CHECK_TIMEOUT, ChatRequest, Checked
from tollway.providers.errors import ANTHROPIC_ERRORS
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
from tollway.providers.openai import check_address, checked_key, error_of
from tollway.providers.openai_models import Model, learned_of
from tollway.tokens.models import family_of
from tollway.transport import Response, transport_exceptions
from tollway.types import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Mapping

    from tollway.providers.base import ChatFeature, ChatParameter
    from tollway.providers.errors import ErrorTable
    from tollway.types import Completion

__all__ = ["AnthropicProvider"]

BASE_URL = "https://api.anthropic.com"

_FEATURES: frozenset[ChatFeature] = frozenset(
    {"stream", "stream_usage", "system", "images", "tools", "tool_choice", "reasoning"}
)
_SCHEMA: frozenset[ChatFeature] = frozenset({*_FEATURES, "json_schema"})
_PARAMETERS: frozenset[ChatParameter] = frozenset(
    {"temperature", "max_tokens", "top_p", "stop", "parallel_tool_calls"}
)
_EFFORT: frozenset[ChatParameter] = frozenset({*_PARAMETERS, "reasoning_effort"})
# Those from 4.7 on sample as they like, and refuse to be told otherwise.
_NO_SAMPLING: frozenset[ChatParameter] = _EFFORT - {"temperature", "top_p"}
_NEWEST = Model(1_000_000, 128_000, _SCHEMA, _NO_SAMPLING)
# https://docs.claude.com/en/docs/about-claude/models/overview; the first that fits counts.
# Effort and schemas: https://docs.claude.com/en/docs/build-with-claude/{effort,structured-outputs}.
_MODELS = {
    "claude-fable-5": _NEWEST,
    "claude-opus-5": _NEWEST,
    "claude-sonnet-5": _NEWEST,
    "claude-haiku-5": Model(None, None, _SCHEMA, _NO_SAMPLING),
    "claude-mythos": Model(None, None, _SCHEMA, _NO_SAMPLING),
    "claude-opus-4-8": _NEWEST,
    "claude-opus-4-7": _NEWEST,
    "claude-opus-4-5": Model(200_000, 64_000, _SCHEMA, _EFFORT),
    "claude-opus-4-1": Model(200_000, 32_000, _SCHEMA, _PARAMETERS),
    "claude-sonnet-4-5": Model(200_000, 64_000, _SCHEMA, _PARAMETERS),
    "claude-haiku-4-5": Model(200_000, 64_000, _SCHEMA, _PARAMETERS),
}
# What any other refuses of this is learned.
_UNKNOWN = Model(None, None, _SCHEMA, _EFFORT)
# What is asked for where neither the caller nor the table names a length: every model takes it.
_LEAST_OUTPUT = 4_096

# In a stream an error comes after the status 200. https://docs.claude.com/en/api/errors
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_FAMILY = re.compile(r"claude-[a-z]+-\d")
# https://docs.claude.com/en/api/rate-limits: these alone count input that is read from the cache.
_COUNTS_CACHED = ("claude-3-haiku", "claude-3-5-haiku")


class AnthropicProvider(ChatFrame):
    """One model of Anthropic.

    Thinking is asked for by `extra_body={"thinking": {"type": "enabled", "budget_tokens": n}}`; it
    goes back with the answer's `message`, signed as it came. The conversation is cached up to the
    end of a message, system prompts among them, whose `extra` is
    `{"anthropic": {"cache_control": {"type": "ephemeral"}}}`.

    Args:
        model: `claude-haiku-4-5`.
        api_key: Else from `ANTHROPIC_API_KEY`.
        auth_token: A bearer token in its place; else from `ANTHROPIC_AUTH_TOKEN`.
        base_url: Else from `ANTHROPIC_BASE_URL`, else Anthropic's.
        http_client: For the SDK to send with: an `httpx2.AsyncClient`.
        client: An `anthropic.AsyncAnthropic` to use as it is, but for its retries; left open.
        headers: Further headers of every request.
        errors: What its errors mean.

    Raises:
        ConfigurationError: No key, or an address that is none.
    """

    name = "anthropic"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        auth_token: str | None = None,
        base_url: str | None = None,
        http_client: Any = None,
        client: Any = None,
        headers: Mapping[str, str] | None = None,
        errors: ErrorTable = ANTHROPIC_ERRORS,
    ) -> None:
        self.model = model
        self._errors = errors
        self._headers = dict(headers or {})
        self._http_client = http_client
        if client is not None:
            client = own_client(client, base_url, api_key, auth_token, http_client)
            base_url, api_key, auth_token = str(client.base_url), client.api_key, client.auth_token
        given = base_url or os.environ.get("ANTHROPIC_BASE_URL") or BASE_URL
        self.base_url = given.rstrip("/")
        check_address(self.base_url)
        what = f"anthropic/{model}"
        if not auth_token:
            api_key = api_key or os.environ.get("ANTHROPIC_API_KEY")
        if not api_key:
            auth_token = auth_token or os.environ.get("ANTHROPIC_AUTH_TOKEN")
        self._key = checked_key(api_key, what, "ANTHROPIC_API_KEY")
        self._token = checked_key(auth_token, what, "ANTHROPIC_AUTH_TOKEN")
        if not (self._key or self._token or client is not None):
            raise ConfigurationError(
                f"{what} needs a key: set the environment variable ANTHROPIC_API_KEY, or give "
                "api_key"
            )
        family = family_of(model, _MODELS, "-:@.")
        self._learned = learned_of(
            self.base_url, model, _UNKNOWN if family is None else _MODELS[family]
        )
        is_own = self.base_url == BASE_URL
        self.rules = self._learned.rules(
            token_model=model,
            charges_max_tokens="no",
            feedback=ANTHROPIC_FEEDBACK,
            price_provider="anthropic" if is_own else None,
            price_model=model,
        )
        limits = AUTO_LIMITS if is_own else Limits(max_in_flight=25)
        is_free = not model.startswith(_COUNTS_CACHED)
        self.limits = dataclasses.replace(limits, sub_window=1.0, cached_free=is_free)
        self._clients = sdk_clients(self._make_client, http_client, client)

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, and the family, whose models share one."""
        credential = fingerprint(self._key or self._token)
        family = _FAMILY.match(self.model)
        return (self.name, self.base_url, credential, family[0] if family else self.model)

    @property
    def _place(self) -> str:
        return self.base_url

    def _make_client(self) -> Any:
        sdk = _sdk()
        return sdk.AsyncAnthropic(
            api_key=self._key or None,
            auth_token=self._token or None,
            base_url=self.base_url,
            max_retries=0,
            default_headers=self._headers,
            http_client=self._http_client or told_client(sdk),
        )

    async def open(self) -> None:
        """Make this loop's client, and import the SDK."""
        await self._clients.open()

    async def _answer(self, request: ChatRequest) -> Completion:
        client = self._clients.get()
        raw = await client.messages.with_raw_response.create(**self.request_body(request))
        answer = raw.parse()
        if inspect.isawaitable(answer):
            answer = await answer
        with Reading(self._where):
            return completion_of(answer, raw.headers, self.model)

    async def _events(self, request: ChatRequest) -> Events:
        client = self._clients.get()
        events = await client.messages.create(**self.request_body(request), stream=True)
        headers = events.response.headers
        return Events(events, ChunkReader().read, headers, headers.get("request-id"))

    async def count_tokens(self, request: ChatRequest) -> int:
        """Return the tokens of a request's input as Anthropic counts them; costs a request.

        Raises:
            ProviderError: As `complete`.
        """
        client = self._clients.get()
        body = self.request_body(request)
        for name in ("max_tokens", "stop_sequences", "extra_body"):
            body.pop(name, None)
        with self._failing(request):
            counted = await client.messages.count_tokens(**body)
        with Reading(self._where):
            return int(counted.input_tokens)

    async def check(self) -> Checked:
        """Have the tokens of one word counted, which costs nothing.

        Raises:
            ProviderError: As `complete`; `NotFoundError` where there is no such model.
        """
        await self.count_tokens(ChatRequest((Message("user", "Hi"),), timeout=CHECK_TIMEOUT))
        return Checked("a count of tokens", has_model=True)

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._clients.aclose()

    def batches(self) -> AnthropicBatches:
        """Return the batch API of this model."""
        return AnthropicBatches(self)

    async def exchange(self, method: str, path: str, content: bytes = b"") -> dict[str, Any]:
        """Return the JSON object that answers a request of another kind.

        Raises:
            ProviderError: It was refused, or had no answer of use.
        """
        client = self._clients.get()
        options = {"headers": {"content-type": "application/json"}}
        with self._failing(None):
            if method == "GET":
                answer = await client.get(path, cast_to=object)
            else:
                answer = await client.post(path, content=content, cast_to=object, options=options)
        if not isinstance(answer, dict):
            raise BadResponseError(f"{self.base_url} answered with no JSON object", status=200)
        return cast("dict[str, Any]", answer)

    async def batch_results(self, batch: str) -> AsyncGenerator[tuple[str, Any], None]:
        """Return custom id and result, as the SDK has it, of each request of a batch.

        Raises:
            ProviderError: On any step.
        """
        client = self._clients.get()
        with self._failing(None):
            results = await client.messages.batches.results(batch)
            try:
                async for each in results:
                    yield each.custom_id, each.result
            finally:
                await results.close()

    def request_body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the arguments of the SDK's method for a request."""
        most = self.rules.max_output_tokens or _LEAST_OUTPUT
        return messages_body(self.model, request, most, self.capabilities.parameters)

    def _failure(self, error: Exception, timeout: float) -> ProviderError | None:
        sdk = _sdk()
        kinds = (sdk.AnthropicError, json.JSONDecodeError, *transport_exceptions())
        if not isinstance(error, kinds):
            return None
        known = sdk_failure(error, sdk, sdk.AnthropicError, self._where, timeout)
        if known is not None:
            return known
        if isinstance(error, sdk.APIStatusError):
            return self._refusal(error)
        if isinstance(error, sdk.APIError):
            return BadResponseError(f"{self._where} answered with something else than JSON")
        return AuthenticationError(f"{self._where}: {error}")

    def _refusal(self, error: Any) -> ProviderError:
        headers = {name.lower(): value for name, value in error.response.headers.items()}
        status: int = error.status_code
        body: Any = error.body
        written = body if isinstance(body, str) else json.dumps(body)
        return self._error_of(status, written.encode(), headers)

    def refusal(self, status: int, body: bytes, request: ChatRequest | None) -> ProviderError:
        """Return what an error in a batch means, and learn from it what to leave out.

        Args:
            status: 200 where it has none of its own.
            body: JSON.
            request: What is refused; None for what is no chat.
        """
        made = self._error_of(status, body, {})
        return self._learn(made, request) or made

    def _error_of(self, status: int, body: bytes, headers: Mapping[str, str]) -> ProviderError:
        if status == 200:
            status = _STATUS.get(_kind_of(body), 500)
        named = {**headers, "x-request-id": headers.get("request-id", "")}
        return error_of(
            Response(status, named, body),
            self._key or self._token,
            self._errors,
            ANTHROPIC_FEEDBACK,
        )


def _kind_of(body: bytes) -> str:
    """Return the type of an error by its body alone."""
    try:
        named: Any = json.loads(body)
        return str(named["error"]["type"])
    except (ValueError, KeyError, TypeError):
        return ""


def _sdk() -> Any:
    try:
        import anthropic  # noqa: PLC0415 - it takes a second, and not every user needs it
    except ImportError as error:
        raise ConfigurationError(
            "anthropic/… needs Anthropic's SDK: pip install 'tollway[anthropic]'"
        ) from error
    return anthropic
