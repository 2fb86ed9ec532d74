"""Estimates for models whose tokenizer is not public."""

from __future__ import annotations

import copy
import math
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from corpora import corpora
from tollway.errors import ConfigurationError
from tollway.tokens import TokenCount, TokenEstimator, get_encoding, tokenizer_for_model

TEXT = "Every good estimate says that it is one. " * 40


def test_a_count_is_an_int_that_says_what_it_is() -> None:
    count = TokenCount(7, estimated=True, basis=5)
    assert (count, count.estimated, count.basis) == (7, True, 5)
    assert count + 1 == 8
    assert repr(count) == "TokenCount(7, estimated=True)"
    assert f"{count} {count:,} {TokenCount(1234):,}" == "7 7 1,234"
    assert repr(TokenCount(7)) == "TokenCount(7)"
    for other in (pickle.loads(pickle.dumps(count)), copy.copy(count)):
        assert (other, other.estimated, other.basis) == (7, True, 5)


def test_a_public_model_has_its_encoding_and_any_other_an_estimator() -> None:
    assert tokenizer_for_model("openai/gpt-4o") is get_encoding("o200k_base")
    estimator = tokenizer_for_model("anthropic/claude-sonnet-4-5")
    assert isinstance(estimator, TokenEstimator)
    assert tokenizer_for_model("claude-sonnet-4-5") is estimator
    assert tokenizer_for_model("gemini-2.5-pro") is not estimator


def test_an_estimate_is_high_at_first_and_says_so() -> None:
    estimator = TokenEstimator("claude")
    exact = get_encoding("o200k_base").count(TEXT)
    count = estimator.count(TEXT)
    assert count.estimated
    assert count.basis == exact
    assert 1.5 * exact < count < 2 * exact
    counts = estimator.count_batch([TEXT, "", "한국어"])
    assert counts.dtype == np.int64
    assert counts.tolist() == [estimator.count(text) for text in (TEXT, "", "한국어")]
    assert estimator.count("") == 0


@pytest.mark.parametrize("true_ratio", [0.7, 1.0, 1.2, 1.74, 2.5])
def test_the_ratio_is_learned_from_usage(true_ratio: float) -> None:
    estimator, draw = TokenEstimator("claude"), random.Random(0)
    text = corpora()["english"]
    for _ in range(150):
        start = draw.randrange(len(text) - 4000)
        count = estimator.count(text[start : start + 4000])
        estimator.learn(count.basis, round(count.basis * true_ratio * draw.uniform(0.9, 1.1)))
    assert estimator.ratio == pytest.approx(true_ratio, rel=0.05)
    basis = estimator.reference.count(text)
    assert estimator.count(text) == pytest.approx(basis * true_ratio, rel=0.05)


def test_a_change_of_tokenizer_is_followed() -> None:
    estimator = TokenEstimator("claude")
    for ratio in (1.2, 1.7, 1.1):
        for _ in range(200):
            estimator.learn(10_000, round(10_000 * ratio))
        assert estimator.ratio == pytest.approx(ratio, rel=0.02)


def test_no_report_moves_the_ratio_out_of_bounds() -> None:
    estimator = TokenEstimator("claude")
    before = estimator.ratio
    for basis, reported in ((0, 100), (100, 0), (-1, 5), (5, -1), (5, math.nan)):
        estimator.learn(basis, reported)
    assert estimator.ratio == before
    for _ in range(100):
        estimator.learn(10**9, 10**15)
    assert estimator.ratio <= 4.0
    for _ in range(1000):
        estimator.learn(10**9, 1)
    assert 0.5 <= estimator.ratio < 0.6
    settled = TokenEstimator("claude")
    for _ in range(100):
        settled.learn(10_000, 12_000)
    settled.learn(10**9, 4 * 10**9)
    assert settled.ratio < 1.4  # one nonsense among many


def test_threads_lose_no_report() -> None:
    estimator = TokenEstimator("claude")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: estimator.learn(100, 120), range(2_000)))
    # Reports that are all alike leave the same ratio in any order.
    alone = TokenEstimator("claude")
    for _ in range(2_000):
        alone.learn(100, 120)
    assert estimator.ratio == pytest.approx(alone.ratio, rel=1e-12)


def test_text_is_cut_by_the_estimate() -> None:
    estimator = TokenEstimator("claude")
    for side in ("end", "start", "middle"):
        kept = estimator.truncate(TEXT, 100, side, "…")
        assert 95 <= estimator.count(kept) <= 100
    assert estimator.truncate(TEXT, 10_000) is TEXT
    for wrong in ({"max_tokens": -1}, {"max_tokens": 5, "side": "left"}):
        with pytest.raises(ConfigurationError):
            estimator.truncate(TEXT, **wrong)


def test_another_reference_can_be_chosen() -> None:
    estimator = TokenEstimator("llama", reference=get_encoding("cl100k_base"))
    assert estimator.count(TEXT).basis == get_encoding("cl100k_base").count(TEXT)
    assert "llama" in repr(estimator)
    assert "cl100k_base" in repr(estimator)
