"""The names that tiktoken has, with the behaviour that tiktoken has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import NAMES, oracle
from token_texts import texts
from tollway.tokens import get_encoding

TEXTS = ["", "hello world", "naïve café", "한국어 문장", "a🙂b 𓀀", "<|endoftext|> x", " \n\t "]
END = "<|endoftext|>"


def test_every_public_name_is_there() -> None:
    ours = get_encoding("o200k_base")
    public = {name for name in dir(tiktoken.Encoding) if not name.startswith("_")}
    assert public <= set(dir(ours))


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_taken_apart_as_tiktoken_does(name: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    batch = [theirs.encode(text, allowed_special="all") for text in TEXTS]
    for ids in batch:
        assert ours.decode_tokens_bytes(ids) == theirs.decode_tokens_bytes(ids)
        assert ours.decode_with_offsets(ids) == theirs.decode_with_offsets(ids)
        assert ours.decode_with_offsets(iter(ids)) == theirs.decode_with_offsets(ids)
    assert ours.decode_bytes_batch(batch) == theirs.decode_bytes_batch(batch)
    assert ours.decode_bytes_batch(batch, num_threads=2) == theirs.decode_bytes_batch(batch)
    assert ours.decode_batch(batch) == theirs.decode_batch(batch)


@settings(max_examples=300)
@given(name=st.sampled_from(NAMES), text=texts)
def test_offsets_are_those_of_tiktoken(name: str, text: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    ids = theirs.encode_ordinary(text)
    assert ours.decode_with_offsets(ids) == theirs.decode_with_offsets(ids)
    assert ours.encode_to_numpy(text, disallowed_special=()).tolist() == ids


@settings(max_examples=300)
@given(name=st.sampled_from(NAMES), ids=st.lists(st.integers(0, 50_255), max_size=20))
def test_ids_that_are_no_text_are_taken_apart_or_refused_alike(name: str, ids: list[int]) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    assert ours.decode_tokens_bytes(ids) == theirs.decode_tokens_bytes(ids)
    assert ours.decode_bytes_batch([ids]) == theirs.decode_bytes_batch([ids])
    try:
        expected = theirs.decode_with_offsets(ids)
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            ours.decode_with_offsets(ids)
    else:
        assert ours.decode_with_offsets(ids) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_is_listed_as_tiktoken_lists_it(name: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    assert ours.token_byte_values() == theirs.token_byte_values()
    for token in (*range(0, ours.n_vocab + 3, 7), *range(ours.n_vocab - 1100, ours.n_vocab + 3)):
        assert ours.is_special_token(token) == theirs.is_special_token(token)
    assert not ours.is_special_token(-1)
    assert not ours.is_special_token(10**30)
    with pytest.raises(TypeError):
        ours.is_special_token("199999")  # type: ignore[arg-type]


def test_unknown_ids_are_key_errors() -> None:
    encoding = get_encoding("cl100k_base")
    for call in (encoding.decode_tokens_bytes, encoding.decode_with_offsets):
        with pytest.raises(KeyError, match="100256"):
            call([5, 100_256])
    with pytest.raises(KeyError, match="100256"):
        encoding.decode_bytes_batch([[5], [100_256]])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"allowed_special": "all"},
    {"allowed_special": {END}},
    {"allowed_special": frozenset({END, "no such token"})},
    {"disallowed_special": ()},
    {"disallowed_special": None},
    {"disallowed_special": [END]},
    {"disallowed_special": {"hello"}},
    {"disallowed_special": "lo"},
    {"disallowed_special": [""]},
    {"allowed_special": {END}, "disallowed_special": {END}},
    {"allowed_special": "all", "disallowed_special": "all"},
    {"allowed_special": "all", "disallowed_special": {"x"}},
]


@pytest.mark.parametrize("name", ["o200k_base", "o200k_harmony", "gpt2"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_special_tokens_are_allowed_and_refused_alike(name: str, options: dict[str, Any]) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    for text in (*TEXTS, f"hello{END}{END}", "<|end|><|reserved_200500|>", "<|fim_prefix|>"):
        try:
            expected = theirs.encode(text, **options)
        except ValueError:
            for call in (ours.encode, ours.encode_to_numpy):
                with pytest.raises(ValueError, match="disallowed"):
                    call(text, **options)
            with pytest.raises(ValueError, match="disallowed"):
                ours.encode_batch([text], **options)
        else:
            assert ours.encode(text, **options) == expected
            assert ours.encode_batch([text], **options) == [expected]
            array = ours.encode_to_numpy(text, **options)
            assert array.dtype == np.uint32
            assert array.tolist() == expected


@pytest.mark.parametrize(
    "options", [{"allowed_special": END}, {"allowed_special": None}, {"disallowed_special": [3]}]
)
def test_options_of_another_type_are_type_errors(options: dict[str, Any]) -> None:
    for encoding in (get_encoding("o200k_base"), oracle("o200k_base")):
        with pytest.raises(TypeError):
            encoding.encode("hello", **options)


def test_what_is_unstable_is_not_offered() -> None:
    with pytest.raises(NotImplementedError, match="tiktoken"):
        get_encoding("gpt2").encode_with_unstable("hello fanta")
