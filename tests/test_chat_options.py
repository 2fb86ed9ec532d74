"""Options of calls: what they mean beside one another, and what is refused before it is sent."""

from __future__ import annotations

import json

import httpx
import pytest

from chat_fakes import llm_of, said
from tollway import LLM, Limits, RateLimiter
from tollway.errors import ConfigurationError, ContextWindowExceededError
from tollway.providers import ChatRequest, chat_provider, embedding_provider
from tollway.providers.anthropic_wire import messages_body
from tollway.providers.bedrock_wire import converse_arguments
from tollway.types import Message, Tool, ToolCall, Usage

KEY = "sk-0123456789abcdefghij"


def asked(**options):
    return ChatRequest((Message("user", "hello"),), **options)


@pytest.mark.parametrize("value", ["a\nb", "caf\u00e9", "\0"])
async def test_what_no_header_may_hold_is_refused_and_not_shown(value):
    llm, provider = llm_of(said("a"))
    with pytest.raises(ConfigurationError, match="x-token") as raised:
        await llm.complete("hello", extra_headers={"x-token": f"secret{value}"})
    assert "secret" not in str(raised.value)
    for wrong in ({"x-token": 1}, {"x-token": None}, {"x-token\n": "a"}, {1: "a"}):
        with pytest.raises(ConfigurationError, match="extra_headers"):
            await llm.complete("hello", extra_headers=wrong)
    assert provider.requests == []


@pytest.mark.parametrize("kind", ["enabled", "adaptive"])
def test_a_model_that_thinks_gets_no_temperature_that_nobody_named(kind):
    thinking = {"thinking": {"type": kind, "budget_tokens": 1024}}
    default = asked(temperature=0.0, defaults={"temperature"}, extra_body=thinking)
    body = messages_body("claude-opus-4-5", default, 9, {"temperature"})
    assert body["extra_body"] == thinking
    named = asked(temperature=0.5, extra_body=thinking)
    body = messages_body("claude-opus-4-5", named, 9, {"temperature"})
    assert body["extra_body"] == {"temperature": 0.5, **thinking}
    further = {"additionalModelRequestFields": thinking}
    default = asked(temperature=0.0, defaults={"temperature"}, extra_body=further)
    assert "inferenceConfig" not in converse_arguments("m", default)


def test_a_model_that_is_not_to_think_gets_it():
    off = {"thinking": {"type": "disabled"}}
    default = asked(temperature=0.0, defaults={"temperature"}, extra_body=off)
    body = messages_body("claude-opus-4-5", default, 9, {"temperature"})
    assert body["extra_body"] == {"temperature": 0.0, **off}
    further = {"additionalModelRequestFields": off}
    default = asked(temperature=0.0, defaults={"temperature"}, extra_body=further)
    assert converse_arguments("m", default)["inferenceConfig"] == {"temperature": 0.0}


