"""Packing texts into requests, the default size of one, and its body."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tollway import _core, errors


def pack(counts, *args, **kwargs):
    return _core.pack(np.array(counts, dtype=np.int64), *args, **kwargs).tolist()


def test_requests_close_at_each_cap():
    assert pack([], 2) == [0]
    assert pack([1] * 5, 2) == [0, 2, 4, 5]
    assert pack([5, 5, 1, 9, 1], 9, 10) == [0, 2, 4, 5]


def test_a_single_text_may_pass_the_target_but_not_the_cap():
    assert pack([5, 50, 1, 9], 9, 60, target_tokens=10) == [0, 1, 2, 4]
    with pytest.raises(errors.RequestTooLargeError, match="text 1 has 50 tokens"):
        pack([5, 50, 1, 9], 9, 40, target_tokens=10)


def test_a_negative_count_is_named():
    with pytest.raises(errors.ConfigurationError, match="text 2 is negative"):
        pack([1, 1, -1], 9)


def test_offsets_are_int64_and_any_stride_is_read():
    counts = np.arange(12, dtype=np.int64)[::-3]
    offsets = _core.pack(counts, 9, 11)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == _core.pack(counts.copy(), 9, 11).tolist() == [0, 1, 2, 4]


def test_a_million_texts_are_packed():
    offsets = _core.pack(np.full(1_000_000, 100), 128, 300_000)
    assert offsets[:3].tolist() == [0, 128, 256]
    assert offsets[-1] == 1_000_000


def test_the_default_size_follows_the_limits():
    openai = {"provider_texts": 2_048, "provider_tokens": 300_000}
    assert _core.request_caps(500, 1_000_000, **openai) == (128, 10_000)
    assert _core.request_caps(3, 40_000, **openai) == (128, 13_334)
    assert _core.request_caps(500, 1_000_000, **openai, mean_tokens=5) == (400, 10_000)
    assert _core.request_caps(500, None, **openai) == (128, None)
    assert _core.request_caps(None, None, provider_texts=96) == (96, None)


def test_a_body_says_what_was_asked_for():
    body = _core.embeddings_body(
        "m", ["a", 'é\n"\\\x00\u2028'], dimensions=256, extra=b'{"user": "u"}'
    )
    assert json.loads(body) == {
        "model": "m",
        "input": ["a", 'é\n"\\\x00\u2028'],
        "dimensions": 256,
        "encoding_format": "base64",
        "user": "u",
    }
    plain = _core.embeddings_body("m", [], base64=False)
    assert plain == b'{"model":"m","input":[]}'


def test_lone_surrogates_become_the_replacement_character():
    texts = ["\ud83d", "a\ude00b", "\ude00\ud83d", "\ud83d\ude00", "😀\ud800"]
    body = json.loads(_core.embeddings_body("m\udfff", texts))
    assert body["model"] == "m\ufffd"
    assert body["input"] == ["\ufffd", "a\ufffdb", "\ufffd\ufffd", "😀", "😀\ufffd"]


@pytest.mark.parametrize("extra", [b"", b"[]", b"{", b"null", b'{"model": "other"}'])
def test_a_wrong_extra_is_refused(extra):
    with pytest.raises(errors.ConfigurationError, match="extra"):
        _core.embeddings_body("m", ["a"], extra=extra)


def test_the_callers_strings_are_not_changed():
    text = "".join(["é"] * 1000)
    size = text.__sizeof__()
    _core.embeddings_body("m", [text])
    assert text.__sizeof__() == size
