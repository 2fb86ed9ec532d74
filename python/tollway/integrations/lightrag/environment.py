"""LightRAG's environment variables, as its server reads them."""

from __future__ import annotations

from typing import Any

from tollway.errors import ConfigurationError
from tollway.integrations.lightrag.functions import embedding_func, llm_model_func, tokenizer
from tollway.integrations.lightrag.shared import (
    address_of,
    azure_options,
    first_of,
    shared_embedder,
    shared_llm,
)

__all__ = ["from_env"]

_PROVIDERS = {
    "anthropic": "anthropic",
    "aws_bedrock": "bedrock",
    "azure_openai": "azure",
    "bedrock": "bedrock",
    "gemini": "gemini",
    "ollama": "ollama",
    "openai": "openai",
}
_NO_EMBEDDINGS = {"anthropic"}
# As LightRAG's server has them.
_LLM_MODEL = "mistral-nemo:latest"
_EMBEDDING_MODELS = {
    "azure": ("text-embedding-3-small", 1536),
    "bedrock": ("amazon.titan-embed-text-v2:0", 1024),
    "gemini": ("gemini-embedding-001", 1536),
    "ollama": ("bge-m3:latest", 1024),
    "openai": ("text-embedding-3-small", 1536),
}
# The server always asks Gemini for the length that it expects.
_TOLD_LENGTH = {"gemini"}


def from_env() -> dict[str, Any]:
    """Return arguments of LightRAG's constructor from its environment variables.

        rag = LightRAG(working_dir="rag", **lightrag.from_env())

    `LLM_BINDING` (ollama if not set), `LLM_BINDING_HOST`, `LLM_BINDING_API_KEY` and `LLM_MODEL` say
    who answers; `EMBEDDING_BINDING`, `EMBEDDING_BINDING_HOST`, `EMBEDDING_BINDING_API_KEY`,
    `EMBEDDING_MODEL`, `EMBEDDING_DIM`, `EMBEDDING_SEND_DIM` and `EMBEDDING_TOKEN_LIMIT` who embeds.
    What they leave open is looked for where the provider looks for it (`OPENAI_API_KEY`, …). The
    process's environment is read; a file `.env` is not. `lightrag.aclose()` closes what they open.

    Returns:
        `llm_model_func`, `llm_model_name`, `embedding_func` and `tokenizer`.

    Raises:
        ConfigurationError: LightRAG is not installed, or a variable, which the message names, says
            what cannot be.
    """
    provider = _provider("LLM")
    model = first_of("LLM_MODEL") or _LLM_MODEL
    served = model
    if provider == "azure":
        served = first_of("AZURE_OPENAI_DEPLOYMENT") or model
    llm = shared_llm(f"{provider}/{served}", **_options("LLM", provider, model))
    return {
        "llm_model_func": llm_model_func(llm),
        "llm_model_name": model,
        "embedding_func": _embedding_func(),
        "tokenizer": tokenizer(),
    }


def _embedding_func() -> Any:
    provider = _provider("EMBEDDING")
    if provider in _NO_EMBEDDINGS:
        raise ConfigurationError(f"EMBEDDING_BINDING: {provider} has no embeddings")
    usual, length = _EMBEDDING_MODELS[provider]
    model = first_of("EMBEDDING_MODEL") or usual
    dimensions = _number("EMBEDDING_DIM")
    is_told = provider in _TOLD_LENGTH or _is_set("EMBEDDING_SEND_DIM")
    if dimensions is None and model == usual:
        dimensions = length
    options = _options("EMBEDDING", provider, model)
    if is_told:
        options["dimensions"] = dimensions
    limit = _number("EMBEDDING_TOKEN_LIMIT")
    served = model
    if provider == "azure":
        served = first_of("AZURE_EMBEDDING_DEPLOYMENT") or model
    elif provider == "ollama":
        options["max_tokens"] = limit or 8192
    embedder = shared_embedder(f"{provider}/{served}", **options)
    if dimensions is None and embedder.dimensions is None:
        raise ConfigurationError(f"set EMBEDDING_DIM: the vectors of {model} are of unknown length")
    return embedding_func(embedder, embedding_dim=dimensions, max_token_size=limit)


def _provider(kind: str) -> str:
    variable = f"{kind}_BINDING"
    binding = first_of(variable) or "ollama"
    provider = _PROVIDERS.get(binding)
    if provider is None:
        known = ", ".join(sorted(_PROVIDERS))
        raise ConfigurationError(f"{variable}={binding} is not known here; known are {known}")
    return provider


def _options(kind: str, provider: str, model: str) -> dict[str, Any]:
    if provider == "azure":
        return {"base_model": model, **azure_options(kind, None, None, None)}
    options: dict[str, Any] = {"base_url": address_of(first_of(f"{kind}_BINDING_HOST"))}
    # Amazon's credentials are never one key.
    if provider != "bedrock":
        options["api_key"] = first_of(f"{kind}_BINDING_API_KEY")
    return options


def _number(variable: str) -> int | None:
    value = first_of(variable)
    if value is None or value == "None":
        return None
    if not value.isdecimal() or not int(value):
        raise ConfigurationError(f"{variable}={value} is not a whole number from 1")
    return int(value)


def _is_set(variable: str) -> bool:
    return (first_of(variable) or "").lower() in {"true", "1", "yes", "t", "on"}
