"""LiteLLM: how it is imported and called, and what its exceptions mean."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadResponseError,
    ConfigurationError,
    ContentFilterError,
    ContextWindowExceededError,
    InsufficientQuotaError,
    ProviderError,
)
from tollway.limiter import AUTO_LIMITS, Limits
from tollway.limiter.feedback import (
    ANTHROPIC_FEEDBACK,
    AZURE_FEEDBACK,
    GEMINI_FEEDBACK,
    GROQ_FEEDBACK,
    OPENAI_FEEDBACK,
    FeedbackTable,
)
from tollway.providers.errors import (
    ANTHROPIC_ERRORS,
    BEDROCK_ERRORS,
    GEMINI_ERRORS,
    OLLAMA_ERRORS,
    OPENAI_ERRORS,
    ErrorRule,
    ErrorTable,
)
from tollway.providers.frame import fingerprint
from tollway.providers.openai import check_address, checked_key, error_of
from tollway.transport import Response

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = ["LiteLLMClient", "caught", "sdk"]

# LiteLLM reads these when it is imported or first used, and fetches files from the network unless
# they say not to.
_OFFLINE = ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS")


# LiteLLM hands on what OpenAI and Azure say, not always their code for it.
_OPENAI_ERRORS = OPENAI_ERRORS.with_rules(
    ErrorRule(InsufficientQuotaError, 429, body="check your plan and billing")
)


@dataclass(frozen=True, slots=True)
class _Family:
    """How the providers behind LiteLLM of one kind word their errors and limits."""

    errors: ErrorTable = _OPENAI_ERRORS
    feedback: FeedbackTable = OPENAI_FEEDBACK


# By the first word of a model's name; any other speaks like OpenAI.
_FAMILIES = {
    "anthropic": _Family(ANTHROPIC_ERRORS, ANTHROPIC_FEEDBACK),
    "azure": _Family(_OPENAI_ERRORS, AZURE_FEEDBACK),
    "bedrock": _Family(BEDROCK_ERRORS, FeedbackTable()),
    "gemini": _Family(GEMINI_ERRORS, GEMINI_FEEDBACK),
    "groq": _Family(_OPENAI_ERRORS, GROQ_FEEDBACK),
    "ollama": _Family(OLLAMA_ERRORS, FeedbackTable()),
    "ollama_chat": _Family(OLLAMA_ERRORS, FeedbackTable()),
    "vertex_ai": _Family(GEMINI_ERRORS, GEMINI_FEEDBACK),
}
_LOCAL = frozenset({"ollama", "ollama_chat", "lm_studio", "llamafile", "hosted_vllm"})
# Options that say whose quota a call takes from.
_ACCOUNT = ("aws_", "azure_", "vertex_")
# LiteLLM's classes, which it gives as the error's type here, where they say more than the status.
_BY_CLASS = (
    ErrorRule(ContextWindowExceededError, codes={"ContextWindowExceededError"}),
    ErrorRule(ContentFilterError, codes={"ContentPolicyViolationError"}),
    ErrorRule(InsufficientQuotaError, codes={"PaymentRequiredError"}),
    ErrorRule(APITimeoutError, codes={"Timeout"}),
    ErrorRule(APIConnectionError, codes={"APIConnectionError"}),
    # An answer of no use: it has no status of the server.
    ErrorRule(BadResponseError, codes={"APIError", "APIResponseValidationError"}),
)


class LiteLLMClient:
    """What chat and embeddings share: one model of one provider behind LiteLLM.

    Args:
        model: As LiteLLM names it, `provider/model`; of a name alone LiteLLM is asked whose it is,
            for which it is imported at once.
        api_key: Else from the variable that LiteLLM reads, such as `GROQ_API_KEY`.
        base_url: Else the provider's own address.
        errors: What its errors mean; None for the provider's own table.
        options: Further arguments of every call, such as `api_version` or `aws_region_name`.

    Raises:
        ConfigurationError: An address that is none, or a name alone that LiteLLM does not know.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        errors: ErrorTable | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self.kind, slash, self.name = model.partition("/")
        if not slash:
            self.kind, self.name = _kind_of(model), model
        family = _FAMILIES.get(self.kind, _Family())
        self.feedback = family.feedback
        self._errors = errors or family.errors.with_rules(*_BY_CLASS)
        variable = f"{self.kind.upper()}_API_KEY"
        self._key = checked_key(api_key or os.environ.get(variable), f"litellm/{model}", variable)
        if base_url is not None:
            check_address(base_url)
        self.base_url = base_url
        # Whose quota it is, where a key alone does not tell: the region, the project, ….
        self._account = sorted(
            (name, str(value)) for name, value in options.items() if name.startswith(_ACCOUNT)
        )
        given = {"api_key": self._key or None, "api_base": base_url}
        # Nothing is tried twice, nothing dropped in silence.
        fixed = {"num_retries": 0, "max_retries": 0, "drop_params": False}
        self.arguments = {
            **{name: value for name, value in given.items() if value is not None},
            **options,
            **fixed,
            "model": model,
        }
        is_local = base_url is not None or self.kind in _LOCAL
        self.limits = Limits(max_in_flight=25) if is_local else AUTO_LIMITS

    @property
    def is_own_address(self) -> bool:
        """Whether it is the provider itself that answers, whose prices are listed."""
        return self.base_url is None and self.kind not in _LOCAL

    @property
    def place(self) -> str:
        """The address, or the provider behind LiteLLM."""
        return self.base_url or self.kind

    async def open(self) -> None:
        """Import LiteLLM."""
        sdk()

    async def aclose(self) -> None:
        """Leave LiteLLM's connections to LiteLLM, which shares them with its other users."""

    @property
    def where(self) -> str:
        """Who is asked, for messages."""
        return f"litellm/{self.model}" + (f" at {self.base_url}" if self.base_url else "")

    @property
    def quota_key(self) -> Hashable:
        """Provider, address, fingerprint of the credential and the account, model."""
        secret = f"{self._key} {self._account}" if self._account else self._key
        return ("litellm", self.base_url, fingerprint(secret), self.model)

    def headers_of(self, answer: Any) -> dict[str, str]:
        """Return the provider's headers of an answer or a stream, names in lower case."""
        hidden: Mapping[str, Any] = getattr(answer, "_hidden_params", None) or {}
        given: Mapping[str, Any] = hidden.get("additional_headers") or {}
        prefix = "llm_provider-"
        headers = {
            name.removeprefix(prefix).lower(): str(value)
            for name, value in given.items()
            if name.startswith(prefix)
        }
        headers.setdefault("x-request-id", headers.get("request-id", ""))
        return headers

    def failure(self, error: Exception) -> ProviderError:
        """Return what an exception of LiteLLM means."""
        # A stream's is wrapped for LiteLLM's own fallbacks.
        inner: Any = getattr(error, "original_exception", None) or error
        given: Any = getattr(inner, "status_code", None)
        status = given if isinstance(given, int) and given >= 400 else 500
        headers: Any = getattr(inner, "litellm_response_headers", None) or {}
        message, code = _said(inner)
        fields = {"message": message, "code": code, "type": type(inner).__name__}
        return error_of(
            Response(
                status,
                {str(name).lower(): str(value) for name, value in headers.items()},
                json.dumps({"error": fields}).encode(),
            ),
            self._key,
            self._errors,
            self.feedback,
        )


