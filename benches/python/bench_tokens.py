"""Is counting 1 KB texts cheaper than with any peer, and encoding one of 4 KB to a list?

`python benches/python/bench_tokens.py` prints nanoseconds a byte and ratios, warm, on one core, in
alternation; `pytest benches/python/bench_tokens.py` runs our own cases under pytest-benchmark.
Text: `TOLLWAY_CORPORA`, or what the interpreter brings.
"""

from __future__ import annotations

import pytest
import toktok

from token_peers import (
    NAMES,
    TITLES,
    corpora,
    counters,
    gigatoken_encoding,
    interleaved,
    kilobyte_texts,
    oracle,
    pin,
    report,
)
from tollway.tokens import get_encoding


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", TITLES)
def test_count_batch(benchmark, name: str, title: str) -> None:
    texts = kilobyte_texts(title)[:60]  # below 64 KB: one thread
    encoding = get_encoding(name)
    assert benchmark(encoding.count_batch, texts).sum() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", TITLES)
def test_encode_ordinary(benchmark, name: str, title: str) -> None:
    text = corpora()[title][:2000]
    assert benchmark(get_encoding(name).encode_ordinary, text)


def _count(name: str, title: str) -> None:
    texts = kilobyte_texts(title)
    size = sum(len(text.encode()) for text in texts)
    cases = {library: lambda count=count: count(texts) for library, count in counters(name).items()}
    assert cases["tollway"]().tolist() == list(cases["toktok"]())
    goals = {"gigatoken": 1.5, "toktok": 3.0}
    report(f"count {name} {title}", interleaved(cases), 1e9 / size, "ns/byte", goals)


def _encode(name: str, title: str) -> None:
    text = corpora()[title]
    width = int(4096 * len(text) / len(text.encode()))
    texts = [text[at * width : (at + 1) * width] for at in range(60)]
    encode = {
        "tollway": get_encoding(name).encode_ordinary,
        "gigatoken": lambda text: gigatoken_encoding(name).encode(text).tolist(),
        "toktok": toktok._encoding(name).encode,  # noqa: SLF001  (the only call that gives ids)
        "tiktoken": oracle(name).encode_ordinary,
    }
    cases = {
        library: lambda one=one: [one(text) for text in texts] for library, one in encode.items()
    }
    assert cases["tollway"]() == cases["tiktoken"]()
    goals = dict.fromkeys(["gigatoken", "toktok", "tiktoken"], 1.0)
    report(f"list {name} {title}", interleaved(cases), 1e6 / len(texts), "us/4 KB", goals)


def main() -> None:
    """Print the comparison."""
    pin()
    for name in NAMES:
        for title in TITLES:
            _count(name, title)
    for name in NAMES:
        for title in TITLES:
            _encode(name, title)


if __name__ == "__main__":
    main()
