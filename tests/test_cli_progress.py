"""What a job shows while it runs: a bar on a terminal, elsewhere lines of JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import pytest

from tollway.cli.embed import _clock, _in_words, _lines, _progress, _short
from tollway.embed import Progress
from tollway.embed.sending import Tally
from tollway.types import Usage


def test_the_words_of_the_longest_job_fit_a_line():
    tally = Tally(Usage(12_345_678_901), sent=9_876_543, retries=98_765, rate_limited=87_654)
    tally.texts = 98_765_432
    progress = Progress(98_765_432, 100_000_000, tally, None, 3600.0)
    assert _in_words(progress) == (
        "98,765,432/100,000,000 · 27.4k/s · 0:46 left · 12.3G tokens · 87.7kx429 · 98.8k retries"
    )
    tally.hedges = 2
    words = _in_words(dataclasses.replace(progress, texts=98_765_431, cost=1234.5))
    assert words.endswith(" · 12.3G tokens · $1,234.50 · 87.7kx429 · 98.8k retries · 2 hedges")
    # A usual job fits a line of 80 beside what is left of its bar.
    tally = Tally(Usage(4_567_890), sent=950, retries=87, rate_limited=12, texts=54_321)
    words = _in_words(Progress(54_321, 200_000, tally, 0.0914, 321.5))
    assert (
        words == "54,321/200,000 · 169/s · 14:23 left · 4.57M tokens · $0.09 · 12x429 · 87 retries"
    )
    assert len(words) <= 80
    clocks = {
        0: "0:00",
        0.2: "0:01",
        59.5: "1:00",
        3599.0: "59:59",
        3600: "1:00:00",
        1e6: "277:46:40",
    }
    assert {seconds: _clock(seconds) for seconds in clocks} == clocks
    numbers = {0: "0", 999.4: "999", 999.6: "1k", 1234: "1.23k", 999_999: "1M", 5e12: "5e+03G"}
    assert {number: _short(number) for number in numbers} == numbers


def test_why_attempts_fail_is_told_at_once_and_once(capsys):
    tally = Tally(sent=1)
    show, progress = _lines(), Progress(0, 2, tally, None, 1.0)
    show(progress)
    assert capsys.readouterr().err == ""
    reasons = ["APITimeoutError: no answer", "RateLimitError: 429: a", "RateLimitError: 429: b"]
    for tally.retrying in [*reasons, None, reasons[0]]:
        show(progress)
    lines = [json.loads(line)["retrying"] for line in capsys.readouterr().err.splitlines()]
    assert lines == reasons[:2]


def test_why_attempts_fail_is_not_told_again_after_a_line_that_was_due(monkeypatch, capsys):
    module, clock = sys.modules["tollway.cli.embed"], [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    show = _lines()
    clock[0] = module._LINE_INTERVAL
    for _ in range(3):
        show(Progress(0, 2, Tally(sent=1, retrying="APITimeoutError: no"), None, 1.0))
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("stands_still", [True, False])
def test_a_bar_that_stands_still_says_why(monkeypatch, capsys, stands_still):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tally = Tally(sent=1, retrying="APITimeoutError: [no] answer")
    with _progress() as show:
        for texts in (5, 5 if stands_still else 6):
            show(Progress(texts, 9, tally, None, 1.0))
    written = capsys.readouterr().err
    assert written.count("retrying: APITimeoutError: [no] answer") == 1
    # As the line is left at the end.
    *_, last = (line for line in re.split(r"[\r\n]+", written) if " tokens" in line)
    assert (" tokens · APITimeoutError" in last) == stands_still


def test_a_terminal_that_cannot_go_back_in_a_line_gets_lines(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.modules["tollway.cli.embed"], "_LINE_INTERVAL", 0.0)
    with _progress() as show:
        show(Progress(5, 9, Tally(sent=1), None, 1.0))
        assert json.loads(capsys.readouterr().err)["texts"] == 5


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 retry · 1 hedge"), (2, "2 retries · 2 hedges")]
)
def test_one_is_no_plural(count, words):
    tally = Tally(retries=count, hedges=count)
    assert _in_words(Progress(5, 9, tally, None, 1.0)).endswith(words)
