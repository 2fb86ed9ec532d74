"""LightRAG's own functions of embedding under their own names: change the import, keep the code.

Texts over the model's window are cut. `query_prefix` and `document_prefix` stand before texts as
`context` says. `embedding_dim` asks for vectors of that length. The rest is as in
`tollway.integrations.lightrag.completions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tollway.integrations.lightrag.functions import vectors_of
from tollway.integrations.lightrag.shared import (
    address_of,
    azure_options,
    client_options,
    first_of,
    shared_embedder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "DECLARED",
    "azure_openai_embed",
    "bedrock_embed",
    "gemini_embed",
    "ollama_embed",
    "openai_embed",
]

DECLARED = {
    "openai_embed": (1536, 8192, "text-embedding-3-small"),
    "azure_openai_embed": (1536, 8192, "my-text-embedding-3-large-deployment"),
    "ollama_embed": (1024, 8192, "bge-m3:latest"),
    "gemini_embed": (1536, 2048, "gemini-embedding-001"),
    "bedrock_embed": (1024, 8192, "amazon.titan-embed-text-v2:0"),
}
"""What LightRAG's functions say of themselves: length of the vectors, tokens a text, model."""


async def openai_embed(
    texts: Sequence[str],
    model: str = "text-embedding-3-small",
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    embedding_dim: int | None = None,
    max_token_size: int | None = None,
    client_configs: Mapping[str, Any] | None = None,
    token_tracker: Any = None,
    use_azure: bool = False,
    azure_deployment: str | None = None,
    api_version: str | None = None,
    context: str = "document",
    query_prefix: str | None = None,
    document_prefix: str | None = None,
) -> NDArray[Any]:
    """Embed through OpenAI, Azure OpenAI, or any endpoint that speaks the same."""
    options = client_options(client_configs)
    if use_azure:
        options |= azure_options("EMBEDDING", base_url, api_key, api_version)
        deployment = azure_deployment or first_of("AZURE_EMBEDDING_DEPLOYMENT") or model
        name, options["base_model"] = f"azure/{deployment}", model
    else:
        name, options = f"openai/{model}", {**options, "base_url": base_url, "api_key": api_key}
    embedder = shared_embedder(
        name,
        dimensions=embedding_dim,
        prompt=document_prefix,
        query_prompt=query_prefix or "",
        **options,
    )
    if max_token_size:
        texts = embedder.encoding.truncate_batch(texts, max_token_size)
    return await vectors_of(embedder, texts, context, token_tracker)


async def azure_openai_embed(
    texts: Sequence[str], model: str | None = None, **kwargs: Any
) -> NDArray[Any]:
    """Embed through Azure OpenAI: deployment `AZURE_EMBEDDING_DEPLOYMENT`, else `model`."""
    named = model or first_of("EMBEDDING_MODEL") or "text-embedding-3-small"
    kwargs["use_azure"] = True
    return await openai_embed(texts, named, **kwargs)


async def ollama_embed(
    texts: Sequence[str],
    embed_model: str = "bge-m3:latest",
    *,
    max_token_size: int | None = None,
    context: str = "document",
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    embedding_dim: int | None = None,
    token_tracker: Any = None,
    host: str | None = None,
    api_key: str | None = None,
    timeout: float | None = None,
) -> NDArray[Any]:
    """Embed through Ollama; a text is cut at `max_token_size` tokens, by an estimate."""
    embedder = shared_embedder(
        f"ollama/{embed_model}",
        base_url=host,
        api_key=api_key,
        timeout=timeout or None,
        dimensions=embedding_dim,
        max_tokens=max_token_size or None,
        prompt=document_prefix,
        query_prompt=query_prefix or "",
    )
    return await vectors_of(embedder, texts, context, token_tracker)


async def gemini_embed(
    texts: Sequence[str],
    model: str = "gemini-embedding-001",
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    embedding_dim: int | None = None,
    task_type: str | None = None,
    token_tracker: Any = None,
    context: str = "document",
) -> NDArray[Any]:
    """Embed through Gemini; without `task_type`, queries and documents each as what they are."""
    embedder = shared_embedder(
        f"gemini/{model}",
        base_url=address_of(base_url),
        api_key=api_key or first_of("LLM_BINDING_API_KEY", "GEMINI_API_KEY"),
        dimensions=embedding_dim,
        task_type=task_type,
    )
    return await vectors_of(embedder, texts, "document" if task_type else context, token_tracker)


async def bedrock_embed(
    texts: Sequence[str],
    model: str = "amazon.titan-embed-text-v2:0",
    *,
    aws_access_key_id: str | None = None,
    aws_secret_access_key: str | None = None,
    aws_session_token: str | None = None,
    aws_region: str | None = None,
    endpoint_url: str | None = None,
    context: str = "document",
) -> NDArray[Any]:
    """Embed through Amazon Bedrock: Titan or Cohere."""
    embedder = shared_embedder(
        f"bedrock/{model}",
        region=aws_region,
        aws_access_key_id=aws_access_key_id,
        aws_secret_access_key=aws_secret_access_key,
        aws_session_token=aws_session_token,
        base_url=address_of(endpoint_url),
    )
    return await vectors_of(embedder, texts, context)
