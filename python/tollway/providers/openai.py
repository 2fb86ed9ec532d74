"""OpenAI's embeddings, and every endpoint that speaks the same.

Requests are written and answers decoded in the core; the SDK has no part in it.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import os
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, cast

from tollway import _core
from tollway.errors import (
    BadResponseError,
    ConfigurationError,
    ProviderError,
)
from tollway.limiter import AUTO_LIMITS, Limits
from tollway.limiter.feedback import AZURE_FEEDBACK, GROQ_FEEDBACK, OPENAI_FEEDBACK
from tollway.providers.base import EmbeddingAnswer, EmbeddingRules
from tollway.providers.compatible import endpoint_of, learn_base64, learn_batch, query_model
from tollway.providers.errors import OPENAI_ERRORS
from tollway.providers.frame import fingerprint
from tollway.providers.openai_batches import OpenAIEmbeddingBatches, form
from tollway.transport import HttpxTransport, NativeTransport, Request, Response
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.limiter.feedback import Feedback, FeedbackTable
    from tollway.providers.errors import ErrorTable
    from tollway.transport import Transport

__all__ = [
    "BASE_URL",
    "DIMENSIONS",
    "OpenAIProvider",
    "check_address",
    "checked_key",
    "connect",
    "error_of",
    "hosted",
]

BASE_URL = "https://api.openai.com/v1"

# Length of the vectors of the models that OpenAI serves today; 8,191 tokens a text, 2,048 texts and
# 300,000 tokens a request for each.
DIMENSIONS = {
    "text-embedding-3-large": 3072,
    "text-embedding-3-small": 1536,
    "text-embedding-ada-002": 1536,
}

# Who is known to say and hold limits, by the end of the host's name.
_HOSTED = {
    "api.openai.com": OPENAI_FEEDBACK,
    ".openai.azure.com": AZURE_FEEDBACK,
    "api.groq.com": GROQ_FEEDBACK,
}


class OpenAIProvider:
    """One embedding model of OpenAI, or of a compatible endpoint.

    Args:
        model: `text-embedding-3-small`; with a `base_url` of your own, whatever that serves.
        api_key: Else from `OPENAI_API_KEY`. Needed at OpenAI, and wherever the endpoint asks.
        base_url: Else from `OPENAI_BASE_URL` or `OPENAI_API_BASE`, else OpenAI's.
        dimensions: Shorter vectors, where the model can.
        input_type: What the endpoint is told that texts are, where it asks. Default: `document` at
            Voyage, nothing elsewhere.
        query_input_type: The same of `embed_query`. Default: `query` where `input_type` is told.
        http_client: An `httpx.AsyncClient` or `httpx2.AsyncClient` to send with.
        transport: Or any `tollway.transport.Transport`.
        errors: What its errors mean, where that is not what they mean at OpenAI.
        connection: How to connect where neither is given: `ca_bundle`, `client_cert`, `proxy`,
            `headers`, `timeout`, `http2`, `max_answer`; see `tollway.transport.NativeTransport`.

    Raises:
        ConfigurationError: No key, a model that OpenAI does not serve, or an option that cannot
            be.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        input_type: str | None = None,
        query_input_type: str | None = None,
        http_client: Any = None,
        transport: Transport | None = None,
        errors: ErrorTable = OPENAI_ERRORS,
        **connection: Any,
    ) -> None:
        given = base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
        self.base_url = (given or BASE_URL).rstrip("/")
        at_openai = self.base_url == BASE_URL
        key = checked_key(api_key or os.environ.get("OPENAI_API_KEY"), f"openai/{model}")
        check_address(self.base_url)
        if at_openai and model not in DIMENSIONS:
            near = difflib.get_close_matches(model, DIMENSIONS, 3, 0) or sorted(DIMENSIONS)
            raise ConfigurationError(
                f"OpenAI serves no embedding model {model!r}; the nearest are {', '.join(near)}. "
                "For another server give base_url"
            )
        if at_openai and not key:
            raise ConfigurationError(
                f"openai/{model} needs a key: set the environment variable OPENAI_API_KEY, or give "
                "api_key. (local/universal-sentence-encoder needs none.)"
            )
        self.model = model
        self._dimensions = dimensions
        self._errors = errors
        self._key = key
        self._transport = connect(transport, http_client, connection)
        endpoint = endpoint_of(self.base_url, model)
        # Some endpoints refuse base64: known, or learned from their first answer.
        self._base64 = endpoint.base64
        self._dimensions_field = endpoint.dimensions_field
        self._input_type = input_type or endpoint.document
        self._query_input_type = query_input_type or (self._input_type and "query")
        known = model in DIMENSIONS
        self.rules = EmbeddingRules(
            encoding="cl100k_base",
            exact=known,
            max_texts=endpoint.max_texts,
            max_request_tokens=300_000 if known else endpoint.max_request_tokens,
            max_text_tokens=8191 if known else endpoint.max_text_tokens,
            dimensions=dimensions or DIMENSIONS.get(model),
            input_type=self._input_type,
            price="listed" if at_openai else "unknown",
        )
        self._feedback, self.limits = hosted(self.base_url, at_openai=at_openai)

    def __repr__(self) -> str:
        """Show the model and the address, never the key."""
        return f"<OpenAIProvider {self.model} at {self.base_url}>"

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, credential's fingerprint, model."""
        return (self.name, self.base_url, fingerprint(self._key), self.model)

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> OpenAIProvider:
        """Return itself, or what says that a text is a query, where the endpoint asks."""
        queries = copy.copy(self)
        queries.model = query_model(self.base_url, self.model)
        queries._input_type = self._query_input_type  # noqa: SLF001 - a copy of this object
        return queries

    async def open(self) -> None:
        """Make the transport ready."""
        await self._transport.open()

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts; see `EmbeddingProvider.embed`."""
        return await self._embed(texts, None)

    async def embed_into(self, texts: Sequence[str], out: NDArray[np.float32]) -> EmbeddingAnswer:
        """Send one request of n texts; see `InPlaceProvider.embed_into`."""
        return await self._embed(texts, out)

    async def _embed(
        self, texts: Sequence[str], out: NDArray[np.float32] | None
    ) -> EmbeddingAnswer:
        asked_base64 = self._base64
        response, decoded = await self._post(texts, asked_base64, out)
        if response.status != 200:
            error = self.refusal(response)
            if asked_base64 and response.status in {400, 422} and "encoding_format" in str(error):
                self._base64 = False
                learn_base64(self.base_url, self.model)
                raise BadResponseError(
                    f"{self.base_url} does not send base64; asking for plain numbers from now on",
                    status=response.status,
                ) from error
            most = None
            if response.status in {400, 413, 422}:
                most = learn_batch(self.base_url, self.model, str(error), len(texts))
            if most is not None:
                self.rules = dataclasses.replace(self.rules, max_texts=most)
            raise error
        feedback = self._feedback.read(response.status, response.headers, now=time.time())
        return _answer(decoded or self._decode(response.body, len(texts)), feedback)

    async def _post(
        self, texts: Sequence[str], base64: bool, out: NDArray[np.float32] | None
    ) -> tuple[Response, _core.DecodedEmbeddings | None]:
        """Send texts; the rows are decoded already where the transport can and they are right."""
        dimensions, extra = self._members()
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            # Unpacking costs more than the vectors: 34 µs an embedding beside 0.6.
            "accept-encoding": "identity",
        }
        headers.update(self._credential())
        if isinstance(self._transport, NativeTransport):
            answer = await self._transport.embed(
                self._url(),
                headers,
                self.model,
                texts,
                dimensions=dimensions,
                base64=base64,
                extra=extra,
                length=self.rules.dimensions,
                out=out,
            )
            return Response(answer.status, answer.headers, answer.body), answer.embeddings
        body = _core.embeddings_body(
            self.model, texts, dimensions=dimensions, base64=base64, extra=extra
        )
        return await self._transport.send(Request("POST", self._url(), headers, body)), None

    def _members(self) -> tuple[int | None, bytes | None]:
        """Return the dimensions to ask for, and further members of the body as JSON."""
        members = self._extra()
        dimensions = None if self._dimensions_field in members else self._dimensions
        return dimensions, json.dumps(members).encode() if members else None

    # What batches take

    def batches(self) -> OpenAIEmbeddingBatches:
        """Return the batch API of this model."""
        return OpenAIEmbeddingBatches(self)

    def body(self, texts: Sequence[str]) -> bytes:
        """Return the body of a request for n texts."""
        dimensions, extra = self._members()
        return _core.embeddings_body(
            self.model, texts, dimensions=dimensions, base64=self._base64, extra=extra
        )

    def answer(self, body: bytes, count: int) -> EmbeddingAnswer:
        """Return the vectors of an answer to n texts, checked as those of `embed` are."""
        return _answer(self._decode(body, count), None)

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        file: bytes | None = None,
    ) -> Response:
        """Return the answer to a request of another kind; see `OpenAIAccount.exchange`."""
        headers = {"accept-encoding": "identity", **self._credential()}
        content = b""
        if file is not None:
            headers["content-type"], content = form(body or {}, file)
        elif body is not None:
            headers["content-type"], content = "application/json", json.dumps(body).encode()
        request = Request(method, f"{self.base_url}{path}", headers, content)
        response = await self._transport.send(request)
        if response.status != 200:
            raise self.refusal(response)
        return response

    async def download(self, file: str) -> AsyncGenerator[bytes, None]:
        """Return the content of a file, as one piece; see `OpenAIAccount.download`."""
        yield (await self.exchange("GET", f"/files/{file}/content")).body

    def refusal(self, response: Response) -> ProviderError:
        """Return what an answer other than 200 means."""
        unset = None if self._key else "OPENAI_API_KEY"
        return error_of(response, self._key, self._errors, self._feedback, unset=unset)

    def _url(self) -> str:
        return f"{self.base_url}/embeddings"

    def _credential(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    def _extra(self) -> dict[str, Any]:
        """Members of the body that OpenAI's own does not have."""
        extra: dict[str, Any] = {}
        if self._input_type is not None:
            extra["input_type"] = self._input_type
        if self._dimensions is not None and self._dimensions_field != "dimensions":
            extra[self._dimensions_field] = self._dimensions
        return extra

    def _decode(self, body: bytes, count: int) -> _core.DecodedEmbeddings:
        try:
            return _core.decode_embeddings(body, count, self.rules.dimensions)
        except BadResponseError:
            struck = _strike(body, self._key)
            if struck == body:
                raise
        # The error shows some of the answer, which repeats the key.
        return _core.decode_embeddings(struck, count, self.rules.dimensions)

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._transport.aclose()


