"""tiktoken's own encodings, built from our rank files: nothing is downloaded."""

from __future__ import annotations

import base64
import functools
import hashlib
from unittest.mock import patch

import tiktoken
from tiktoken_ext import openai_public

import tollway.tokens

NAMES = tuple(openai_public.ENCODING_CONSTRUCTORS)
# The digest that tiktoken publishes for r50k_base. gpt2 comes as two files of another form; they
# hold the same ranks.
R50K_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def ranks_of(name: str, expected_hash: str) -> dict[bytes, int]:
    """The ranks of our file of this encoding, after checking that it is the published one."""
    file = tollway.tokens.get_encoding(name).rank_file()
    assert hashlib.sha256(file).hexdigest() == expected_hash
    lines = (line.split() for line in file.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def _load(url: str, expected_hash: str) -> dict[bytes, int]:
    return ranks_of(url.rpartition("/")[2].removesuffix(".tiktoken"), expected_hash)


def _load_gpt2(**_files: str) -> dict[bytes, int]:
    return ranks_of("gpt2", R50K_SHA256)


@functools.cache
def oracle(name: str) -> tiktoken.Encoding:
    """tiktoken's encoding of this name."""
    with (
        patch.object(openai_public, "load_tiktoken_bpe", _load),
        patch.object(openai_public, "data_gym_to_mergeable_bpe_ranks", _load_gpt2),
    ):
        return tiktoken.Encoding(**openai_public.ENCODING_CONSTRUCTORS[name]())
