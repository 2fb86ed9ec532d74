"""Are all ids tiktoken's, on text that no one writes?

`python benches/python/fuzz_tokens.py --megabytes 50 --seed 0` makes so much UTF-8 from the seed,
compares every encoding's ids, counts and cuts on all of it with tiktoken's, and exits with 1 at the
first difference, whose text it prints. tiktoken's ranks are the package's: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from corpora import corpora
from oracle import NAMES, oracle
from token_texts import ATOMS, CODE
from tollway.tokens import get_encoding

# tiktoken takes quadratic time on one long piece, so that no run is longer than this.
RUN = 300
# First code points and sizes of what is drawn from: ASCII, Latin to Arabic, Indic scripts, CJK with
# Hangul, surrogates, the other planes.
RANGES = [
    (0, 0x80, 8),
    (0x80, 0x700, 3),
    (0x900, 0x700, 2),
    (0x2000, 0x400, 2),
    (0x3000, 0x7000, 2),
    (0xAC00, 0x2BA4, 2),
    (0xD800, 0x800, 1),
    (0x1_0000, 0x2_0000, 2),
    (0x80, 0x10_FF80, 1),
]
WEIGHTS = [weight for *_, weight in RANGES]


def _characters(draw: random.Random) -> str:
    """Characters of one to three ranges."""
    ranges = draw.choices(RANGES, WEIGHTS, k=draw.randint(1, 3))
    places = draw.choices(ranges, k=draw.randint(1, 400))
    return "".join(chr(first + draw.randrange(size)) for first, size, _ in places)


def _composed(draw: random.Random) -> str:
    """What the patterns tell apart, side by side."""
    return "".join(draw.choices(draw.choice([ATOMS, CODE, ATOMS + CODE]), k=draw.randint(1, 150)))


def _runs(draw: random.Random) -> str:
    """Something short again and again."""
    units = (draw.choice(ATOMS) for _ in range(draw.randint(1, 6)))
    return "".join(unit * draw.randint(1, RUN // len(unit)) for unit in units)


def _letters(draw: random.Random) -> str:
    """Long words of few letters, in any case."""
    letters = draw.choice(
        ["ab", "abcdefghijklmnopqrstuvwxyz", "aAbB", " \n\t\r", "=-_/", "가각간갈"]
    )
    return "".join(draw.choices(letters, k=draw.randint(1, RUN)))


def _tokens(draw: random.Random) -> str:
    """Tokens of a vocabulary side by side, as they are seldom merged."""
    encoding = get_encoding(draw.choice(NAMES))
    specials = map(encoding.encode_single_token, encoding.special_tokens_set)
    ids = draw.choices(range(min(specials) - 1), k=100)  # cl100k has no last one
    return encoding.decode(ids, errors="replace")


def _prose(draw: random.Random) -> str:
    """A place of a corpus, with some characters changed."""
    text = draw.choice(list(corpora().values()))
    start = draw.randrange(len(text))
    places = list(text[start : start + draw.randint(1, 2000)])
    for _ in range(draw.randrange(6)):
        places[draw.randrange(len(places))] = draw.choice(ATOMS)
    return "".join(places)


MAKERS = [_characters, _composed, _runs, _letters, _tokens, _prose]


def _text(draw: random.Random) -> str:
    parts = draw.choices(MAKERS, k=draw.randint(1, 12))
    return "".join(make(draw) for make in parts)


def _difference(name: str, text: str, budget: int) -> str | None:
    """What differs from tiktoken; `None` where nothing does."""
    encoding = get_encoding(name)
    expected = oracle(name).encode_ordinary(text)
    if encoding.encode_ordinary(text) != expected:
        return "ids"
    if encoding.count(text) != len(expected):
        return "count"
    kept = encoding.truncate(text, budget)
    if len(oracle(name).encode_ordinary(kept)) > budget:
        return f"truncate to {budget}"
    if (kept is text) != (len(expected) <= budget):
        return f"what truncate to {budget} keeps"
    return None


def main() -> int:
    """Compare, and say what was compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    size, texts, start = 0, 0, time.monotonic()
    while size < options.megabytes * 1e6:
        text = _text(draw)
        size += len(text.encode(errors="surrogatepass"))
        texts += 1
        budget = draw.randint(0, len(text) // 3 + 1)
        for name in NAMES:
            difference = _difference(name, text, budget)
            if difference:
                print(f"{name}: {difference} of text {texts} of seed {options.seed}: {text!a}")
                return 1
    seconds = time.monotonic() - start
    print(
        f"{size / 1e6:.1f} MB, {texts} texts, {len(NAMES)} encodings: "
        f"0 differences in {seconds:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
