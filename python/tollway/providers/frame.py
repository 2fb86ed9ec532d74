"""What the chat providers behind an SDK have in common: how they answer, stream, fail and learn."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    TollwayError,
)
from tollway.transport import transport_error
from tollway.transport.loops import LoopClients
from tollway.types import Chunk
from tollway.wire import tell_when_written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping
    from types import TracebackType

    from tollway.errors import ProviderError
    from tollway.providers.base import ChatCapabilities, ChatRequest
    from tollway.providers.openai_models import Learned
    from tollway.types import Completion

__all__ = [
    "AtClient",
    "ChatFrame",
    "Events",
    "Reading",
    "fingerprint",
    "own_client",
    "sdk_clients",
    "sdk_failure",
    "told_client",
]

# Seconds for a request that is no chat, as for one that names none.
_TIMEOUT = 600.0

# Of what stands in the place of a mapping, a list, a text or a number, or lacks a member.
_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)


def _nothing() -> None:
    """Hold nothing back."""


@dataclass(frozen=True, slots=True)
class Events:
    """A stream as an SDK gives it.

    Attributes:
        source: Its events; closed by `aclose` or `close`.
        read: Returns what an event brings, or None.
        headers: Of the answer; None where `read` finds them in the first event.
        request_id: The provider's id of the request, or None.
        end: Returns what `read` has held back, or None.
    """

    source: Any
    read: Callable[[Any], Chunk | None]
    headers: Mapping[str, str] | None = None
    request_id: str | None = None
    end: Callable[[], Chunk | None] = _nothing


class ChatFrame(ABC):
    """A chat provider that writes only what is its SDK's own.

    That is: `_answer` and `_events`, which send a request and raise whatever the SDK does, and
    what that means.
    """

    name: str
    model: str
    _learned: Learned

    def __repr__(self) -> str:
        """Show the model and the place, never the key."""
        return f"<{type(self).__name__} {self.model} at {self._place}>"

    @property
    def capabilities(self) -> ChatCapabilities:
        """What the model can do, as far as it has not shown otherwise."""
        return self._learned.capabilities

    async def complete(self, request: ChatRequest) -> Completion:
        """Send one request and return the whole answer; see `ChatProvider.complete`."""
        with self._failing(request):
            return await self._answer(request)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Send one request and return the pieces of its answer; see `ChatProvider.stream`."""
        with self._failing(request):
            events = await self._events(request)
            source = events.source
            reading = Reading(self._where)
            try:
                if events.headers is not None:
                    yield Chunk(headers=events.headers, request_id=events.request_id)
                async for event in source:
                    with reading:
                        chunk = events.read(event)
                    if chunk is not None:
                        yield chunk
                if (held := events.end()) is not None:
                    yield held
            finally:
                await (getattr(source, "aclose", None) or source.close)()

    @contextlib.contextmanager
    def _failing(self, request: ChatRequest | None) -> Generator[None, None, None]:
        """Raise in place of an SDK's exception what it means; learn from a refusal.

        Args:
            request: What is sent; None for what is no chat, from which nothing is learned.
        """
        form = None if request is None else self._learned.form
        try:
            yield
        except BadRequestError as error:
            if (learned := self._learn(error, request, form)) is None:
                raise
            raise learned from error.__cause__
        except TollwayError:
            raise
        except Exception as error:
            made = self._failure(error, _TIMEOUT if request is None else request.timeout)
            if made is None:
                raise
            # The SDK's own message of what a server said may repeat the key.
            is_shown = getattr(error, "body", None) is None and not any(
                hasattr(error, name) for name in ("status_code", "details", "operation_name")
            )
            raise (self._learn(made, request, form) or made) from (error if is_shown else None)

    def _learn(
        self, error: Exception, request: ChatRequest | None, form: Hashable = None
    ) -> BadResponseError | None:
        """Return what to raise where a refusal was about what nobody asked for: a retry.

        Args:
            error: The refusal.
            request: What is refused; None for what is no chat.
            form: That of `Learned` when it was sent, or None.
        """
        # What an SDK refuses to send, the model has not seen.
        if request is None or type(error) is not BadRequestError or error.status is None:
            return None
        if form is not None and form != self._learned.form:
            # The refusal of another request that was under way has taught it.
            change: str | None = "was asked for what it is known by now not to take"
        else:
            change = self._refused(str(error), request)
        if change is None:
            return None
        return BadResponseError(
            f"{self._where} {change}, which is remembered",
            status=error.status,
            request_id=error.request_id,
            retry_after=0.0,
        )

    def _refused(self, message: str, request: ChatRequest) -> str | None:
        """Return what a refusal teaches; see `Learned.learn`."""
        return self._learned.learn(message, request)

    @property
    def _where(self) -> str:
        """Who is asked, for messages."""
        return f"{self.name}/{self.model} at {self._place}"

    @property
    @abstractmethod
    def _place(self) -> str:
        """The address, or another name of the place."""

    @abstractmethod
    async def _answer(self, request: ChatRequest) -> Completion:
        """Send a request and return its answer."""

    @abstractmethod
    async def _events(self, request: ChatRequest) -> Events:
        """Send a request and return the events of its answer."""

    def _failure(self, error: Exception, timeout: float) -> ProviderError | None:
        """Return what an exception of the SDK means; None for any other.

        One whose client raises exceptions of ours has no need of it.
        """
        del error, timeout
        return None


