"""Reasoning inside answers: leading blocks alone, and pieces as the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.thinking import ThinkSplitter, split_thinking


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("plain", "", "plain"),
        ("", "", ""),
        ("<think>why</think>so", "why", "so"),
        ("\n <think>\nwhy\n</think>\n\nso", "why", "so"),
        ("<think></think>so", "", "so"),
        ("<think>a</think><think>b</think>so", "a\nb", "so"),
        ("so <think>not leading</think>", "", "so <think>not leading</think>"),
        ("<think>a</think>so <think>b</think>", "a", "so <think>b</think>"),
        ("why\n</think>\nso", "why", "so"),
        ("<think>cut short", "cut short", ""),
        ("<thinking>so", "", "<thinking>so"),
        ("<thi", "", "<thi"),
    ],
)
def test_leading_blocks_are_reasoning(text, reasoning, answer):
    assert split_thinking(text) == (reasoning, answer)


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "think>", "a", " ", "\n", "<"]),
    max_size=8,
)


def split(pieces):
    splitter = ThinkSplitter()
    parts = [splitter.feed(piece) for piece in pieces]
    parts.append(splitter.end())
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@given(PIECES)
def test_a_stream_in_pieces_is_split_as_the_stream_in_one_piece(pieces):
    reasoning, answer = split(pieces)
    whole_reasoning, whole_answer = split(["".join(pieces)])
    assert reasoning.split() == whole_reasoning.split()
    assert answer.split() == whole_answer.split()


@given(PIECES)
def test_a_stream_is_split_as_a_text_is_unless_its_first_tag_closes(pieces):
    text = "".join(pieces)
    close, open_ = text.find("</think>"), text.find("<think>")
    if close >= 0 and (open_ < 0 or close < open_ or not text.lstrip().startswith("<think>")):
        return
    reasoning, answer = split(pieces)
    whole_reasoning, whole_answer = split_thinking(text)
    # A text's blocks are joined by newlines, those of a stream by nothing.
    assert "".join(reasoning.split()) == "".join(whole_reasoning.split())
    assert answer == whole_answer


def test_nothing_of_what_is_between_a_block_and_the_answer_is_part_of_it():
    assert split(["<think>", "a", "</think>", "\n", "\n", "b", " c"]) == ("a", "b c")
    assert split(["\n", " b"]) == ("", "\n b")
