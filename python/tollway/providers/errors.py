"""What each provider means by its errors: tables of rules, to be read and to be changed.

Which class an error has decides everything else: whether it is retried, and whether it stops all
calls of that credential and model (see `tollway.errors` and `tollway.retry.CircuitBreaker`). To
change that for a server of your own, put rules before those of its table:

    table = OPENAI_ERRORS.with_rules(ErrorRule(RateLimitError, status=403, codes={"throttled"}))
    Embedder("openai/model", base_url=..., errors=table)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tollway.errors import (
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContentFilterError,
    ContextWindowExceededError,
    InsufficientQuotaError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

__all__ = [
    "ANTHROPIC_ERRORS",
    "BEDROCK_ERRORS",
    "GEMINI_ERRORS",
    "OLLAMA_ERRORS",
    "OPENAI_ERRORS",
    "ErrorRule",
    "ErrorTable",
]


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One line of a table: an answer to which all that is given applies is an `error`.

    Attributes:
        error: What is raised.
        status: The HTTP status; None for any.
        codes: The error's code or type is one of these, in upper or lower case; empty for any.
        body: A regular expression that is found in the body; None for any.

    Raises:
        ConfigurationError: `error` is not a `ProviderError`, `codes` not a set, or `body` not an
            expression.
    """

    error: type[ProviderError]
    status: int | None = None
    codes: AbstractSet[str] = frozenset()
    body: str | None = None

    def __post_init__(self) -> None:
        """Check what a table could not use."""
        if not (isinstance(self.error, type) and issubclass(self.error, ProviderError)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"a rule is for a ProviderError, not {self.error!r}")
        if isinstance(self.codes, str):
            raise ConfigurationError(f"codes={self.codes!r} is not a set of codes")
        object.__setattr__(self, "codes", frozenset(map(str.lower, self.codes)))
        try:
            re.compile(self.body or "")
        except re.error as error:
            raise ConfigurationError(f"body={self.body!r} is no regular expression") from error

    def applies(self, status: int, names: AbstractSet[str], body: str) -> bool:
        """Whether an answer is what this rule is about; `names` in lower case."""
        return (
            (self.status is None or self.status == status)
            and (not self.codes or not self.codes.isdisjoint(names))
            and (self.body is None or re.search(self.body, body) is not None)
        )


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """Rules, of which the first that applies counts.

    Where none does, 5xx is an `InternalServerError` and everything else a `BadRequestError`.
    """

    rules: tuple[ErrorRule, ...]

    def with_rules(self, *rules: ErrorRule) -> ErrorTable:
        """Return a table that asks `rules` first."""
        return ErrorTable((*rules, *self.rules))

    def classify(
        self, status: int, names: Iterable[str | None] = (), body: bytes | str = b""
    ) -> type[ProviderError]:
        """Return what an answer means.

        Args:
            status: The HTTP status.
            names: The error's code and type, as far as it has them.
            body: The answer's body.
        """
        known = {name.lower() for name in names if name}
        text = body if isinstance(body, str) else body.decode(errors="replace")
        for rule in self.rules:
            if rule.applies(status, known, text):
                return rule.error
        return InternalServerError if status >= 500 else BadRequestError


_BY_STATUS = (
    ErrorRule(AuthenticationError, 401),
    ErrorRule(InsufficientQuotaError, 402),
    ErrorRule(PermissionDeniedError, 403),
    ErrorRule(NotFoundError, 404),
    ErrorRule(APITimeoutError, 408),
    # A conflict passes: the SDKs retry it as they retry a 5xx.
    ErrorRule(InternalServerError, 409),
    ErrorRule(RateLimitError, 429),
    ErrorRule(OverloadedError, 503),
    ErrorRule(APITimeoutError, 504),
    ErrorRule(OverloadedError, 529),
)

OPENAI_ERRORS = ErrorTable(
    (
        # `type` says insufficient_quota, `code` which limit of the account it is; no wait cures
        # either. All other 429 pass, those of a day too: its quota is refilled all the time, and
        # the answer says when. https://platform.openai.com/docs/guides/error-codes
        ErrorRule(
            InsufficientQuotaError,
            429,
            {
                "insufficient_quota",
                "credit_balance_exhausted",
                "organization_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "project_spend_limit_exceeded",
            },
        ),
        ErrorRule(ContextWindowExceededError, 400, {"context_length_exceeded"}),
        # vLLM and others word it so, without a code; llama.cpp's is its own, of 400 or of 500.
        ErrorRule(ContextWindowExceededError, 400, body="maximum (context|prompt) length"),
        ErrorRule(ContextWindowExceededError, codes={"exceed_context_size_error"}),
        # Azure names its filter in `code`, OpenAI its policy.
        ErrorRule(ContentFilterError, 400, {"content_filter", "content_policy_violation"}),
        *_BY_STATUS,
    )
)
"""OpenAI, Azure OpenAI, and what speaks the same."""

