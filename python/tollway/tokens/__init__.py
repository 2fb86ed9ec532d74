"""Count, encode, decode and cut text by the tokens of a model.

The encodings of OpenAI's models are built in: nothing is downloaded or loaded, and ids are
tiktoken's. Other models are counted by an estimate that learns, or by their `tokenizer.json`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tollway.tokens.models import (
    Encoding,
    encoding_for_model,
    encoding_name_for_model,
    get_encoding,
    list_encoding_names,
)

if TYPE_CHECKING:
    from tollway.tokens.counts import TokenCount, Tokenizer
    from tollway.tokens.estimate import TokenEstimator, tokenizer_for_model
    from tollway.tokens.huggingface import HuggingFaceTokenizer
    from tollway.tokens.messages import count_messages, fit_messages

__all__ = [
    "Encoding",
    "HuggingFaceTokenizer",
    "TokenCount",
    "TokenEstimator",
    "Tokenizer",
    "count_messages",
    "encoding_for_model",
    "encoding_name_for_model",
    "fit_messages",
    "get_encoding",
    "list_encoding_names",
    "tokenizer_for_model",
]

# Imported on first use: counting text alone needs none of them.
_HOMES = {
    "HuggingFaceTokenizer": "huggingface",
    "TokenCount": "counts",
    "TokenEstimator": "estimate",
    "Tokenizer": "counts",
    "count_messages": "messages",
    "fit_messages": "messages",
    "tokenizer_for_model": "estimate",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
