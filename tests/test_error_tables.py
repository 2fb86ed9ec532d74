"""The tables of errors: what each provider's bodies mean, and how a user changes that."""

from __future__ import annotations

import json

import pytest

from tollway import Embedder, RetryPolicy, errors
from tollway.providers.errors import (
    ANTHROPIC_ERRORS,
    BEDROCK_ERRORS,
    GEMINI_ERRORS,
    OLLAMA_ERRORS,
    OPENAI_ERRORS,
    ErrorRule,
    ErrorTable,
)
from tollway.simulator import Faults, Simulator

BY_STATUS = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    402: errors.InsufficientQuotaError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    408: errors.APITimeoutError,
    409: errors.InternalServerError,
    413: errors.BadRequestError,
    418: errors.BadRequestError,
    422: errors.BadRequestError,
    429: errors.RateLimitError,
    500: errors.InternalServerError,
    502: errors.InternalServerError,
    503: errors.OverloadedError,
    504: errors.APITimeoutError,
    529: errors.OverloadedError,
}
RETRIED = {408, 409, 429, 500, 502, 503, 504, 529}
TABLES = [OPENAI_ERRORS, ANTHROPIC_ERRORS, GEMINI_ERRORS, BEDROCK_ERRORS, OLLAMA_ERRORS]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("status", BY_STATUS)
def test_a_status_alone_means_the_same_everywhere(table, status):
    assert table.classify(status) is BY_STATUS[status]
    assert table.classify(status, (None, ""), b"\xff{") is BY_STATUS[status]
    assert BY_STATUS[status].retryable is (status in RETRIED)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (None, "insufficient_quota"),
        ("insufficient_quota", None),
        ("credit_balance_exhausted", "insufficient_quota"),
        ("project_spend_limit_exceeded", "billing"),
        ("organization_usage_limit_exceeded", None),
        ("organization_spend_limit_exceeded", None),
    ],
)
def test_openais_spent_quota(code, kind):
    assert OPENAI_ERRORS.classify(429, (code, kind)) is errors.InsufficientQuotaError


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "slow_down", "tokens"])
def test_openais_passing_429(code):
    assert OPENAI_ERRORS.classify(429, (code,)) is errors.RateLimitError


def test_anthropics_errors():
    def classify(status, kind, **details):
        body = {"type": "error", "error": {"type": kind, "message": "m", **details}}
        return ANTHROPIC_ERRORS.classify(status, (kind,), json.dumps(body))

    assert classify(429, "rate_limit_error") is errors.RateLimitError
    spent = {"details": {"error_code": "enforced_spend_limit_reached"}}
    assert classify(429, "rate_limit_error", **spent) is errors.InsufficientQuotaError
    low = {"message": "Your credit balance is too low to access the Anthropic API."}
    assert classify(400, "invalid_request_error", **low) is errors.InsufficientQuotaError
    # In the middle of a stream that began with 200.
    assert classify(200, "overloaded_error") is errors.OverloadedError
    assert classify(200, "api_error") is errors.InternalServerError
    assert classify(413, "request_too_large") is errors.BadRequestError


def test_geminis_day_is_told_from_its_minute():
    def classify(quota_id, value="10", message="Quota exceeded"):
        violation = {"quotaId": quota_id, "quotaValue": value}
        details = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "22s"},
        ]
        body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}
        body["error"]["message"] = message
        return GEMINI_ERRORS.classify(429, ("RESOURCE_EXHAUSTED",), json.dumps(body, indent=2))

    minute = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    assert classify(minute) is errors.RateLimitError
    assert classify(minute.replace("Minute", "Day")) is errors.InsufficientQuotaError
    assert classify(minute, value="0") is errors.InsufficientQuotaError
    assert classify(minute, message="* limit: 0, model: x") is errors.InsufficientQuotaError
    assert classify(minute, message="* limit: 50, model: x") is errors.RateLimitError
    key = '{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}'
    assert GEMINI_ERRORS.classify(400, (), key) is errors.AuthenticationError


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (429, "ThrottlingException", "Too many requests, wait", errors.RateLimitError),
        (429, "ThrottlingException", "Too many tokens per day", errors.InsufficientQuotaError),
        (400, "ServiceQuotaExceededException", "", errors.RateLimitError),
        (429, "ModelNotReadyException", "", errors.OverloadedError),
        (403, "ExpiredTokenException", "", errors.AuthenticationError),
        (403, "UnrecognizedClientException", "", errors.AuthenticationError),
        (403, "AccessDeniedException", "", errors.PermissionDeniedError),
        (400, "ValidationException", "limit per day", errors.BadRequestError),
        (424, "ModelErrorException", "", errors.InternalServerError),
        (424, None, "", errors.InternalServerError),
        (408, "ModelTimeoutException", "", errors.APITimeoutError),
        (200, "modelStreamErrorException", "", errors.InternalServerError),
        (200, "throttlingException", "", errors.RateLimitError),
        (200, "serviceUnavailableException", "", errors.OverloadedError),
    ],
)
def test_bedrocks_errors(status, code, message, kind):
    assert BEDROCK_ERRORS.classify(status, (code,), json.dumps({"message": message})) is kind


def test_ollamas_errors():
    memory = '{"error":"model requires more system memory (5.5 GiB) than is available (3.1 GiB)"}'
    assert OLLAMA_ERRORS.classify(500, (), memory) is errors.BadRequestError
    assert OLLAMA_ERRORS.classify(500, (), "other") is errors.InternalServerError
    assert OLLAMA_ERRORS.classify(503, (), "server busy") is errors.OverloadedError
    assert OLLAMA_ERRORS.classify(200, (), '{"error":"stopped"}') is errors.InternalServerError


def test_a_rule_needs_all_that_it_names_and_the_first_counts():
    table = ErrorTable(
        (
            ErrorRule(errors.RateLimitError, 403, {"throttled"}, body="later"),
            ErrorRule(errors.NotFoundError, 403),
        )
    )
    assert table.classify(403, ("throttled",), "come later") is errors.RateLimitError
    assert table.classify(403, ("throttled",), "never") is errors.NotFoundError
    assert table.classify(403, (), "later") is errors.NotFoundError
    assert table.classify(404, ("throttled",), "later") is errors.BadRequestError
    changed = table.with_rules(ErrorRule(errors.OverloadedError, body="never"))
    assert changed.classify(403, (), "never") is errors.OverloadedError
    assert table.classify(403, (), "never") is errors.NotFoundError


@pytest.mark.parametrize("wrong", [{"error": ValueError}, {"body": "("}])
def test_a_rule_that_cannot_work_is_refused(wrong):
    with pytest.raises(errors.ConfigurationError):
        ErrorRule(**{"error": errors.RateLimitError, **wrong})


async def test_an_embedder_takes_a_table_of_its_own():
    table = OPENAI_ERRORS.with_rules(ErrorRule(errors.BadRequestError, 503))
    with Simulator(faults=Faults({"503": 1.0})) as sim:
        policy = RetryPolicy(base_delay=0)
        options = {"api_key": "any", "base_url": sim.base_url, "errors": table}
        async with Embedder("openai/text-embedding-3-small", retry=policy, **options) as embedder:
            with pytest.raises(errors.BadRequestError, match="503"):
                await embedder.embed(["a"])
    assert len(sim.ledger) == 1
