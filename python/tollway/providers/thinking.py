"""Reasoning that a model writes into its answer, between <think> and </think>."""

from __future__ import annotations

import re

__all__ = ["ThinkSplitter", "overlap", "split_thinking"]

_OPEN, _CLOSE = "<think>", "</think>"
_BLOCK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def split_thinking(text: str) -> tuple[str, str]:
    """Return (reasoning, answer) of a whole text.

    Only blocks that lead are taken: one further on is part of the answer. A text whose first tag
    closes was begun by the server's template with one that opens. A block that never closes is
    all there is of an answer cut short.
    """
    reasoning: list[str] = []
    while (block := _BLOCK.match(text)) is not None:
        reasoning.append(block[1])
        text = text[block.end() :]
    if not reasoning:
        close, open_ = text.find(_CLOSE), text.find(_OPEN)
        if close >= 0 and (open_ < 0 or close < open_):
            return text[:close].strip(), text[close + len(_CLOSE) :].lstrip()
    if text.lstrip().startswith(_OPEN):
        reasoning.append(text.lstrip()[len(_OPEN) :])
        text = ""
    return "\n".join(part.strip() for part in reasoning), text


class ThinkSplitter:
    """Does to a stream of pieces what `split_thinking` does to a text.

    A tag that closes what was never opened comes too late: what is before it was passed on.
    """

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""
        # What stands between a block and the answer is part of neither.
        self._has_thought = False

    def feed(self, text: str) -> tuple[str, str]:
        """Return (reasoning, answer) of what can be told by now."""
        if self._state == "answer":
            return "", text
        reasoning: list[str] = []
        held = self._held + text
        while True:
            if self._state == "start":
                seen = held.lstrip()
                if seen.startswith(_OPEN):
                    held, self._state = seen[len(_OPEN) :].lstrip(), "thinking"
                    self._has_thought = True
                elif _OPEN.startswith(seen):
                    self._held = held  # may yet become a tag
                    return "".join(reasoning), ""
                else:
                    self._state, self._held = "answer", ""
                    return "".join(reasoning), seen if self._has_thought else held
            end = held.find(_CLOSE)
            if end < 0:
                keep = overlap(held, _CLOSE)
                self._held = held[len(held) - keep :]
                reasoning.append(held[: len(held) - keep])
                return "".join(reasoning), ""
            reasoning.append(held[:end])
            held, self._state = held[end + len(_CLOSE) :].lstrip(), "start"

    def end(self) -> tuple[str, str]:
        """Return (reasoning, answer) of what was held back when the stream ends."""
        held, self._held = self._held, ""
        if self._state == "start" and self._has_thought:
            held = held.lstrip()
        return (held, "") if self._state == "thinking" else ("", held)


def overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[len(text) - length :]):
            return length
    return 0
