"""The providers that the suite of chat cases runs with: one entry each.

To add one: an entry whose `make` returns an `LLM` that talks to the simulator. What it cannot do
is what its `capabilities` do not name; the cases that need more then check that it says so. What
else differs is declared in `lacks`, with the reason, and shows in the matrix.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from google.oauth2.credentials import Credentials

from tollway import LLM, Limits, RateLimiter, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tollway.simulator import Simulator

__all__ = ["ENTRIES", "FAST", "KEY", "Entry"]

KEY = "sk-simulated-0123456789"
# Retries at once: what they wait is tested elsewhere.
FAST = RetryPolicy(max_retries=3, base_delay=0.001, max_delay=0.002)


@dataclass(frozen=True)
class Entry:
    """One provider under test.

    Attributes:
        name: Its column in the matrix.
        make: Returns an LLM for a running simulator; further options are the LLM's.
        simulator: Options of the simulator.
        lacks: Name of a case to the reason why it does not apply, beside the capabilities.
    """

    name: str
    make: Callable[..., LLM]
    simulator: Mapping[str, Any] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)


def openai(sim: Simulator, **options: Any) -> LLM:
    # What holds at OpenAI's own address alone is to hold here.
    with mock.patch("tollway.providers.openai_chat.BASE_URL", sim.base_url):
        return LLM("openai/gpt-4o", **_options(options, base_url=sim.base_url))


def reasoning(sim: Simulator, **options: Any) -> LLM:
    with mock.patch("tollway.providers.openai_chat.BASE_URL", sim.base_url):
        return LLM("openai/gpt-5-mini", **_options(options, base_url=sim.base_url))


def compatible(sim: Simulator, **options: Any) -> LLM:
    return LLM("openai/deepseek-sim", **_options(options, base_url=sim.base_url))


def azure(sim: Simulator, **options: Any) -> LLM:
    endpoint = sim.base_url.removesuffix("/v1")
    given = {"azure_endpoint": endpoint, "api_version": "2025-04-01-preview"}
    return LLM("azure/my-deployment", **_options(options, base_model="gpt-4o", **given))


def azure_v1(sim: Simulator, **options: Any) -> LLM:
    given = {"base_model": "gpt-4o", "azure_endpoint": sim.base_url.removesuffix("/v1")}
    return LLM("azure/my-deployment", **_options(options, **given))


def anthropic(sim: Simulator, **options: Any) -> LLM:
    address = sim.base_url.removesuffix("/v1")
    with mock.patch("tollway.providers.anthropic.BASE_URL", address):
        return LLM("anthropic/claude-opus-4-5", **_options(options, base_url=address))


def gemini(sim: Simulator, **options: Any) -> LLM:
    address = sim.base_url.removesuffix("/v1")
    with mock.patch("tollway.providers.gemini_client.BASE_URL", address):
        return LLM("gemini/gemini-2.5-flash", **_options(options, base_url=address))


def vertex(sim: Simulator, **options: Any) -> LLM:
    given = {"vertexai": True, "project": "p", "location": "l", "credentials": Credentials(KEY)}
    address = sim.base_url.removesuffix("/v1")
    return LLM(
        "gemini/gemini-3-pro", **_options({"api_key": None, **options}, base_url=address, **given)
    )


def ollama(sim: Simulator, **options: Any) -> LLM:
    address = sim.base_url.removesuffix("/v1")
    return LLM("ollama/llama3.2", **_options(options, base_url=address, num_ctx=131_072))


def bedrock(sim: Simulator, **options: Any) -> LLM:
    address = sim.base_url.removesuffix("/v1")
    given = {"region": "us-east-1", "aws_access_key_id": KEY, "aws_secret_access_key": "secret"}
    model = "bedrock/us.anthropic.claude-opus-4-5-20251101-v1:0"
    return LLM(model, **_options(options, base_url=address, api_key=None, **given))


def litellm_openai(sim: Simulator, **options: Any) -> LLM:
    return LLM("litellm/openai/gpt-4o", **_options(options, base_url=sim.base_url))


def litellm_azure(sim: Simulator, **options: Any) -> LLM:
    given = {"base_url": sim.base_url.removesuffix("/v1"), "api_version": "2025-04-01-preview"}
    return LLM("litellm/azure/my-deployment", **_options(options, base_model="gpt-4o", **given))


def litellm_anthropic(sim: Simulator, **options: Any) -> LLM:
    address = sim.base_url.removesuffix("/v1")
    return LLM("litellm/anthropic/claude-opus-4-5", **_options(options, base_url=address))


_BLOCKED = {"request_id_of_an_error": "a blocked prompt is answered with the status 200"}


def _options(options: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    # Without limits: what waits for them is tested elsewhere.
    return {"api_key": KEY, "limits": RateLimiter(Limits()), **own, **options}


ENTRIES = [
    Entry("openai", openai),
    Entry("openai reasoning", reasoning),
    Entry("azure", azure),
    Entry("azure v1", azure_v1),
    Entry(
        "compatible",
        compatible,
        # A server that knows little, and writes reasoning into the answer.
        {"refuses": {"stream_options", "developer", "parallel_tool_calls"}, "reasoning": "tags"},
    ),
    Entry("anthropic", anthropic),
    Entry("gemini", gemini, lacks=_BLOCKED),
    Entry("gemini vertex", vertex, lacks=_BLOCKED),
    Entry(
        "bedrock",
        bedrock,
        lacks={"reasoning_apart": "what was thought is not counted apart; streamed, it is checked"},
    ),
    Entry(
        "ollama",
        ollama,
        lacks={
            "reasoning_apart": "what was thought is not counted apart; streamed, it is checked",
            "refusal": "a refusal is text like any other",
            "streamed_refusal": "a refusal is text like any other",
            "content_filter": "there is no filter",
        },
    ),
]
_MADE_UP = {
    "answers_without_a_finish_reason_are_retried": "LiteLLM puts one in; in streams it is noticed"
}
_DROPPED = {**_MADE_UP, "streamed_refusal": "LiteLLM drops the pieces of a refusal"}
# LiteLLM needs another major version of the OpenAI SDK: `make conformance` runs it by itself.
if importlib.util.find_spec("litellm") is not None:
    ENTRIES += [
        Entry("litellm openai", litellm_openai, lacks=_DROPPED),
        Entry("litellm azure", litellm_azure, lacks=_DROPPED),
        Entry(
            "litellm anthropic",
            litellm_anthropic,
            lacks={**_MADE_UP, "missing_usage_is_estimated": "LiteLLM fails without usage"},
        ),
    ]
