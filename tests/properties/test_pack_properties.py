"""Packing: every text once, in order, under every cap, in as few requests as order allows."""

from __future__ import annotations

import itertools
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tollway import _core


@given(
    st.lists(st.integers(0, 8191), max_size=300),
    st.integers(1, 40),
    st.none() | st.integers(8191, 40_000),
    st.none() | st.integers(0, 20_000),
)
def test_packing_keeps_its_promises(counts, max_texts, max_tokens, target):
    array = np.array(counts, dtype=np.int64)
    offsets = _core.pack(array, max_texts, max_tokens, target_tokens=target).tolist()
    requests = [counts[a:b] for a, b in itertools.pairwise(offsets)]
    cap = min(it for it in (max_tokens, target, 10**9) if it is not None)
    assert offsets[0] == 0
    assert [count for request in requests for count in request] == counts
    for request in requests:
        assert 1 <= len(request) <= max_texts
        assert sum(request) <= cap or len(request) == 1
    for one, two in itertools.pairwise(requests):
        assert len(one) + len(two) > max_texts or sum(one) + sum(two) > cap


limits = st.none() | st.integers(1, 10**9)


@given(limits, limits, st.integers(1, 5_000), limits, limits)
def test_the_default_size_is_within_every_cap(rpm, tpm, texts, tokens, mean):
    caps = {"provider_texts": texts, "provider_tokens": tokens, "mean_tokens": mean}
    max_texts, target = _core.request_caps(rpm, tpm, **caps)
    assert 1 <= max_texts <= texts
    assert max_texts >= min(128, texts)
    assert (target is None) == (tpm is None)
    if target is not None:
        assert 1 <= target <= (tokens or target)
        one_percent = max(tpm // 100, 1)
        needed = -(-tpm // rpm) if rpm else 0
        assert target == min(max(one_percent, needed), tokens or 10**18)


@given(st.text(), st.lists(st.text(st.characters(exclude_categories=())), max_size=9))
def test_a_body_holds_any_text(model, texts):
    body = json.loads(_core.embeddings_body(model, texts))
    # Two surrogates that belong together are one character, as UTF-16 has it.
    utf16 = [text.encode("utf-16-le", "surrogatepass") for text in texts]
    expected = [text.decode("utf-16-le", "replace") for text in utf16]
    assert body == {"model": model, "input": expected, "encoding_format": "base64"}
