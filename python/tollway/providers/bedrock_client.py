"""Bedrock's client of boto3, called in threads, and what its exceptions mean."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
)
from tollway.limiter.feedback import FeedbackTable
from tollway.providers.errors import BEDROCK_ERRORS
from tollway.providers.openai import check_address, error_of
from tollway.providers.worker import in_thread
from tollway.transport import CONNECT_TIMEOUT, TIMEOUT, Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Iterator

    from tollway.providers.errors import ErrorTable

__all__ = ["BedrockClient"]

# In a stream an error comes after the status 200: its code is all there is.
_STATUS = {
    "internalserverexception": 500,
    "modelstreamerrorexception": 500,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "validationexception": 400,
}
_END = object()
_THREAD = "tollway-bedrock"


class BedrockClient:
    """What chat and embeddings share: one model in one region with one credential.

    Each call has a thread of its own, which ends with it: a call that was abandoned keeps no other
    from its turn, and no interpreter from its exit.

    Args:
        model: Id of the model, an inference profile or an ARN.
        region: Else from `AWS_REGION` or `AWS_DEFAULT_REGION`, else the profile's.
        profile: Of the shared configuration; else from `AWS_PROFILE`.
        aws_access_key_id: Else whatever boto3 finds: the environment (`AWS_BEARER_TOKEN_BEDROCK`
            too), the profile, the machine's role.
        aws_secret_access_key: With it.
        aws_session_token: With it, where it is a temporary one.
        base_url: Another endpoint.
        client: A client of boto3 for `bedrock-runtime`, to use as it is; left open. Make it with
            `Config(retries={"total_max_attempts": 1})`.
        errors: What its errors mean.

    Raises:
        ConfigurationError: An address that is none.
    """

    def __init__(
        self,
        model: str,
        *,
        region: str | None = None,
        profile: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        base_url: str | None = None,
        client: Any = None,
        errors: ErrorTable = BEDROCK_ERRORS,
    ) -> None:
        if base_url is not None:
            check_address(base_url)
        environment = os.environ
        self.model = model
        self.base_url = base_url
        self.region = (
            region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        )
        self._errors = errors
        self._session = {
            "region_name": self.region,
            "profile_name": profile,
            "aws_access_key_id": aws_access_key_id,
            "aws_secret_access_key": aws_secret_access_key,
            "aws_session_token": aws_session_token,
        }
        # An id, not a secret; a role's changes, which is then the same account.
        self._account = (
            aws_access_key_id
            or profile
            or environment.get("AWS_ACCESS_KEY_ID")
            or environment.get("AWS_PROFILE")
            or "default"
        )
        self._given = client
        self._own: Any = None
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def quota_key(self) -> Hashable:
        """Provider, endpoint or region, credential, model."""
        return ("bedrock", self.base_url or self.region, self._account, self.model)

    @property
    def place(self) -> str:
        """The endpoint or region."""
        return str(self.base_url or self.region)

    @property
    def where(self) -> str:
        """Who is asked, for messages."""
        return f"bedrock/{self.model} at {self.place}"

    async def open(self) -> None:
        """Make the client, which takes half a second, in a thread."""
        if self._given is None and (self._own is None or self._pid != os.getpid()):
            await in_thread(self._client, _THREAD)

    async def aclose(self) -> None:
        """Close the connections that are not in use; an injected client stays open."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None or self._pid != os.getpid():
                self._own, self._pid = self._make(), os.getpid()
            return self._own

    def _make(self) -> Any:
        boto3, botocore = _sdk()
        config = botocore.config.Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=TIMEOUT,
            max_pool_connections=100,
        )
        given = {name: value for name, value in self._session.items() if value is not None}
        try:
            return boto3.Session(**given).client(
                "bedrock-runtime", endpoint_url=self.base_url, config=config
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"{self.where}: {error}") from error

    async def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call an operation and return its answer, with the whole of its `body` if it has one.

        Cancellation returns at once; boto3 cannot be stopped, and its thread reads the answer that
        nobody waits for.
        """

        def work() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._client(), operation)(**arguments)
            if "body" in answer:
                answer["body"] = answer["body"].read()
            return answer

        try:
            return await in_thread(work, _THREAD)
        except Exception as error:  # noqa: BLE001 - what is not of boto3 is raised as it is
            raise self._failure(error) from _shown(error)

    async def events(
        self, arguments: dict[str, Any], timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Return the answer of `converse_stream` without its stream, then each of its events.

        When this is closed, the connection is, as soon as the next event has come.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        is_closed = threading.Event()

        def put(item: object) -> None:
            # A loop that was closed in the meantime takes nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                for item in self._read(arguments):
                    put(item)
                    if is_closed.is_set():
                        return
                put(_END)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                put(error)

        threading.Thread(target=work, name=_THREAD, daemon=True).start()
        try:
            while True:
                try:
                    async with asyncio.timeout(timeout):
                        item = await queue.get()
                except TimeoutError as error:
                    raise APITimeoutError(
                        f"{self.where} did not go on within {timeout:g} s"
                    ) from error
                if item is _END:
                    return
                if isinstance(item, Exception):
                    raise self._failure(item) from _shown(item)
                yield item
        finally:
            is_closed.set()

    def _read(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        answer: dict[str, Any] = self._client().converse_stream(**arguments)
        stream: Any = answer.pop("stream")
        try:
            yield answer
            yield from stream
        finally:
            stream.close()

    def _failure(self, error: Exception) -> Exception:
        """Return what an exception of boto3 means; one of another kind is returned as it is."""
        _, botocore = _sdk()
        kinds = botocore.exceptions
        where = self.where
        if isinstance(error, kinds.ClientError):
            return self._refusal(cast("Any", error).response)
        if isinstance(error, (kinds.ReadTimeoutError, kinds.ConnectTimeoutError)):
            return APITimeoutError(f"{where} did not answer within {TIMEOUT:g} s")
        credential = (
            kinds.NoCredentialsError,
            kinds.PartialCredentialsError,
            kinds.CredentialRetrievalError,
            kinds.NoAuthTokenError,
            kinds.TokenRetrievalError,
            kinds.SSOError,
            kinds.LoginError,
        )
        if isinstance(error, credential):
            return AuthenticationError(f"{where}: {error}; see the documentation of boto3")
        if isinstance(error, (kinds.ParamValidationError, kinds.UnknownServiceError)):
            return BadRequestError(f"{where}: {error}")
        if isinstance(
            error, (botocore.parsers.ResponseParserError, botocore.eventstream.ParserError)
        ):
            return BadResponseError(f"{where} answered what is no answer of Bedrock")
        broken = (
            kinds.ConnectionError,
            kinds.HTTPClientError,
            kinds.ResponseStreamingError,
            kinds.IncompleteReadError,
        )
        if isinstance(error, broken) or type(error).__module__.startswith("urllib3"):
            return APIConnectionError(f"{where} could not be reached, or broke off: {error}")
        if isinstance(error, kinds.BotoCoreError):
            # Of the shared configuration, or of where a role's credentials come from.
            return ConfigurationError(f"{where}: {error}")
        return error

    def _refusal(self, answer: dict[str, Any]) -> Exception:
        error: dict[str, Any] = answer.get("Error") or {}
        metadata: dict[str, Any] = answer.get("ResponseMetadata") or {}
        code = str(error.get("Code"))
        status: Any = metadata.get("HTTPStatusCode")
        if not isinstance(status, int) or status < 400:
            status = _STATUS.get(code.lower(), 500)
        headers = {str(name).lower(): str(value) for name, value in _headers(metadata).items()}
        headers["x-request-id"] = metadata.get("RequestId") or ""
        body = json.dumps({"error": {"code": code, "message": error.get("Message")}})
        answered = Response(status, headers, body.encode())
        return error_of(answered, errors=self._errors, feedback=FeedbackTable())


def _headers(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata.get("HTTPHeaders") or {}


def _sdk() -> tuple[Any, Any]:
    try:
        # On first use: they take a while, and not every user needs them.
        for part in ("config", "eventstream", "exceptions", "parsers"):
            importlib.import_module(f"botocore.{part}")
        modules = importlib.import_module("boto3"), importlib.import_module("botocore")
    except ImportError as error:
        raise ConfigurationError(
            "bedrock/… needs Amazon's SDK: pip install 'tollway[bedrock]'"
        ) from error
    return modules


def _shown(error: Exception) -> Exception | None:
    """Return the cause to show: that of a refusal says nothing more."""
    return None if hasattr(error, "operation_name") else error
