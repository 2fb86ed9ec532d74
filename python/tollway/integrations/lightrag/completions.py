"""LightRAG's own functions of completion under their own names: change the import, keep the code.

Each takes `prompt`, `system_prompt`, `history_messages` and LightRAG's keyword arguments, as
`llm_model_func` says; what it has no name for goes to the provider's own request. Calls with the
same model, address and key share one client and one limiter, which begins with `limits="auto"`.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError
from tollway.integrations.lightrag.calls import Answer, History, answer
from tollway.integrations.lightrag.shared import (
    address_of,
    azure_options,
    client_options,
    first_of,
    shared_llm,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tollway.chat import LLM

__all__ = [
    "anthropic_complete",
    "anthropic_complete_if_cache",
    "azure_openai_complete",
    "azure_openai_complete_if_cache",
    "bedrock_complete",
    "bedrock_complete_if_cache",
    "claude_3_haiku_complete",
    "claude_3_opus_complete",
    "claude_3_sonnet_complete",
    "gemini_complete_if_cache",
    "gemini_model_complete",
    "gpt_4o_complete",
    "gpt_4o_mini_complete",
    "nvidia_openai_complete",
    "ollama_model_complete",
    "openai_complete",
    "openai_complete_if_cache",
]

_NVIDIA = "https://integrate.api.nvidia.com/v1"
_OLLAMA_CLOUD = "https://ollama.com"
# What Ollama and Gemini call the options of a call.
_SAMPLING = {
    "num_predict": "max_tokens",
    "max_output_tokens": "max_tokens",
    "stop_sequences": "stop",
    **{name: name for name in ("temperature", "top_p", "stop", "seed")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
}


def _answering(
    llm_of: Callable[..., tuple[LLM, Mapping[str, Any]]],
) -> Callable[..., Awaitable[Answer]]:
    """Return in LightRAG's form what finds the LLM of a model and keyword arguments.

    Args:
        llm_of: Returns it with the arguments that are the call's.
    """

    async def function(
        model: str,
        prompt: str,
        system_prompt: str | None = None,
        history_messages: History = None,
        **kwargs: Any,
    ) -> Answer:
        llm, further = llm_of(model, **kwargs)
        return await answer(llm, prompt, system_prompt, history_messages, further)

    own = inspect.signature(llm_of).parameters.values()
    form = inspect.signature(function)
    of_lightrag = [each for each in form.parameters.values() if each.name != "kwargs"]
    named = [each for each in own if each.name != "model"]
    functools.update_wrapper(function, llm_of)
    function.__signature__ = form.replace(parameters=[*of_lightrag, *named])  # type: ignore[attr-defined]
    return function


@_answering
def openai_complete_if_cache(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    use_azure: bool = False,
    azure_deployment: str | None = None,
    api_version: str | None = None,
    openai_client_configs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[LLM, Mapping[str, Any]]:
    """Answer through OpenAI, Azure OpenAI, or any endpoint that speaks the same."""
    options = client_options(openai_client_configs)
    if use_azure:
        options |= azure_options("LLM", base_url, api_key, api_version)
        deployment = azure_deployment or first_of("AZURE_OPENAI_DEPLOYMENT") or model
        return shared_llm(f"azure/{deployment}", base_model=model, **options), kwargs
    return shared_llm(f"openai/{model}", base_url=base_url, api_key=api_key, **options), kwargs


@_answering
def anthropic_complete_if_cache(
    model: str, *, base_url: str | None = None, api_key: str | None = None, **kwargs: Any
) -> tuple[LLM, Mapping[str, Any]]:
    """Answer through Anthropic."""
    return shared_llm(f"anthropic/{model}", base_url=base_url, api_key=api_key), kwargs


@_answering
def gemini_complete_if_cache(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    generation_config: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[LLM, Mapping[str, Any]]:
    """Answer through Gemini, at AI Studio or Vertex as the environment says.

    Raises:
        ConfigurationError: `generation_config` holds more than the options of a call; give the rest
            as `extra_body`, in the terms of the REST API.
    """
    sampling, rest = _sampling(generation_config)
    if rest:
        raise ConfigurationError(
            f"generation_config takes no {min(rest)!r} here; give it as extra_body, in the terms "
            "of the REST API"
        )
    key = api_key or first_of("LLM_BINDING_API_KEY", "GEMINI_API_KEY")
    llm = shared_llm(f"gemini/{model}", base_url=address_of(base_url), api_key=key)
    return llm, {**sampling, **kwargs}


@_answering
def bedrock_complete_if_cache(
    model: str,
    *,
    aws_region: str | None = None,
    aws_access_key_id: str | None = None,
    aws_secret_access_key: str | None = None,
    aws_session_token: str | None = None,
    endpoint_url: str | None = None,
    **kwargs: Any,
) -> tuple[LLM, Mapping[str, Any]]:
    """Answer through Amazon Bedrock; `api_key` is ignored, as LightRAG does."""
    kwargs.pop("api_key", None)
    llm = shared_llm(
        f"bedrock/{model}",
        region=aws_region,
        aws_access_key_id=aws_access_key_id,
        aws_secret_access_key=aws_secret_access_key,
        aws_session_token=aws_session_token,
        base_url=address_of(endpoint_url),
    )
    return llm, kwargs


@_answering
def _ollama_complete(
    model: str,
    *,
    host: str | None = None,
    api_key: str | None = None,
    options: Mapping[str, Any] | None = None,
    keep_alive: str | float | None = None,
    **kwargs: Any,
) -> tuple[LLM, Mapping[str, Any]]:
    """Answer through Ollama.

    `options` are Ollama's own: `num_ctx` is the window, and a prompt that does not fit it is an
    error here, where Ollama would drop its beginning.
    """
    if not host and model.endswith(("-cloud", ":cloud")):
        host = _OLLAMA_CLOUD
    sampling, rest = _sampling(options)
    num_ctx, think = rest.pop("num_ctx", None), rest.pop("think", None)
    llm = shared_llm(
        f"ollama/{model}",
        base_url=host,
        api_key=api_key,
        num_ctx=num_ctx,
        options=rest or None,
        keep_alive=keep_alive,
    )
    if think is not None:
        kwargs.setdefault("think", think)
    return llm, {**sampling, **kwargs}


def _named(kwargs: Mapping[str, Any]) -> str:
    """Return the model that LightRAG was made with.

    Raises:
        ConfigurationError: It is not LightRAG that calls.
    """
    config: Any = getattr(kwargs.get("hashing_kv"), "global_config", None)
    name: Any = config.get("llm_model_name") if config else None
    if not name:
        raise ConfigurationError(
            "this function asks the model that LightRAG was made with (llm_model_name), and is "
            "called without one; outside LightRAG call the function that takes a model"
        )
    return str(name)


def _sampling(given: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of a provider's options are options of a call, and the rest."""
    members = dict(given or {})
    known = {_SAMPLING[name]: members.pop(name) for name in [*members] if name in _SAMPLING}
    return known, members


