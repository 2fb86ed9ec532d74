"""What exceptions of a user's own function become, whichever library they are from."""

from __future__ import annotations

import httpx
import httpx2
import openai
import pytest

from function_fakes import failing, llm_of, refusal
from tollway import RetryPolicy, errors


def botocore(status, code):
    error = Exception(f"An error occurred ({code})")
    error.response = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"Retry-After": "7"}},
    }
    return error


def named(name, **members):
    return type(name, (Exception,), members)("told")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (refusal(401), errors.AuthenticationError),
        (refusal(404), errors.NotFoundError),
        (refusal(422), errors.BadRequestError),
        (refusal(503), errors.OverloadedError),
        (refusal(400, {"error": "maximum context length"}), errors.ContextWindowExceededError),
        (named("Refused", status=529), errors.OverloadedError),
        (named("APIError", code=429), errors.RateLimitError),
        (
            named("Limit", status_code=429, code="insufficient_quota"),
            errors.InsufficientQuotaError,
        ),
        (botocore(500, "InternalServerException"), errors.InternalServerError),
        (named("RateLimitError"), errors.RateLimitError),
        (named("APIConnectionError"), errors.APIConnectionError),
        (named("ReadTimeout"), errors.APITimeoutError),
        (httpx.ConnectError("no"), errors.APIConnectionError),
        (httpx.ReadTimeout("slow"), errors.APITimeoutError),
        (TimeoutError(), errors.APITimeoutError),
        (ConnectionRefusedError(), errors.APIConnectionError),
        (KeyError("choices"), errors.ProviderError),
        (FileNotFoundError("prompt.txt"), errors.ProviderError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value)[:40],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_it_raises_is_typed(raised, kind, is_async):
    def function(prompt):
        raise raised

    async def asynchronous(prompt):
        raise raised

    llm = llm_of(asynchronous if is_async else function, retry=RetryPolicy(max_retries=0))
    with pytest.raises(errors.TollwayError) as caught:
        await llm.complete("a")
    error = caught.value
    if isinstance(error, errors.RetriesExhaustedError):
        error = error.__cause__
    assert type(error) is kind
    assert "function/" in str(error)


async def test_a_stop_iteration_ends_no_task():
    def function(prompt):
        raise StopIteration

    with pytest.raises(errors.ProviderError, match="StopIteration"):
        await llm_of(function).complete("a")


async def test_the_sdks_error_with_its_hint_and_its_code():
    request = httpx2.Request("POST", "http://127.0.0.1/")
    answer = httpx2.Response(
        429, headers={"retry-after": "0.25", "x-request-id": "r1"}, request=request
    )
    raised = openai.RateLimitError("slow down", response=answer, body={"code": "slow_down"})
    waits = []
    policy = RetryPolicy(
        max_retries=1, base_delay=0.0, on_retry=lambda _, error, wait: waits.append((error, wait))
    )
    answer = await llm_of(failing(raised, "fine"), retry=policy).complete("a")
    assert answer.text == "fine"
    (error, wait), *_ = waits
    assert isinstance(error, errors.RateLimitError)
    assert (error.retry_after, error.code, error.request_id) == (0.25, "slow_down", "r1")
    assert wait >= 0.25


async def test_what_tenacity_hides_is_found():
    retried = named("RetryError")
    retried.last_attempt = type("Future", (), {"exception": lambda _: refusal(401)})()
    with pytest.raises(errors.AuthenticationError):
        await llm_of(failing(retried)).complete("a")


async def test_errors_of_tollway_pass_as_they_are():
    ours = errors.ContentFilterError("no", code="mine")
    with pytest.raises(errors.ContentFilterError) as caught:
        await llm_of(failing(ours)).complete("a")
    assert caught.value is ours
    assert caught.value.__cause__ is None


async def test_a_mistake_is_raised_at_once_and_leads_to_its_line():
    function = failing(KeyError("choices"))
    with pytest.raises(errors.ProviderError, match="KeyError") as caught:
        await llm_of(function).complete("a")
    assert function.calls == 1
    assert isinstance(caught.value.__cause__, KeyError)
