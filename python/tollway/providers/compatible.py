"""Where endpoints that speak OpenAI's format differ from it: what is published, what is learned."""

from __future__ import annotations

import re
import threading
import urllib.parse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollway.providers.base import ChatFeature, ChatParameter

__all__ = [
    "ChatEndpoint",
    "Endpoint",
    "chat_endpoint",
    "endpoint_of",
    "learn_base64",
    "learn_batch",
    "query_model",
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one endpoint takes for one model.

    Attributes:
        max_texts: Texts a request.
        max_request_tokens: Tokens a request, or None where nothing is known.
        max_text_tokens: Tokens a text, or None where nothing is known.
        base64: Whether it sends vectors as base64.
        dimensions_field: What it calls the length of the vectors.
        document: Its `input_type` of documents, or None where it has none.
        query: Its `input_type` of queries.
    """

    max_texts: int = 2048
    max_request_tokens: int | None = None
    max_text_tokens: int | None = None
    base64: bool = True
    dimensions_field: str = "dimensions"
    document: str | None = None
    query: str | None = None


# https://docs.voyageai.com/reference/embeddings-api: 1,000 texts, and tokens by model, the first
# that the name begins with.
_VOYAGE_TOKENS = {
    "voyage-3.5-lite": 1_000_000,
    "voyage-4-lite": 1_000_000,
    "voyage-3.5": 320_000,
    "voyage-4-large": 120_000,
    "voyage-4": 320_000,
    "voyage-2": 320_000,
}
_PATTERNS = (
    # text-embeddings-inference and what is built on it.
    re.compile(r"maximum allowed batch size (\d+)"),
    re.compile(r"batch size is invalid, it should not be larger than (\d+)"),
    # OpenAI's own words, where a server has another number.
    re.compile(r"maximum length (?:of )?(\d+)"),
    re.compile(r"at most (\d+) (?:are taken|inputs|texts|items|strings)"),
)

_learned: dict[tuple[str, str], Endpoint] = {}
_lock = threading.Lock()


def endpoint_of(base_url: str, model: str) -> Endpoint:
    """Return what is known of a model at an address, with what this process has learned."""
    learned = _learned.get((base_url, model))
    if learned is not None:
        return learned
    host = urllib.parse.urlsplit(base_url).hostname or ""
    if host == "api.voyageai.com":
        tokens = (most for name, most in _VOYAGE_TOKENS.items() if model.startswith(name))
        return Endpoint(
            max_texts=1000,
            max_request_tokens=next(tokens, 120_000),
            dimensions_field="output_dimension",
            document="document",
            query="query",
        )
    if host == "api.upstage.ai":
        # https://console.upstage.ai/api/embeddings
        return Endpoint(100, 204_800, 4000, base64=False)
    return Endpoint()


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """What one endpoint's chats differ in.

    Attributes:
        key: The variable that has its key, before that of OpenAI.
        prices: Its name in the price list, or None.
        no_features: What its models cannot do.
        no_parameters: What they do not take, or ignore.
        thoughts_back: Whether an answer that calls tools goes back with what was thought for it.
    """

    key: str = "OPENAI_API_KEY"
    prices: str | None = None
    no_features: frozenset[ChatFeature] = frozenset()
    no_parameters: frozenset[ChatParameter] = frozenset()
    thoughts_back: bool = False


_CHAT = {
    # https://api-docs.deepseek.com/api/create-chat-completion: JSON without a schema;
    # https://api-docs.deepseek.com/guides/thinking_mode#tool-calls.
    "api.deepseek.com": ChatEndpoint(
        "DEEPSEEK_API_KEY",
        "deepseek",
        frozenset({"json_schema"}),
        frozenset({"seed", "parallel_tool_calls"}),
        thoughts_back=True,
    ),
    "api.upstage.ai": ChatEndpoint("UPSTAGE_API_KEY"),
    "api.groq.com": ChatEndpoint("GROQ_API_KEY", "groq"),
}


def chat_endpoint(base_url: str) -> ChatEndpoint:
    """Return what is published of an address; elsewhere the first refusals tell."""
    return _CHAT.get(urllib.parse.urlsplit(base_url).hostname or "", ChatEndpoint())


def learn_base64(base_url: str, model: str) -> None:
    """Remember that an endpoint sends numbers only."""
    with _lock:
        _learned[base_url, model] = replace(endpoint_of(base_url, model), base64=False)


def learn_batch(base_url: str, model: str, message: str, sent: int) -> int | None:
    """Learn from a refusal of `sent` texts how many an endpoint takes; None where it says nothing.

    Remembered for the process.
    """
    for pattern in _PATTERNS:
        found = pattern.search(message)
        if found and 0 < int(found[1]) < sent:
            with _lock:
                known = endpoint_of(base_url, model)
                _learned[base_url, model] = replace(known, max_texts=int(found[1]))
            return int(found[1])
    return None


def query_model(base_url: str, model: str) -> str:
    """Return the model of queries that belongs to Upstage's model of passages, or the same."""
    if urllib.parse.urlsplit(base_url).hostname != "api.upstage.ai":
        return model
    name, passage, _ = model.rpartition("-passage")
    return f"{name}-query" if passage else model
