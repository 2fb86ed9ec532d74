"""`tollway complete`: an answer on stdout, what it took on stderr."""

from __future__ import annotations

import json
import re
import signal

import pytest

import commands
from tollway.simulator import Faults, Simulator

MODEL = ("--model", "openai/gpt-4o-mini")


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


def ask(sim, *arguments, **env):
    return commands.run("complete", *arguments, *MODEL, "--base-url", sim.base_url, **env)


def test_an_answer_goes_to_stdout_and_what_it_took_to_stderr(sim):
    code, out, err = ask(sim, "[[say two\nlines]]")
    assert (code, out) == (0, "two\nlines\n")
    assert err.endswith(" s\n")
    assert " tokens · " in err
    # A line that is ended is not ended again.
    assert ask(sim, "[[say one\n]]")[1] == "one\n"


def test_options_are_sent(sim):
    code, out, err = ask(sim, "[[words 50]]", "--max-tokens", 5, "--system", "Be brief.")
    assert code == 0
    assert 0 < len(out.split()) <= 5
    assert err.rstrip().endswith("ended by length")


def test_json_has_all_of_the_answer(sim):
    code, out, err = ask(sim, "[[say 안녕]]", "--json")
    assert (code, err) == (0, "")
    assert "안녕" in out
    answer = json.loads(out)
    assert answer["text"] == "안녕"
    assert (answer["model"], answer["finish_reason"]) == (MODEL[1], "stop")
    assert answer["output_tokens"] > 0


def test_a_prompt_from_standard_input(sim):
    arguments = ("complete", "-", *MODEL, "--base-url", sim.base_url)
    with commands.start(*arguments, stdin=-1) as process:
        out, _ = process.communicate("[[say from a pipe]]", timeout=60)
    assert (process.returncode, out) == (0, "from a pipe\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Hi", "--model", "gpt-4o"), "named provider/model"),
        (("Hi", "--model", "opena/gpt-4o"), "no provider of completions 'opena'"),
        (("Hi", "--model", "openai/gpt-4o", "--base-url", "nowhere"), "base_url"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, words):
    code, out, err = commands.run("complete", *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err


def test_no_key_names_the_variable():
    code, _, err = commands.run("complete", "Hi", *MODEL, OPENAI_API_KEY="")
    assert (code, err.count("\n")) == (1, 1)
    assert "OPENAI_API_KEY" in err


def test_why_an_attempt_failed_is_told_before_the_next():
    with Simulator(faults=Faults({"503": 1.0})) as busy:
        arguments = ("complete", "[[say done]]", *MODEL, "--base-url", busy.base_url)
        with commands.start(*arguments) as process:
            lines = [process.stderr.readline() for _ in range(2)]
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    for line in lines:
        assert line.startswith("tollway: OverloadedError: ")
        assert re.search(r"; trying again in \d+\.\d s$", line)


def test_an_answer_that_breaks_off_ends_its_line(tmp_path):
    with Simulator(faults=Faults({"stream_error": 1.0})) as broken:
        code, out, err = ask(broken, "[[words 50]]")
    assert code == 1
    assert out.endswith("\n")
    assert err.startswith("tollway: StreamInterruptedError: ")


def test_ctrl_c_ends_it():
    with Simulator(piece_delay=0.2) as slow:
        arguments = ("complete", "[[words 500]]", *MODEL, "--base-url", slow.base_url)
        with commands.start(*arguments) as process:
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert out.endswith("\n")