ANTHROPIC_ERRORS = ErrorTable(
    (
        # A spend limit that is reached stays so until the next month, and names no time to wait.
        ErrorRule(InsufficientQuotaError, 429, body="enforced_spend_limit_reached"),
        ErrorRule(InsufficientQuotaError, 400, body="credit balance is too low"),
        ErrorRule(ContextWindowExceededError, 400, body="prompt is too long|exceed context limit"),
        ErrorRule(ContentFilterError, 400, body="content filtering policy"),
        # In a stream an error comes after the status 200: its type is all there is.
        ErrorRule(InsufficientQuotaError, codes={"billing_error"}),
        ErrorRule(AuthenticationError, codes={"authentication_error"}),
        ErrorRule(PermissionDeniedError, codes={"permission_error"}),
        ErrorRule(NotFoundError, codes={"not_found_error"}),
        ErrorRule(BadRequestError, codes={"invalid_request_error", "request_too_large"}),
        ErrorRule(RateLimitError, codes={"rate_limit_error"}),
        ErrorRule(OverloadedError, codes={"overloaded_error"}),
        ErrorRule(APITimeoutError, codes={"timeout_error"}),
        ErrorRule(InternalServerError, codes={"api_error"}),
        *_BY_STATUS,
    )
)
"""Anthropic."""

GEMINI_ERRORS = ErrorTable(
    (
        # A violation of a day's quota comes with a retryDelay of seconds, which does not help.
        ErrorRule(InsufficientQuotaError, 429, body=r'"quotaId":\s*"[^"]*PerDay'),
        # A model that the project has no quota for at all.
        ErrorRule(InsufficientQuotaError, 429, body=r'\blimit: 0\b|"quotaValue":\s*"0"'),
        # A wrong key is a 400 here.
        ErrorRule(AuthenticationError, 400, body="API_KEY_INVALID"),
        ErrorRule(ContextWindowExceededError, 400, body="exceeds the maximum number of tokens"),
        *_BY_STATUS,
    )
)
"""Google's Gemini."""

BEDROCK_ERRORS = ErrorTable(
    (
        # One code for every quota: only the message tells a day's, which has no time to wait.
        ErrorRule(InsufficientQuotaError, codes={"ThrottlingException"}, body=r"per day\b"),
        ErrorRule(RateLimitError, codes={"ThrottlingException", "ServiceQuotaExceededException"}),
        # The signature or the key itself: these come as 400 and 403.
        ErrorRule(
            AuthenticationError,
            codes={
                "ExpiredTokenException",
                "IncompleteSignature",
                "InvalidClientTokenId",
                "InvalidSignatureException",
                "MissingAuthenticationTokenException",
                "UnrecognizedClientException",
            },
        ),
        # Errors in the middle of a stream that began with 200 have a code alone.
        ErrorRule(PermissionDeniedError, codes={"AccessDeniedException"}),
        ErrorRule(NotFoundError, codes={"ResourceNotFoundException"}),
        ErrorRule(
            ContextWindowExceededError,
            codes={"ValidationException"},
            body="(?i)too long|too many (input )?tokens|context (window|length)",
        ),
        ErrorRule(BadRequestError, codes={"ValidationException"}),
        ErrorRule(APITimeoutError, codes={"ModelTimeoutException"}),
        # A 429 that is about the model being loaded, not about a quota.
        ErrorRule(OverloadedError, codes={"ModelNotReadyException", "ServiceUnavailableException"}),
        ErrorRule(
            InternalServerError,
            codes={"InternalServerException", "ModelErrorException", "ModelStreamErrorException"},
        ),
        *_BY_STATUS,
        ErrorRule(InternalServerError, 424),
    )
)
"""Amazon Bedrock."""

OLLAMA_ERRORS = ErrorTable(
    (
        # More memory than the machine has does not appear by waiting.
        ErrorRule(BadRequestError, 500, body="requires more system memory"),
        ErrorRule(ContextWindowExceededError, 400, body="exceeds .*context"),
        # In the middle of a stream that began with 200, where the message is all there is.
        ErrorRule(InternalServerError, 200),
        *_BY_STATUS,
    )
)
"""Ollama."""
