"""`tollway count` on models with and without a public tokenizer."""

from __future__ import annotations

import io
import sys

import pytest

from tollway.cli import main
from tollway.tokens import get_encoding

TEXT = "hello world, 안녕\n"


@pytest.fixture
def count(monkeypatch, capsys, tmp_path):
    """Run `tollway count` on a file and on standard input: exit code, stdout, stderr."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")

    def count(*arguments):
        monkeypatch.setattr(sys, "argv", ["tollway", "count", str(path), "-", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return count


def test_a_public_tokenizer_counts(count):
    code, out, err = count("--model", "gpt-4o")
    tokens = get_encoding("o200k_base").count(TEXT)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [*[str(tokens)] * 2, str(2 * tokens)]


@pytest.mark.parametrize("model", ["claude-nobody-reported", "anthropic/claude-nobody-reported"])
def test_an_estimate_says_that_it_is_one(count, model):
    code, out, err = count("--model", model)
    assert code == 0
    assert err == (
        f"no public tokenizer of {model} is known: "
        "estimated as 1.75 times the tokens of o200k_base\n"
    )
    figures = [line.split()[0] for line in out.splitlines()]
    assert all(figure.startswith("~") for figure in figures)
    first, second, total = (int(figure[1:]) for figure in figures)
    assert first == second > get_encoding("o200k_base").count(TEXT)
    assert total == first + second


def test_model_and_encoding_exclude_each_other(count):
    code, out, err = count("--model", "gpt-4o", "--encoding", "gpt2")
    assert (code, out) == (1, "")
    assert "not both" in err