async def test_options_of_the_server_are_replaced_by_those_of_a_call_alone():
    asked = []

    def serve(request):
        asked.append(json.loads(request.content)["options"])
        message = {"content": "a"}
        return httpx.Response(200, json={"message": message, "done": True, "done_reason": "stop"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    options = {"temperature": 0.7, "num_predict": 50, "num_ctx": 16_384, "top_k": 3}
    async with LLM("ollama/m", base_url="http://here", http_client=client, options=options) as llm:
        await llm.complete("hello")
        await llm.complete("hello", temperature=0.1, max_tokens=9)
        assert llm.provider.rules.context_window == 16_384
        await llm.complete("hello", extra_body={"options": {"num_predict": 5}})
    assert asked == [
        options,
        {**options, "temperature": 0.1, "num_predict": 9},
        {**options, "num_predict": 5},
    ]
    with pytest.raises(ConfigurationError, match="num_ctx"):
        LLM("ollama/m", options={"num_ctx": 0})
    with pytest.raises(ConfigurationError, match="num_ctx"):
        LLM("ollama/m", num_ctx=4096, options={"num_ctx": 2048})


async def test_options_of_a_call_do_not_take_ollama_its_window():
    sent = []

    def answer(request):
        sent.append(json.loads(request.content))
        message = {"role": "assistant", "content": "yes"}
        return httpx.Response(200, json={"message": message, "done": True, "done_reason": "stop"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        llm = LLM("ollama/m", http_client=client, num_ctx=1234, options={"num_gpu": 1})
        await llm.complete("hello", extra_body={"options": {"top_k": 5}, "keep_alive": 0})
        await llm.complete("hello")
    first, second = (body["options"] for body in sent)
    assert first == {**second, "top_k": 5}
    assert (second["num_ctx"], second["num_gpu"], second["num_predict"]) == (1234, 1, 4000)


@pytest.mark.parametrize(("window", "is_cut"), [(None, True), (4096, False), (900, True)])
async def test_ollama_s_window_is_the_one_that_was_sent(window, is_cut):
    def answer(request):
        del request
        message = {"role": "assistant", "content": "yes"}
        ended = {"done": True, "done_reason": "stop", "prompt_eval_count": 1200}
        return httpx.Response(200, json={"message": message, **ended})

    options = {} if window is None else {"num_ctx": window}
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        llm = LLM("ollama/m", http_client=client, num_ctx=1000)
        asking = llm.complete("hello", extra_body={"options": options})
        if is_cut:
            with pytest.raises(ContextWindowExceededError, match=f"{window or 1000:,}"):
                await asking
        else:
            assert (await asking).text == "yes"


@pytest.mark.parametrize(
    "endpoint",
    ["https://r.openai.azure.com", "https://r.openai.azure.com/", "https://r.openai.azure.com/openai",
     "https://r.openai.azure.com/openai/v1/"],
)  # fmt: skip
def test_azure_s_address_in_any_form_of_the_portal(endpoint):
    for make in (chat_provider, embedding_provider):
        provider = make("azure/d", azure_endpoint=endpoint, api_key=KEY)
        assert provider.base_url == "https://r.openai.azure.com"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "0")
            for name in ("temperature", "top_p", "presence_penalty", "max_tokens", "seed")
        ),
        *((name, True) for name in ("frequency_penalty", "max_tokens", "priority")),
        *((name, float("nan")) for name in ("temperature", "timeout")),
        *((name, 0) for name in ("deadline", "timeout", "max_tokens")),
        *((name, 5) for name in ("system_prompt", "stop", "tools", "reasoning_effort")),
        ("parallel_tool_calls", 1),
        ("extra_body", [1]),
        ("extra_headers", "a"),
        ("history_messages", 5),
        ("priority", "high"),
        ("priority", None),
        ("timeout", None),
    ],
)
async def test_what_cannot_work_is_refused_before_it_is_sent(name, value):
    llm, provider = llm_of(said("yes"))
    with pytest.raises(ConfigurationError, match=name):
        await llm.complete("hello", **{name: value})
    with pytest.raises(ConfigurationError, match=name):
        LLM(provider, limits=RateLimiter(Limits()), **{name: value})
    assert not provider.requests


async def test_of_most_options_none_is_what_they_are_without():
    llm, provider = llm_of(said("yes"))
    await llm.complete("hello")
    nothing = dict.fromkeys(("history_messages", "tools", "stop", "extra_body", "deadline"))
    await llm.complete("hello", **nothing)
    assert provider.requests[0] == provider.requests[1]


async def test_a_choice_that_is_none_of_the_tools_is_refused():
    llm, provider = llm_of(said("yes"))
    tools = [Tool("look")]
    for options in ({"tool_choice": "see", "tools": tools}, {"tool_choice": "required"}):
        with pytest.raises(ConfigurationError, match="none of the tools"):
            await llm.complete("hello", **options)
    assert not provider.requests
    for choice in ("look", "required", "none", "auto"):
        await llm.complete("hello", tool_choice=choice, tools=tools)
    own = {"tools": [{"type": "web_search"}]}
    await llm.complete("hello", tool_choice="web_search", extra_body=own)
    assert len(provider.requests) == 5