def _answer(decoded: _core.DecodedEmbeddings, feedback: Feedback | None) -> EmbeddingAnswer:
    usage = Usage(
        input_tokens=decoded.prompt_tokens or 0,
        requests=1,
        estimated=decoded.prompt_tokens is None,
    )
    return EmbeddingAnswer(decoded.vectors, decoded.bad_rows, usage, feedback)


def connect(
    transport: Transport | None, http_client: Any, connection: Mapping[str, Any]
) -> Transport:
    """Return the transport that is given, one over a client of httpx, or else our own.

    Raises:
        ConfigurationError: Options of a connection, and something that is connected already.
    """
    if transport is None and http_client is None:
        return NativeTransport(**connection)
    if connection:
        raise ConfigurationError(
            f"{', '.join(connection)}: options of a connection belong to the http_client or "
            "transport that is given"
        )
    return transport or HttpxTransport(http_client)


def error_of(
    response: Response,
    key: str = "",
    errors: ErrorTable = OPENAI_ERRORS,
    feedback: FeedbackTable = OPENAI_FEEDBACK,
    *,
    unset: str | None = None,
) -> ProviderError:
    """Return the exception that an answer other than 200 means.

    Args:
        response: The answer.
        key: Struck out, should the server repeat it; empty for none.
        errors: Decides which exception.
        feedback: Reads what the answer says about limits.
        unset: Variable of the key that is missing, to be named where the server wants one.
    """
    message, code, kind = _error_fields(_strike(response.body, key))
    status = response.status
    if status == 401 and unset is not None:
        message += f"; set the environment variable {unset}, or give api_key"
    said = feedback.read(status, response.headers, response.body, now=time.time())
    what = code or kind
    error = errors.classify(status, (code, kind), response.body)(
        f"{status} {what}: {message}" if what else f"{status}: {message}",
        status=status,
        code=what,
        request_id=response.headers.get("x-request-id"),
        retry_after=said.retry_after,
    )
    error.feedback = said
    return error


