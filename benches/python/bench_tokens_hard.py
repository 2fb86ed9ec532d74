"""Does any text take longer than it does with the best peer that answers right?

`python benches/python/bench_tokens_hard.py` counts a megabyte of each kind in alternation, on one
core, and prints milliseconds. Every round has a text of its own, because a peer that keeps whole
pieces would only find the last one again; a peer whose count differs is marked wrong. Then it cuts
texts: 60 KB to 8,191 tokens and 1 MB to 512.
"""

from __future__ import annotations

import base64
import random
import statistics
from typing import TYPE_CHECKING

import toktok

from token_peers import (
    TITLES,
    corpora,
    gigatoken_encoding,
    interleaved,
    pin,
    report,
    seconds,
    verdict,
)
from tollway.tokens import get_encoding

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "o200k_base"
SIZE = 1_000_000
ROUNDS = 5
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _runs(unit: str) -> Callable[[random.Random], str]:
    """Runs of one character, none as long as another."""
    width = len(unit.encode(errors="surrogatepass"))
    return lambda draw: unit * (SIZE // width - draw.randrange(1000))


def _drawn(letters: str) -> Callable[[random.Random], str]:
    """Letters at random, of which all have as many bytes."""
    width = len(letters[0].encode())
    return lambda draw: "".join(draw.choices(letters, k=SIZE // width))


KINDS: dict[str, Callable[[random.Random], str]] = {
    "letter": _runs("a"),
    "spaces": _runs(" "),
    "newlines": _runs("\n"),
    "digits": _runs("7"),
    "equals signs": _runs("="),
    "apostrophes": _runs("'"),
    "emoji": _runs("🙂"),
    "marks": _runs("\u0301"),
    "capitals after marks": _runs("\u0301A"),
    "mixed space": _drawn(" \n\t\r"),
    "base64": lambda draw: base64.b64encode(draw.randbytes(SIZE * 3 // 4)).decode(),
    "random letters": _drawn(LETTERS),
    "random hangul": _drawn("".join(map(chr, range(0xAC00, 0xD7A4)))),
    "controls": _drawn("".join(map(chr, range(32)))),
    "lone surrogates": _runs("\ud83d"),
}


def _english(draw: random.Random) -> str:
    start = draw.randrange(SIZE // 2)
    return corpora()[TITLES[0]][start : start + SIZE]


def _answer(count: Callable[[str], int], text: str) -> tuple[float, int | None]:
    """Seconds and tokens; no tokens where the library refuses the text or panics."""
    tokens: list[int] = []
    try:
        return seconds(lambda: tokens.append(count(text))), tokens[0]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  (a Rust panic is no Exception)
        return float("nan"), None


def _count() -> None:
    ours, giga = get_encoding(NAME), gigatoken_encoding(NAME)
    libraries: dict[str, Callable[[str], int]] = {
        "tollway": ours.count,
        "toktok": lambda text: toktok.batch_count([text], NAME, threads=1)[0],
        "gigatoken": lambda text: len(giga.encode(text)),
    }
    english = 0.0
    for title, make in {TITLES[0]: _english, **KINDS}.items():
        draw = random.Random(title)
        times: dict[str, list[float]] = {library: [] for library in libraries}
        wrong: dict[str, str] = {}
        for _ in range(ROUNDS):
            text = make(draw)
            answers = {library: _answer(count, text) for library, count in libraries.items()}
            for library, (time, tokens) in answers.items():
                times[library].append(time)
                if tokens != answers["tollway"][1]:
                    wrong[library] = "refuses" if tokens is None else "wrong"
        mine = statistics.median(times["tollway"])
        english = english or mine
        peers = {k: statistics.median(v) for k, v in times.items() if k != "tollway"}
        right = {k: v for k, v in peers.items() if k not in wrong}
        line = f"{title:21} tollway {mine * 1e3:7.2f} ms = {mine / english:4.1f}x {TITLES[0]}"
        for library, time in peers.items():
            said = wrong.get(library) or f"{time * 1e3:7.2f} = {time / mine:6.2f}x"
            line += f" | {library} {said}"
        best = min(right.values(), default=mine) / mine
        print(line, verdict(best, 1.0), verdict(10 * english / mine, 1.0, "10x / "), flush=True)


def _truncate() -> None:
    ours = get_encoding(NAME)
    for title in TITLES:
        for size, tokens, least in ((60_000, 8191, 4.0), (SIZE, 512, 300.0)):
            text = corpora()[title][:size]
            cases = {
                "tollway": lambda text=text, tokens=tokens: ours.truncate(text, tokens),
                "toktok": lambda text=text, tokens=tokens: toktok.truncate(text, tokens, NAME),
            }
            assert cases["tollway"]() == cases["toktok"]()[0]
            label = f"{size // 1000} KB to {tokens} {title}"
            report(label, interleaved(cases), 1e6, "us", {"toktok": least})


def main() -> None:
    """Print the comparison."""
    pin()
    _count()
    _truncate()


if __name__ == "__main__":
    main()
