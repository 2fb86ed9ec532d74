"""Strategies for text on which tokenizers go wrong."""

from __future__ import annotations

from hypothesis import strategies as st

# Where the patterns decide: white space of all kinds, contractions in both cases, the long s and
# the Kelvin sign, case without and with title, marks, numbers of three categories, surrogates.
# fmt: off
ATOMS = [
    " ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u3000", "\u2028", "\x0b",
    "\x85", "'s", "'S", "'\u017f", "'ll", "'LL", "'lL", "'re", "'Ve", "'d", "'k", "'\u212a", "'",
    "''", "\u2019s", "a", "Z", "word", "Word", "WORD", "camelCase", "HTTPServer", "\u01c5",
    "\u01c5a", "\u02b0", "ª", "\u0131", "İ", "漢字", "かな", "한국어", "뷁", "ก็", "\u0301",
    "e\u0301", "\u20dd", "\u0903", "नि", "1", "12", "123", "1234", "\u2167", "½", "٣",
    "\U0001d7d8", "!", "?!", "//", "/", "/\n", "...", "->", "==", "<|endoftext|>", "<|", "|>", "$",
    "€", "_", "__x", "🙂", "👩\u200d👩\u200d👧", "🇰🇷", "\ufe0f", "\u200d", "\u200b", "\ufeff",
    "\x00", "\x1f", "\U00013b0c", "\U0010ffff", "\ud800", "\udc00", "\ud83d\ude42",
]
CODE = [
    "def ", "return", "    ", "        ", "\n", "\n\n", "(", ")", "):\n", "self.", "x", "_y",
    " = ", "==", "0x1F", "1e-9", "# ", '"', "'", "\\n", "{", "}", "//", "/*", "*/", ";", "\t",
    "camelCase", "SNAKE_CASE",
]
# fmt: on
arbitrary = st.text(max_size=200)
surrogates = st.text(st.characters(categories=["Cs", "L", "Zs"]), max_size=30)
composed = st.lists(st.sampled_from(ATOMS), max_size=40).map("".join)
code = st.lists(st.sampled_from(CODE), max_size=60).map("".join)
hangul = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), max_size=150)
digits = st.text(st.characters(categories=["N"]), max_size=40)
spaces = st.text(" \t\n\r\u00a0\u3000", max_size=60)
runs = st.tuples(st.sampled_from(ATOMS), st.integers(1, 300)).map(lambda run: run[0] * run[1])
texts = st.one_of(arbitrary, composed, code, hangul, digits, spaces, surrogates, runs)
