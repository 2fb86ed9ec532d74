"""Ids are tiktoken's on every text, and what is cut fits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import NAMES, oracle
from token_texts import composed, texts
from tollway.tokens import get_encoding

names = st.sampled_from(NAMES)


@settings(max_examples=2000)
@given(name=names, text=texts)
def test_ids_are_those_of_tiktoken(name: str, text: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    ids = theirs.encode_ordinary(text)
    assert ours.encode_ordinary(text) == ids
    assert ours.encode(text, disallowed_special=()) == ids
    assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
    assert ours.count(text) == len(ids)
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode_bytes(ids) == theirs.decode_bytes(ids)


@settings(max_examples=300)
@given(name=names, batch=st.lists(texts, max_size=8))
def test_batches_are_their_texts(name: str, batch: list[str]) -> None:
    encoding = get_encoding(name)
    ids = [encoding.encode_ordinary(text) for text in batch]
    assert encoding.encode_ordinary_batch(batch) == ids
    assert encoding.encode_batch(batch, disallowed_special=()) == ids
    assert encoding.count_batch(batch).tolist() == [len(one) for one in ids]
    flat, offsets = encoding.encode_array(batch)
    parts = [flat[i:j].tolist() for i, j in pairwise(offsets)]
    assert parts == ids
    assert encoding.decode_batch(ids) == [encoding.decode(one) for one in ids]


@settings(max_examples=300)
@given(name=names, text=texts)
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    encoding = get_encoding(name)
    readable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert encoding.decode(encoding.encode_ordinary(text), errors="strict") == readable


@settings(max_examples=1500)
@given(name=names, text=texts, max_tokens=st.integers(0, 60))
def test_what_is_cut_fits(name: str, text: str, max_tokens: int) -> None:
    encoding = get_encoding(name)
    kept = encoding.truncate(text, max_tokens)
    assert text.startswith(kept)
    assert encoding.count(kept) <= max_tokens
    assert (kept is text) == (encoding.count(text) <= max_tokens)
    assert encoding.truncate_batch([text], max_tokens) == [kept]


@settings(max_examples=500)
@given(name=names, text=composed, max_tokens=st.integers(1, 30))
def test_a_cut_keeps_what_it_can(name: str, text: str, max_tokens: int) -> None:
    """Token by token, no more is dropped than a few characters around the cut."""
    encoding = get_encoding(name)
    kept = encoding.truncate(text, max_tokens)
    if kept is not text:
        ids = encoding.encode_ordinary(text)
        reachable = encoding.decode(ids[: max_tokens - 8 if max_tokens > 8 else 0], errors="ignore")
        assert len(kept) >= len(reachable)


@settings(max_examples=300)
@given(
    name=names,
    parts=st.lists(st.one_of(composed, st.sampled_from(["<|endoftext|>", "<|end|>"])), max_size=6),
    allowed=st.sets(st.sampled_from(["<|endoftext|>", "<|endofprompt|>", "<|end|>"])),
    disallowed=st.one_of(st.just("all"), st.sets(st.sampled_from(["<|endoftext|>", "word"]))),
)
def test_special_tokens_are_those_of_tiktoken(
    name: str, parts: list[str], allowed: set[str], disallowed: str | set[str]
) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    text = "".join(parts)
    options = {"allowed_special": allowed, "disallowed_special": disallowed}
    try:
        expected = theirs.encode(text, **options)
    except ValueError:
        with pytest.raises(ValueError, match="disallowed"):
            ours.encode(text, **options)
        with pytest.raises(ValueError, match="disallowed"):
            ours.encode_batch(["", text], **options)
    else:
        assert ours.encode(text, **options) == expected