def _of(
    complete: Callable[..., Awaitable[Answer]],
    model_of: Callable[[Mapping[str, Any]], str] = _named,
    **options: Any,
) -> Callable[..., Awaitable[Answer]]:
    """Return a function that takes no model: by default it asks the one that LightRAG names.

    Args:
        complete: Answers by a model.
        model_of: Returns the model, from the keyword arguments of a call.
        options: Further ones, which a call may replace.
    """

    async def function(
        prompt: str,
        system_prompt: str | None = None,
        history_messages: History = None,
        **kwargs: Any,
    ) -> Answer:
        given = {**options, **kwargs}
        return await complete(model_of(kwargs), prompt, system_prompt, history_messages, **given)

    function.__doc__ = complete.__doc__
    return function


def _model(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what names one model."""
    return lambda _: name


async def azure_openai_complete_if_cache(
    model: str,
    prompt: str,
    system_prompt: str | None = None,
    history_messages: History = None,
    **kwargs: Any,
) -> Answer:
    """Answer through Azure OpenAI: the deployment of `AZURE_OPENAI_DEPLOYMENT`, else `model`."""
    kwargs["use_azure"] = True
    return await openai_complete_if_cache(model, prompt, system_prompt, history_messages, **kwargs)


azure_openai_complete = _of(
    azure_openai_complete_if_cache, lambda _: first_of("LLM_MODEL") or "gpt-4o-mini"
)
openai_complete = _of(openai_complete_if_cache)
anthropic_complete = _of(anthropic_complete_if_cache)
gemini_model_complete = _of(gemini_complete_if_cache)
bedrock_complete = _of(bedrock_complete_if_cache)
ollama_model_complete = _of(_ollama_complete)
gpt_4o_complete = _of(openai_complete_if_cache, _model("gpt-4o"))
gpt_4o_mini_complete = _of(openai_complete_if_cache, _model("gpt-4o-mini"))
nvidia_openai_complete = _of(
    openai_complete_if_cache, _model("nvidia/llama-3.1-nemotron-70b-instruct"), base_url=_NVIDIA
)
claude_3_opus_complete = _of(anthropic_complete_if_cache, _model("claude-3-opus-20240229"))
claude_3_sonnet_complete = _of(anthropic_complete_if_cache, _model("claude-3-sonnet-20240229"))
claude_3_haiku_complete = _of(anthropic_complete_if_cache, _model("claude-3-haiku-20240307"))
