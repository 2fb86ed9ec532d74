"""The exceptions of tollway, in one tree.

    TollwayError
    ├── ConfigurationError        arguments, environment or limits that cannot work
    ├── InputError                a file or text that cannot be read or embedded
    ├── RequestTooLargeError      a request needs more than a whole quota
    ├── ContextWindowError        a text is longer than the model takes
    ├── CheckpointError           a job folder in use, damaged, not writable or of another model
    ├── BudgetExceededError       the next request would cost more than was allowed
    ├── DeadlineExceededError     the time given ran out
    ├── RetriesExhaustedError     every attempt failed; carries all of them
    ├── CircuitOpenError          the provider refused for good and is not asked for now
    ├── StructuredOutputError     no answer was the JSON that was asked for
    ├── ToolLoopError             the model went on calling tools
    └── ProviderError             the provider refused or failed
        ├── AuthenticationError   401                    never retried
        ├── PermissionDeniedError 403                    never retried
        ├── InsufficientQuotaError 402, permanent 429    never retried
        ├── NotFoundError         404                    never retried
        ├── BadRequestError       400, 413, 422          never retried
        │   ├── ContentFilterError        what is asked is not allowed
        │   └── ContextWindowExceededError  is a ContextWindowError too
        ├── RateLimitError        429                    retried
        ├── OverloadedError       503, 529               retried
        ├── InternalServerError   other 5xx, 409         retried
        ├── APITimeoutError       408, 504, time-outs    retried
        ├── APIConnectionError    no answer              retried
        ├── BadResponseError      an answer of no use    retried
        └── StreamInterruptedError  a stream that did not end; retried before its first token

Every message says what happened, to which input, what was kept and what to do next.
None carries a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollway.limiter.feedback import Feedback
    from tollway.types import Attempt, Completion

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BadResponseError",
    "BudgetExceededError",
    "CheckpointError",
    "CircuitOpenError",
    "ConfigurationError",
    "ContentFilterError",
    "ContextWindowError",
    "ContextWindowExceededError",
    "DeadlineExceededError",
    "InputError",
    "InsufficientQuotaError",
    "InternalServerError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "ProviderError",
    "RateLimitError",
    "RequestTooLargeError",
    "RetriesExhaustedError",
    "StreamInterruptedError",
    "StructuredOutputError",
    "TollwayError",
    "ToolLoopError",
]


class TollwayError(Exception):
    """Base of every exception that tollway raises.

    Attributes:
        finished: What a call over many inputs had done before it failed, or None. For `embed`:
            the array of vectors, its unfinished rows NaN.
        attempts: What failed of the call's attempts, first to last; with fallbacks or several
            deployments those of all models, each named.
    """

    finished: Any = None
    attempts: tuple[Attempt, ...] = ()


class ConfigurationError(TollwayError, ValueError):
    """Arguments, environment or limits that cannot work; nothing was sent."""


class InputError(TollwayError, ValueError):
    """An input that cannot be read or embedded; the message names it."""


class RequestTooLargeError(TollwayError, ValueError):
    """A request needs more than a whole quota, so that no wait would ever admit it."""


class ContextWindowError(TollwayError, ValueError):
    """A text or conversation is longer than the model takes."""


class CheckpointError(TollwayError):
    """A job folder is in use, damaged, not writable, or of another model or dimension."""


class BudgetExceededError(TollwayError):
    """The next request would cost more than was allowed; it was not sent."""


class DeadlineExceededError(TollwayError, TimeoutError):
    """The time given for the whole call ran out; the last failure is its cause.

    Attributes:
        attempts: What each attempt met, first to last; empty where none was made.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class RetriesExhaustedError(TollwayError):
    """Every attempt failed.

    Attributes:
        attempts: What each attempt met, first to last; the last one's error is `__cause__`.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class CircuitOpenError(TollwayError):
    """The provider refused another request for good, so that this one was not sent.

    The refusal is its cause. See `tollway.retry.CircuitBreaker`.

    Attributes:
        retry_in: Seconds until one request is let through; 0.0 while one is.
        attempts: What attempts this call had made before, first to last.
    """

    def __init__(
        self, message: str, *, retry_in: float = 0.0, attempts: Sequence[Attempt] = ()
    ) -> None:
        super().__init__(message)
        self.retry_in = retry_in
        self.attempts = tuple(attempts)


class StructuredOutputError(TollwayError):
    """No answer was the JSON that was asked for, and asking again did not help.

    Attributes:
        completion: The last answer, with the usage and cost of all of them; its `text` is as the
            model wrote it.
    """

    def __init__(self, message: str, completion: Completion) -> None:
        super().__init__(message)
        self.completion = completion

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it with the answer, as a process hands it to another."""
        return type(self), (*self.args, self.completion), self.__dict__


class ToolLoopError(TollwayError):
    """The model still called tools after the rounds it was given.

    `finished` is the `ToolRun` so far, with the conversation.
    """


class ProviderError(TollwayError):
    """The provider refused a request or failed at it.

    Attributes:
        status: HTTP status, or None where no answer came.
        code: The provider's own code or type for the error, or None.
        request_id: The provider's id of the request, or None.
        retry_after: Seconds the provider asks to wait, or None.
        retryable: Whether a later attempt may succeed.
        feedback: What the answer says about the provider's limits, or None.
    """

    retryable: ClassVar[bool] = False
    feedback: Feedback | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after


class AuthenticationError(ProviderError):
    """The key was refused (401)."""


class PermissionDeniedError(ProviderError):
    """The key may not do this (403)."""


class InsufficientQuotaError(ProviderError):
    """Credit or a spend limit is used up; waiting does not help."""


class NotFoundError(ProviderError):
    """No such model or address (404)."""


class BadRequestError(ProviderError):
    """The provider does not take this request (400, 413, 422)."""


class ContentFilterError(BadRequestError):
    """The provider's filter does not let this request pass."""


class ContextWindowExceededError(BadRequestError, ContextWindowError):
    """The provider says that the conversation is longer than the model takes."""


class RateLimitError(ProviderError):
    """Too many requests or tokens for now (429)."""

    retryable = True


class OverloadedError(ProviderError):
    """The provider is out of capacity for everyone (503, 529)."""

    retryable = True


class InternalServerError(ProviderError):
    """The provider failed (5xx)."""

    retryable = True


class APITimeoutError(ProviderError):
    """No answer in time."""

    retryable = True


class APIConnectionError(ProviderError):
    """The provider could not be reached, or the connection broke."""

    retryable = True


class BadResponseError(ProviderError):
    """An answer came that is not what was asked for: cut short, malformed or incomplete."""

    retryable = True


class StreamInterruptedError(ProviderError):
    """A stream ended before the answer did.

    The error that ended it, if one came, is its cause. Nothing was sent again: the caller has seen
    the beginning of the answer.

    Attributes:
        partial: What had arrived: text, reasoning, calls of tools that may be cut short, and the
            usage as far as it is known, or None. Its `finish_reason` is `error`.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        partial: Completion | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            message, status=status, code=code, request_id=request_id, retry_after=retry_after
        )
        self.partial = partial
