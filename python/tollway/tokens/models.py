"""Which encoding a model uses."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tollway._core import Encoding, encoding_names, find_encoding
from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Encoding",
    "bare_name",
    "encoding_for_model",
    "encoding_name_for_model",
    "family_of",
    "find_encoding_name",
    "get_encoding",
    "list_encoding_names",
]

# Source of both tables: tiktoken/model.py 0.14, with families in place of its dated prefixes.
_MODELS = {
    "gpt-3.5": "cl100k_base",
    "text-embedding-ada-002": "cl100k_base",
    "text-davinci-003": "p50k_base",
    "text-davinci-002": "p50k_base",
    "text-davinci-001": "r50k_base",
    "text-curie-001": "r50k_base",
    "text-babbage-001": "r50k_base",
    "text-ada-001": "r50k_base",
    "davinci": "r50k_base",
    "curie": "r50k_base",
    "babbage": "r50k_base",
    "ada": "r50k_base",
    "davinci-codex": "p50k_base",
    "cushman-codex": "p50k_base",
    "text-davinci-edit-001": "p50k_edit",
    "code-davinci-edit-001": "p50k_edit",
    "code-search-babbage-code-001": "r50k_base",
    "code-search-ada-code-001": "r50k_base",
    "gpt2": "gpt2",
    "gpt-2": "gpt2",
}
# A model belongs to a family if it is the family's name, alone or followed by one of these.
_AFTER_FAMILY = "-:@"
_FAMILIES = {
    "gpt-5": "o200k_base",
    "gpt-4.5": "o200k_base",
    "gpt-4.1": "o200k_base",
    "gpt-4o": "o200k_base",
    "chatgpt-4o": "o200k_base",
    "o1": "o200k_base",
    "o3": "o200k_base",
    "o4": "o200k_base",
    "gpt-oss": "o200k_harmony",
    "gpt-4": "cl100k_base",
    "gpt-3.5-turbo": "cl100k_base",
    "gpt-35-turbo": "cl100k_base",
    "davinci-002": "cl100k_base",
    "babbage-002": "cl100k_base",
    "text-embedding-3": "cl100k_base",
    "code-davinci": "p50k_base",
    "code-cushman": "p50k_base",
    "text-similarity": "r50k_base",
    "text-search": "r50k_base",
}
_PROVIDERS = ("openai/", "azure/")


def list_encoding_names() -> list[str]:
    """Return the names that `get_encoding` takes."""
    return encoding_names()


def get_encoding(encoding_name: str) -> Encoding:
    """Return an encoding by its published name, the same object every time.

    Raises:
        ConfigurationError: There is no such encoding; the message names those there are.
    """
    encoding = find_encoding(encoding_name)
    if encoding is None:
        known = encoding_names()
        raise ConfigurationError(
            f"unknown encoding {encoding_name!r}; {_nearest(encoding_name, known)}"
            f"known encodings: {', '.join(known)}"
        )
    return encoding


def encoding_for_model(model_name: str, fallback: str | None = None) -> Encoding:
    """Return the encoding of a model.

    Args:
        model_name: A current or dated OpenAI model, with or without `openai/` or `azure/` before
            it, or a fine-tuned one (`ft:…`).
        fallback: Name of the encoding to use where the model is not known.

    Raises:
        ConfigurationError: The model is not known and there is no fallback; the message names
            the nearest known models.
    """
    return get_encoding(encoding_name_for_model(model_name, fallback))


def encoding_name_for_model(model_name: str, fallback: str | None = None) -> str:
    """Return the name of a model's encoding; see `encoding_for_model`."""
    encoding_name = find_encoding_name(model_name) or fallback
    if encoding_name is not None:
        return encoding_name
    raise ConfigurationError(
        f"no encoding is known for model {model_name!r}; "
        f"{_nearest(bare_name(model_name), [*_FAMILIES, *_MODELS])}"
        "pass fallback='o200k_base' (or another encoding) to count with that"
    )


def find_encoding_name(model_name: str) -> str | None:
    """Return the name of a model's encoding, or None where the model is not known."""
    model = bare_name(model_name)
    if model in _MODELS:
        return _MODELS[model]
    family = family_of(model, _FAMILIES)
    if family is None and model.startswith("gpt-5."):  # gpt-5.1; gpt-4.x are families of their own
        family = "gpt-5"
    return None if family is None else _FAMILIES[family]


def family_of(model: str, families: Iterable[str], marks: str = _AFTER_FAMILY) -> str | None:
    """Return the first family that a model belongs to: its name, or that and one of `marks`."""
    for family in families:
        if model.startswith(family) and model[len(family) : len(family) + 1] in marks:
            return family
    return None


@functools.lru_cache(64)
def bare_name(model_name: str) -> str:
    """Return the model's own name, without its provider or the mark of a fine-tuned one."""
    for provider in _PROVIDERS:
        model_name = model_name.removeprefix(provider)
    return model_name.removeprefix("ft:")


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415

    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}; " if near else ""