# What is charged


@pytest.mark.parametrize(
    ("model", "weight"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 5),
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", 5),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", None),
        ("amazon.nova-lite-v1:0", None),
    ],
)
@pytest.mark.parametrize("limits", [None, "auto", Limits(tpm=100_000)])
def test_bedrock_s_newer_claudes_take_five_of_the_quota_for_an_output_token(model, weight, limits):
    region = f"eu-{model}-{limits}"
    llm = LLM(f"bedrock/{model}", region=region, limits=limits)
    assert llm.limiter.limits.output_weight == weight
    assert llm.limiter.limits.cached_free is True


@pytest.mark.parametrize(("model", "free"), [("claude-haiku-4-5", True), ("claude-3-haiku", False)])
def test_what_anthropic_reads_from_its_cache_is_free(model, free):
    key = f"sk-charged-{model}"
    assert LLM(f"anthropic/{model}", api_key=key).limiter.limits.cached_free is free
    own = Limits(input_tpm=1000, cached_free=False)
    kept = LLM(f"anthropic/{model}", api_key=f"{key}-2", limits=own)
    assert kept.limiter.limits.cached_free is False


async def test_what_weighs_is_charged_in_advance_as_bedrock_does_and_in_full_at_the_end():
    usage = Usage(10, 1, output_tokens=900)
    limiter = RateLimiter(Limits(tpm=100_000, output_weight=5))
    _, provider = llm_of(said("yes", usage=usage), charges_max_tokens="sum")
    held = []

    def answer(request):
        held.append(limiter.snapshot()["tpm"].used)
        return said("yes", usage=usage)

    provider.script = [answer]
    llm = LLM(provider, limits=limiter)
    counted = int(await llm.count_tokens("hello"))
    await llm.complete("hello", max_tokens=4000)
    assert held == [counted + 4000]
    assert limiter.snapshot()["tpm"].used == 10 + 5 * 900


@pytest.mark.parametrize(("charges", "tpm"), [("sum", 5_000), ("no", 1_000)])
async def test_what_an_answer_weighs_makes_no_request_too_large(charges, tpm):
    limiter = RateLimiter(Limits(tpm=tpm, output_weight=5))
    _, provider = llm_of(said("yes"), charges_max_tokens=charges)
    assert (await LLM(provider, limits=limiter).complete("hello", max_tokens=4000)).text == "yes"


async def test_where_the_limiter_weighs_nothing_all_is_charged_in_advance():
    limiter = RateLimiter(Limits(tpm=100_000))
    held = []

    def answer(request):
        held.append(limiter.snapshot()["tpm"].used)
        return said("yes")

    _, provider = llm_of(answer, charges_max_tokens="sum")
    provider.limits = Limits(output_weight=5)
    await LLM(provider, limits=limiter).complete("hello", max_tokens=4000)
    assert held[0] > 4000


# Tools


async def test_a_tool_s_parameters_may_have_any_name():
    seen = []

    def fetch(json: bool, _page: int, copy: str = "no") -> dict[str, str]:
        """Fetch."""
        seen.append((json, _page, copy))
        return {"말": "네"}

    arguments = '{"json": true, "_page": 2}'
    called = said(tool_calls=(ToolCall("1", "fetch", arguments),), finish_reason="tool_calls")
    llm, provider = llm_of(called, said("done"))
    run = await llm.run_tools("go", tools=[fetch])
    assert seen == [(True, 2, "no")]
    schema = provider.requests[0].tools[0].parameters
    assert list(schema["properties"]) == ["json", "_page", "copy"]
    assert schema["required"] == ["json", "_page"]
    # In the words of the tool, not escaped: that is what is paid for.
    assert run.messages[-2].content == '{"말": "네"}'


def test_retry_is_a_policy():
    _, provider = llm_of(said("yes"))
    with pytest.raises(ConfigurationError, match="RetryPolicy"):
        LLM(provider, retry=3)