def _strike(body: bytes, key: str) -> bytes:
    return body.replace(key.encode(), "…".encode()) if key else body


def hosted(base_url: str, *, at_openai: bool) -> tuple[FeedbackTable, Limits]:
    """Return what reads an address's answers about limits, and the limits to begin with."""
    host = urllib.parse.urlsplit(base_url).hostname or ""
    known = next((table for end, table in _HOSTED.items() if host.endswith(end)), None)
    if known is None and not at_openai:
        return OPENAI_FEEDBACK, Limits(sub_window=1.0, max_in_flight=25)
    return known or OPENAI_FEEDBACK, dataclasses.replace(AUTO_LIMITS, sub_window=1.0)


def checked_key(key: str | None, model: str, variable: str = "OPENAI_API_KEY") -> str:
    """Return a key without the newline that one read from a file often ends in; empty for none.

    Raises:
        ConfigurationError: No header may hold it; the message does not show it.
    """
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            f"the key of {model} holds a blank or a character that no header may hold; look at "
            f"{variable} or api_key"
        )
    return key


def check_address(base_url: str) -> None:
    """Refuse what is no address, or one with a password.

    Raises:
        ConfigurationError: It is one of these.
    """
    try:
        parts = urllib.parse.urlsplit(base_url)
        proper = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        parts, proper = None, False
    if parts is not None and parts.username is not None:
        raise ConfigurationError(
            "base_url holds a user or password, which messages would show; give an http_client "
            "that authenticates"
        )
    if not proper:
        raise ConfigurationError(
            f"base_url must be an address such as http://127.0.0.1:8080/v1, not {base_url!r}"
        )


def _error_fields(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and type of an error body; its beginning where it is of another form."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body[:200].decode(errors="replace"), None, None
    if isinstance(parsed, dict):
        fields = cast("dict[str, Any]", parsed)
        fields = fields.get("error", fields)
    else:
        fields = parsed
    if not isinstance(fields, dict):
        return str(fields)[:300], None, None
    named = {str(name): None if value is None else str(value) for name, value in fields.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    message = named.get("message") or named.get("detail") or "no message"
    return message[:300], named.get("code"), named.get("type")
