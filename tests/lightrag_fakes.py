"""What of LightRAG's `lightrag.utils` tollway touches, where LightRAG is not installed."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

__all__ = ["Config", "Tracker", "install"]


@dataclass
class EmbeddingFunc:
    embedding_dim: int
    func: Any
    max_token_size: int | None = None
    send_dimensions: bool = False
    model_name: str | None = None
    supports_asymmetric: bool = False

    async def __call__(self, *args, **kwargs):
        return await self.func(*args, **kwargs)


class Tokenizer:
    def __init__(self, model_name, tokenizer):
        self.model_name, self.tokenizer = model_name, tokenizer

    def decode(self, tokens):
        return self.tokenizer.decode(tokens)


class TiktokenTokenizer(Tokenizer):
    def __init__(self, model_name="gpt-4o-mini"):
        raise AssertionError("this one asks the network")


class TruncatedResponse(str):
    __slots__ = ()


class LightRAG:
    def __init__(self, **options):
        self.options = options


class Tracker:
    def __init__(self):
        self.seen = []

    def add_usage(self, counts):
        self.seen.append(counts)


class Config:
    """LightRAG's `hashing_kv`, as far as its functions look at it."""

    def __init__(self, model):
        self.global_config = {"llm_model_name": model}


def install(monkeypatch):
    """Put the stand-in where LightRAG would be, and return it."""
    package, utils = types.ModuleType("lightrag"), types.ModuleType("lightrag.utils")
    for each in (EmbeddingFunc, Tokenizer, TiktokenTokenizer, TruncatedResponse):
        setattr(utils, each.__name__, each)
    package.utils, package.LightRAG = utils, LightRAG
    monkeypatch.setitem(sys.modules, "lightrag", package)
    monkeypatch.setitem(sys.modules, "lightrag.utils", utils)
    return utils