class Client(Protocol):
    """One model at one place with one credential, as chat and embeddings share it."""

    @property
    def quota_key(self) -> Hashable:
        """What shares one quota."""
        ...

    @property
    def place(self) -> str:
        """The address, or another name of the place."""
        ...

    async def open(self) -> None:
        """Make ready for this event loop."""
        ...

    async def aclose(self) -> None:
        """Close what it opened in this event loop."""
        ...


C = TypeVar("C", bound=Client)


class AtClient(Generic[C]):
    """What chat and embeddings of one provider do with their client."""

    model: str
    _client: C

    def __repr__(self) -> str:
        """Show the model and the place, never the key."""
        return f"<{type(self).__name__} {self.model} at {self._place}>"

    @property
    def quota_key(self) -> Hashable:
        """Provider, place, credential or account, model."""
        return self._client.quota_key

    @property
    def _place(self) -> str:
        return self._client.place

    async def open(self) -> None:
        """Make the client of this event loop, and import the SDK."""
        await self._client.open()

    async def aclose(self) -> None:
        """Close the connections of this event loop; an injected client stays open."""
        await self._client.aclose()


class Reading:
    """A context for what reads an answer: one in another form than its API's is asked for again.

    What reading it raises becomes a `BadResponseError`. It may be entered again and again, as for
    each piece of a stream, of which a generator would take more than a microsecond.

    Args:
        where: Who answered, for the message.
    """

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        """Begin to read."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise `BadResponseError` in place of what an answer in another form raises."""
        if isinstance(error, _UNREADABLE) and not isinstance(error, TollwayError):
            raise BadResponseError(
                f"{self._where} answered in a form that is not its API's ({type(error).__name__})",
                status=200,
            ) from error


def fingerprint(secret: str) -> str:
    """Return what tells one credential from another and shows neither."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def own_client(client: Any, *others: object) -> Any:
    """Return a user's client of OpenAI's or Anthropic's SDK, without its retries.

    Raises:
        ConfigurationError: Others were given that are the client's to have.
    """
    if any(others):
        raise ConfigurationError("the address, key and http_client are those of the client")
    return client.with_options(max_retries=0)


def sdk_clients(make: Callable[[], Any], http_client: Any, client: Any) -> LoopClients[Any]:
    """Return the clients of such an SDK; one over the user's HTTP client is left open with it."""
    return LoopClients(make, _close if http_client is None else _leave_open, client)


def told_client(sdk: Any) -> Any:
    """Return an HTTP client as such an SDK makes it, which tells when a request is written."""
    return sdk.DefaultAsyncHttpxClient(event_hooks={"request": [tell_when_written]})


def sdk_failure(
    error: Exception, sdk: Any, root: type[Exception], where: str, timeout: float
) -> ProviderError | None:
    """Return what an exception means that such an SDK raises or lets pass without an answer.

    None is for the others: a status, an error in a stream, or no credential.
    """
    if isinstance(error, sdk.APITimeoutError):
        return APITimeoutError(f"{where} did not answer within {timeout:g} s")
    if isinstance(error, sdk.APIConnectionError):
        cause = error.__cause__
        known = transport_error(cause, where) if isinstance(cause, Exception) else None
        return known or APIConnectionError(f"{where} could not be reached, or broke off")
    if isinstance(error, root):
        return None
    return transport_error(error, where) or BadResponseError(
        f"{where} answered with something else than JSON"
    )


async def _close(client: Any) -> None:
    await client.close()


async def _leave_open(client: Any) -> None:
    """Leave an SDK's client be that sends with one of the user's: closing it would close that."""
    del client