def sdk() -> Any:
    """Return the module of LiteLLM, told to fetch nothing; importing it takes three seconds.

    Raises:
        ConfigurationError: It is not installed.
    """
    for name in _OFFLINE:
        os.environ.setdefault(name, "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise ConfigurationError(
            "litellm/… needs LiteLLM: pip install 'tollway[litellm]'"
        ) from error
    # It prints advice on standard output with every error, where a command's output belongs.
    litellm.suppress_debug_info = True
    return litellm


def _kind_of(model: str) -> str:
    """Return the provider of a model that is named alone."""
    try:
        return str(sdk().get_llm_provider(model)[1])
    except caught() as error:
        raise ConfigurationError(
            f"LiteLLM does not know whose model {model!r} is: name it litellm/PROVIDER/{model}"
        ) from error


def caught() -> tuple[type[Exception], ...]:
    """Return what LiteLLM raises: its exceptions are subclasses of the OpenAI SDK's."""
    sdk()
    import openai  # noqa: PLC0415 - LiteLLM has just imported it

    return (openai.OpenAIError,)


def _said(error: Any) -> tuple[str, str | None]:
    """Return the provider's message and its code or type, as far as LiteLLM hands them on."""
    text = str(error).partition("\nTraceback")[0]
    fields: Any = getattr(error, "body", None)
    if not isinstance(fields, dict):
        fields = _json_in(text)
    named = cast("dict[str, Any]", fields)
    code = named.get("code") or named.get("status") or named.get("type")
    # The details of a body decide what an error is: they stay in the message.
    return text, None if code is None else str(code)


def _json_in(text: str) -> dict[str, Any]:
    """Return the error in the provider's body, which LiteLLM puts into its messages."""
    start = text.find("{")
    if start < 0:
        return {}
    try:
        found: Any = json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return {}
    inner: Any = cast("dict[str, Any]", found).get("error")
    return cast("dict[str, Any]", inner if isinstance(inner, dict) else found)
