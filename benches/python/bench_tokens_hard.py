"""Does any text take longer than it does with the best peer that answers right?

`python benches/python/bench_tokens_hard.py` counts a megabyte of each kind in alternation, on one
core, and prints milliseconds; a peer whose count differs is marked wrong. Then it cuts texts.
"""

from __future__ import annotations

import base64
import random
import statistics

import toktok

from token_peers import TITLES, corpora, gigatoken_encoding, interleaved, pin, report
from tollway.tokens import get_encoding

NAME = "o200k_base"
SIZE = 1_000_000
ROUNDS = 3


def hard_texts() -> dict[str, str]:
    """A megabyte of each kind."""
    draw = random.Random(0)
    return {
        "letter": "a" * SIZE,
        "spaces": " " * SIZE,
        "newlines": "\n" * SIZE,
        "digits": "7" * SIZE,
        "equals signs": "=" * SIZE,
        "apostrophes": "'" * SIZE,
        "mixed space": "".join(draw.choice(" \n\t\r") for _ in range(SIZE)),
        "base64": base64.b64encode(draw.randbytes(SIZE * 3 // 4)).decode(),
        "random letters": "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(SIZE)),
        "emoji": "🙂" * (SIZE // 4),
        "random hangul": "".join(chr(draw.randint(0xAC00, 0xD7A3)) for _ in range(SIZE // 3)),
        "marks": "\u0301" * (SIZE // 2),
        "capitals after marks": "\u0301A" * (SIZE // 3),
        "controls": "".join(chr(draw.randint(0, 31)) for _ in range(SIZE)),
    }


def _count() -> None:
    ours, giga = get_encoding(NAME), gigatoken_encoding(NAME)
    plain = corpora()[TITLES[0]][:SIZE]
    english = statistics.median(interleaved({"": lambda: ours.count(plain)})[""])
    for title, text in {TITLES[0]: plain, **hard_texts()}.items():
        cases = {
            "tollway": lambda text=text: ours.count(text),
            "toktok": lambda text=text: toktok.batch_count([text], NAME, threads=1)[0],
            "gigatoken": lambda text=text: len(giga.encode(text)),
        }
        right = ours.count(text)
        named = {
            library if work() == right else f"{library} (wrong)": work
            for library, work in cases.items()
        }
        times = interleaved(named, ROUNDS)
        times_english = statistics.median(times["tollway"]) / english
        report(f"{title} ({times_english:.1f}x {TITLES[0]})", times, 1e3, "ms")


def _truncate() -> None:
    text = corpora()[TITLES[0]]
    ours = get_encoding(NAME)
    for size, tokens in ((60_000, 8191), (SIZE, 512)):
        cases = {
            "tollway": lambda text=text[:size], tokens=tokens: ours.truncate(text, tokens),
            "toktok": lambda text=text[:size], tokens=tokens: toktok.truncate(text, tokens, NAME),
        }
        assert cases["tollway"]() == cases["toktok"]()[0]
        report(f"{size} bytes to {tokens}", interleaved(cases), 1e6, "us")


def main() -> None:
    """Print the comparison."""
    pin()
    _count()
    _truncate()


if __name__ == "__main__":
    main()
