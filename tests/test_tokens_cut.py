"""Cutting and splitting as a user meets it."""

from __future__ import annotations

import random

import pytest

from corpora import corpora
from tollway.errors import ConfigurationError
from tollway.tokens import get_encoding

SIDES = ("end", "start", "middle")


@pytest.mark.parametrize("side", SIDES)
def test_real_text_is_cut_to_the_token(side: str) -> None:
    encoding = get_encoding("o200k_base")
    for text in corpora().values():
        for max_tokens in (1, 50, 1000):
            kept = encoding.truncate(text, max_tokens, side)
            assert max_tokens - 4 <= encoding.count(kept) <= max_tokens


def test_each_side_keeps_its_end() -> None:
    encoding = get_encoding("o200k_base")
    text = "".join(f" word{i}" for i in range(1000))
    assert text.startswith(encoding.truncate(text, 40))
    assert text.endswith(encoding.truncate(text, 40, "start"))
    head, mark, tail = encoding.truncate(text, 40, side="middle", marker=" […]").partition(" […]")
    assert mark
    assert text.startswith(head)
    assert text.endswith(tail)
    assert abs(encoding.count(head) - encoding.count(tail)) <= 2


def test_a_marker_that_does_not_fit_is_left_out() -> None:
    encoding = get_encoding("o200k_base")
    text = "one two three four"
    marker = " and so on and so on"
    for side in SIDES:
        assert marker not in encoding.truncate(text, 3, side, marker)
        assert encoding.truncate(text, 0, side, marker) == ""
        assert encoding.truncate("", 0, side, marker) == ""
    assert encoding.truncate(text, 3, "end", "…") == "one two…"
    assert encoding.truncate(text, 3, "start", "…") == "… three four"
    assert encoding.truncate(text, 3, "middle", "…") == "one… four"
    assert encoding.truncate(text, 1, "middle", "…") == "…"


def test_bad_arguments_are_named() -> None:
    encoding = get_encoding("o200k_base")
    with pytest.raises(ConfigurationError, match="'left'"):
        encoding.truncate("hello", 1, side="left")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'left'"):
        encoding.truncate_batch(["hello"], 1, side="left")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        encoding.truncate("hello", 1, marker=3)  # type: ignore[arg-type]
    for call in (encoding.chunk, encoding.chunk_spans):
        with pytest.raises(ConfigurationError, match="-1"):
            call("hello", -1)
        with pytest.raises(ConfigurationError, match="overlap must be 0 or more"):
            call("hello", 5, overlap=-1)
        with pytest.raises(ConfigurationError, match="5 is not less than 5"):
            call("hello", 5, overlap=5)
        with pytest.raises(ConfigurationError, match="'word'"):
            call("hello", 5, prefer="word")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"max_tokens=2 .* character at 3"):
            call("ab 𓀀", 2)


def test_what_is_kept_does_not_depend_on_what_is_not() -> None:
    encoding = get_encoding("o200k_base")
    for word in ("some words ", "한국어 문장 ", "naïve été ", "漢字。", "🙂 ", "a'"):
        short, long = word * 2_000, word * 100_000
        for side in SIDES:
            for marker in ("", "…"):
                cut = encoding.truncate(short, 64, side, marker)
                assert encoding.truncate(long, 64, side, marker) == cut


def test_chunks_of_a_corpus_are_its_text() -> None:
    encoding = get_encoding("o200k_base")
    for text in corpora().values():
        for prefer in (None, "sentence", "line"):
            chunks = encoding.chunk(text, 256, prefer=prefer)
            assert "".join(chunks) == text
            counts = encoding.count_batch(chunks)
            assert counts.max() <= 256
            assert counts.mean() >= (240 if prefer is None else 128)
        spans = encoding.chunk_spans(text, 256, overlap=32)
        shared = [text[a:b] for (a, _), (_, b) in zip(spans[1:], spans, strict=False)]
        assert 24 <= encoding.count_batch(shared).mean() <= 32


def test_chunks_end_where_they_are_asked_to() -> None:
    encoding = get_encoding("o200k_base")
    text = "It rained. “Did it?” she asked!  Yes, all day, he said. And then it stopped."
    assert encoding.chunk(text, 12, prefer="sentence") == [
        "It rained. “Did it?” she asked!",
        "  Yes, all day, he said. ",
        "And then it stopped.",
    ]
    lines = "".join(f"{i}: a line of its own\n" for i in range(100))
    assert all(chunk.endswith("\n") for chunk in encoding.chunk(lines, 50, prefer="line"))
    assert encoding.chunk(lines, 50, prefer="line")[0].count("\n") > 3
    assert encoding.chunk("漢字を読む。漢字を書く。漢字", 10, prefer="sentence")[0][-1] == "。"


def test_a_text_that_fits_is_one_chunk() -> None:
    encoding = get_encoding("o200k_base")
    for text in ("hello world", "한국어 문장", "\ud83d\ude42"):
        assert encoding.chunk(text, 100, 10)[0] is text
        assert encoding.chunk_spans(text, 100, 10) == [(0, len(text))]
    assert encoding.chunk("", 100) == encoding.chunk_spans("", 100) == []


def test_surrogates_are_counted_where_halves_meet() -> None:
    encoding = get_encoding("o200k_base")
    text = "\ud83d" * 40 + "\ude42" * 40
    for max_tokens in range(20):
        for side in SIDES:
            for marker in ("", "\ud83d", "\ude42"):
                kept = encoding.truncate(text, max_tokens, side, marker)
                assert encoding.count(kept) <= max_tokens
    pairs = "\ud83d\ude42" * 50
    for chunk in encoding.chunk(pairs, 5):
        assert chunk.encode("utf-16", "surrogatepass").decode("utf-16")


HARD = {
    "letter": "a",
    "space": " ",
    "newline": "\n",
    "punctuation": "=",
    "digit": "7",
    "hangul": "뷁",
    "emoji": "🙂",
    "mark": "\u0301",
    "stops": ".",
    "closers": ")",
    "apostrophe": "a'",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("kind", HARD)
def test_time_grows_with_the_text_and_not_its_square(kind: str) -> None:
    """Squared, so much of one kind would take minutes."""
    encoding = get_encoding("o200k_base")
    text = HARD[kind] * (300_000 // len(HARD[kind].encode("utf-8", "surrogatepass")))
    for prefer in (None, "sentence"):
        spans = encoding.chunk_spans(text, 256, 32, prefer)
        assert spans[-1][1] == len(text)
    draw = random.Random(0)
    for start, end in draw.sample(spans, 10):
        assert encoding.count(text[start:end]) <= 256
    for side in SIDES:
        assert encoding.count(encoding.truncate(text, 300, side, "…")) <= 300
