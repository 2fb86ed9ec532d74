"""What is cut fits and is the text's own; chunks cover the text, fit, and overlap as stated."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from oracle import NAMES
from token_texts import composed, hangul, texts
from tollway.errors import ConfigurationError
from tollway.tokens import TokenEstimator, get_encoding

names = st.sampled_from(NAMES)
sides = st.sampled_from(["end", "start", "middle"])
markers = st.sampled_from(["", "", "…", " [...] ", "\n", "'ll", "한", "\ud83d", "\ude42", "\u0301"])
preferences = st.sampled_from([None, "sentence", "line"])
prose = st.lists(
    st.one_of(
        composed,
        st.sampled_from(
            ["One. ", "Two? ", "“Three!” ", "넷.\n", "五。", "\n\n", "3.14 ", "words "]
        ),
    ),
    max_size=30,
).map("".join)


@settings(max_examples=1500)
@given(name=names, text=texts, max_tokens=st.integers(0, 60), side=sides, marker=markers)
@example(
    name="o200k_base", text="\ud83d" * 9 + "\ude42" * 9, max_tokens=4, side="middle", marker=""
)
@example(name="gpt2", text="\ude42" * 9, max_tokens=4, side="start", marker="\ud83d")
def test_what_is_cut_fits_on_any_side(
    name: str, text: str, max_tokens: int, side: str, marker: str
) -> None:
    encoding = get_encoding(name)
    kept = encoding.truncate(text, max_tokens, side, marker)
    assert encoding.count(kept) <= max_tokens
    assert (kept is text) == (encoding.count(text) <= max_tokens)
    assert encoding.truncate_batch([text, "", text], max_tokens, side, marker) == [kept, "", kept]
    if kept is text:
        return
    mark = marker if encoding.count(marker) <= max_tokens else ""
    heads = [0] if side == "start" else range(len(kept) + 1)
    assert any(
        kept == text[:head] + mark + text[len(text) - tail :]
        for head in heads
        if (tail := len(kept) - len(mark) - head) >= 0
        and (side != "end" or tail == 0)
        and head + tail <= len(text)
    )


@settings(max_examples=300)
@given(name=names, text=composed, max_tokens=st.integers(9, 40), side=sides)
def test_a_cut_keeps_nearly_what_it_may(name: str, text: str, max_tokens: int, side: str) -> None:
    """What was left over is less than a piece of this text has."""
    encoding = get_encoding(name)
    kept = encoding.truncate(text, max_tokens, side)
    if kept is not text:
        assert encoding.count(kept) >= max_tokens // 2 - 4


@settings(max_examples=800)
@given(
    name=names,
    text=st.one_of(prose, texts, hangul),
    max_tokens=st.integers(1, 40),
    overlap=st.integers(0, 39),
    prefer=preferences,
)
def test_chunks_cover_the_text_and_fit(
    name: str, text: str, max_tokens: int, overlap: int, prefer: str | None
) -> None:
    encoding = get_encoding(name)
    overlap = min(overlap, max_tokens - 1)
    try:
        spans = encoding.chunk_spans(text, max_tokens, overlap, prefer)
    except ConfigurationError:
        assert max_tokens < 4
        # A pair of surrogates is one character, as everywhere.
        characters = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert max(encoding.count(c) for c in characters) > max_tokens
        return
    chunks = encoding.chunk(text, max_tokens, overlap, prefer)
    assert chunks == [text[start:end] for start, end in spans]
    assert all(count <= max_tokens for count in encoding.count_batch(chunks))
    if encoding.count(text) <= max_tokens:
        assert all(chunk is text for chunk in chunks)
    rebuilt, done = "", 0
    for start, end in spans:
        assert start <= done < end
        rebuilt += text[done:end]
        done = end
    assert rebuilt == text
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start
        assert end < next_end
        before = text[start:end]
        kept = {encoding.truncate(before, overlap >> halves, "start") for halves in range(7)}
        assert text[next_start:end] in kept - {before}


@settings(max_examples=200)
@given(text=texts, max_tokens=st.integers(0, 60), side=sides, reports=st.lists(st.integers(1, 999)))
def test_an_estimator_cuts_by_its_own_count(
    text: str, max_tokens: int, side: str, reports: list[int]
) -> None:
    estimator = TokenEstimator("some-model")
    for reported in reports:
        estimator.learn(300, reported)
    kept = estimator.truncate(text, max_tokens, side)
    assert estimator.count(kept) <= max_tokens
    assert (kept is text) == (estimator.count(text) <= max_tokens)
