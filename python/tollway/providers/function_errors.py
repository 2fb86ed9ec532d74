"""What exceptions of a user's own function mean, whichever library they come from."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tollway import errors as tree
from tollway.errors import APIConnectionError, APITimeoutError, ProviderError, TollwayError
from tollway.limiter.feedback import OPENAI_FEEDBACK
from tollway.transport import transport_error

if TYPE_CHECKING:
    from tollway.providers.errors import ErrorTable

__all__ = ["error_of_function"]

# By name, since the SDKs name the classes of their errors alike and none is to be imported.
_BY_NAME: dict[str, type[ProviderError]] = {
    name: kind
    for name in tree.__all__
    if issubclass(kind := getattr(tree, name), ProviderError) and kind is not ProviderError
}
_MOST_CHARACTERS = 500


def error_of_function(error: Exception, model: str, table: ErrorTable) -> TollwayError:
    """Return the error of tollway's tree that an exception means.

    A status, a code and headers are looked for where the SDKs, httpx, requests, aiohttp, botocore
    and google-genai keep them; without a status the class decides by its name. What none of these
    tells is a `ProviderError`, which is not retried: a mistake in the function stays one.

    Args:
        error: What the function raised.
        model: `provider/model`, for the message.
        table: What a status and a code mean.
    """
    # tenacity hides what happened in a RetryError of its own.
    with contextlib.suppress(Exception):
        last = error.last_attempt.exception()  # type: ignore[attr-defined]
        error = last if isinstance(last, Exception) else error
    if isinstance(error, TollwayError):
        return error
    what = f"{model}: {type(error).__name__}: {str(error)[:_MOST_CHARACTERS]}"
    status = _status(error)
    if status is None:
        return _without_status(error, what)
    code = _code(error)
    body = _body(error)
    said = OPENAI_FEEDBACK.read(status, _headers(error), body.encode(), now=time.time())
    kind = table.classify(status, (code, _text(error, "type")), body)
    typed = kind(
        what,
        status=status,
        code=code,
        request_id=_text(error, "request_id"),
        retry_after=said.retry_after,
    )
    typed.feedback = said
    return typed


def _without_status(error: Exception, what: str) -> ProviderError:
    broken = transport_error(error, what)
    if broken is not None:
        return broken
    names = [kind.__name__ for kind in type(error).__mro__]
    known = next((_BY_NAME[name] for name in names if name in _BY_NAME), None)
    if known is not None:
        return known(what)
    if any("Timeout" in name for name in names):
        return APITimeoutError(what)
    if isinstance(error, socket.gaierror) or any("Connection" in name for name in names):
        return APIConnectionError(what)
    return ProviderError(what)


def _status(error: Exception) -> int | None:
    """Return the HTTP status of a refusal, or None."""
    holders = (error, getattr(error, "response", None))
    names = ("status_code", "status", "code")
    found = [getattr(holder, name, None) for name in names for holder in holders]
    found.append(_botocore(error, "ResponseMetadata", "HTTPStatusCode"))
    return next((each for each in found if isinstance(each, int) and 400 <= each <= 599), None)


def _code(error: Exception) -> str | None:
    told = _botocore(error, "Error", "Code")
    return told if isinstance(told, str) else _text(error, "code") or _text(error, "type")


def _botocore(error: Exception, part: str, name: str) -> Any:
    """Return a member of the answer where it is a mapping of mappings, as botocore keeps it."""
    found: Any = getattr(error, "response", None)
    for key in (part, name):
        found = cast("Mapping[str, Any]", found).get(key) if isinstance(found, Mapping) else None
    return found


def _text(error: Exception, name: str) -> str | None:
    value = getattr(error, name, None)
    return value if isinstance(value, str) else None


def _headers(error: Exception) -> dict[str, str]:
    """Return the headers of the answer, names in lower case."""
    kept: Any = _botocore(error, "ResponseMetadata", "HTTPHeaders")
    for holder in (getattr(error, "response", None), error):
        kept = kept or getattr(holder, "headers", None)
    items: Any = getattr(kept, "items", tuple)()
    return {str(name).lower(): str(value) for name, value in items}


def _body(error: Exception) -> str:
    """Return what the answer says: its body where it is kept, else the exception's text."""
    text: Any = None
    # That of a stream which was not read raises.
    with contextlib.suppress(Exception):
        text = error.response.text  # type: ignore[attr-defined]
    return text if isinstance(text, str) and text else str(error)
