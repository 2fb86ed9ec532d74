"""The simulator's limits over HTTP, its ledger, and its command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.errors import ConfigurationError, InputError
from tollway.simulator import FAULTS, Faults, Ledger, Record, Simulator, digest
from tollway.simulator.openai import go_duration

MODEL = "text-embedding-3-small"
KEY = {"authorization": "Bearer any"}


def post(sim, texts, headers=KEY, **arguments):
    body = {"model": MODEL, "input": texts, **arguments}
    return httpx.post(f"{sim.base_url}/embeddings", json=body, headers=headers)


def record(arrival, tokens=10, *, status=200, fault=None, admitted=True, texts=("a", "b")):
    packed = bytes.fromhex("".join(map(digest, texts)))
    return Record(arrival, status, fault, admitted, len(texts), tokens, packed, "req_1")


# Limits


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.12, "120ms"),
        (0.0001, "1ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (252, "4m12s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (83_909.144, "23h18m29.144s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, written):
    assert go_duration(seconds) == written


def test_headers_tell_what_is_left():
    with Simulator(rpm=500, tpm=1000) as sim:
        headers = post(sim, ["hello world"] * 2).headers
        refused = post(sim, []).headers
        models = httpx.get(f"{sim.base_url}/models", headers=KEY).headers
    assert headers["x-ratelimit-limit-requests"] == "500"
    assert headers["x-ratelimit-remaining-requests"] == "499"
    assert headers["x-ratelimit-reset-requests"] == "120ms"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    assert headers["x-ratelimit-remaining-tokens"] == "996"
    assert headers["x-ratelimit-reset-tokens"] == "240ms"
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
    assert headers["openai-processing-ms"].isdecimal()
    # A request that is not in order counts as one, and no tokens.
    assert int(refused["x-ratelimit-remaining-requests"]) <= 499
    assert "x-ratelimit-limit-requests" not in models


def test_no_limit_no_header():
    with Simulator() as sim:
        assert not [name for name in post(sim, "a").headers if "ratelimit" in name]


def test_over_the_request_limit_is_a_429_that_names_the_wait():
    with Simulator(rpm=3, sub_window=60) as sim:
        answers = [post(sim, "a") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    denied = answers[-1]
    error = denied.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "requests per min (RPM): Limit 3, Requested 1." in error["message"]
    milliseconds = int(denied.headers["retry-after-ms"])
    assert 50_000 < milliseconds <= 60_000
    assert int(denied.headers["retry-after"]) == -(-milliseconds // 1000)
    assert denied.headers["x-ratelimit-remaining-requests"] == "0"
    assert [entry.admitted for entry in sim.ledger] == [True, True, True, False]


def test_over_the_token_limit_is_a_429_of_tokens_and_counts_as_a_request():
    with Simulator(rpm=600, tpm=5, sub_window=60) as sim:
        assert post(sim, "hello world").status_code == 200
        denied = post(sim, "hello world, hello world")
        too_large = post(sim, "hello " * 100)
        assert int(too_large.headers["x-ratelimit-remaining-requests"]) < 600
    assert denied.json()["error"]["type"] == "tokens"
    assert 0 < int(denied.headers["retry-after-ms"]) <= 60_000
    assert too_large.status_code == 429
    assert "too large" in too_large.json()["error"]["message"]
    assert "retry-after" not in too_large.headers


def test_a_flood_gets_its_share_of_each_second_and_no_more():
    with Simulator(rpm=1200) as sim, httpx.Client(headers=KEY) as client:
        body = {"model": MODEL, "input": "a", "dimensions": 4}
        waits = []
        while len(waits) < 40:
            answer = client.post(f"{sim.base_url}/embeddings", json=body)
            if answer.status_code == 429:
                waits.append(int(answer.headers["retry-after-ms"]))
    assert sim.ledger.worst_window(1) == (20, 20)
    assert all(0 < wait <= 1000 for wait in waits)


def test_spent_credit_is_final():
    with Simulator(credit_requests=2) as sim:
        assert post(sim, []).status_code == 400
        answers = [post(sim, "a") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].json()["error"]["type"] == "insufficient_quota"
    assert "retry-after" not in answers[-1].headers


# Ledger


def test_every_request_is_in_the_file_before_its_answer_is_here(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Simulator(ledger=path, faults=Faults({"500": 0.5}, seed=1)) as sim:
        for number in range(10):
            answer = post(sim, [f"text {number}", "again"])
            written = Ledger.read(path)
            assert len(written) == number + 1
            assert written[-1].request_id == answer.headers["x-request-id"]
            assert written[-1].status == answer.status_code
        httpx.get(f"{sim.base_url}/nowhere")
        assert [*Ledger.read(path)] == [*sim.ledger]
    entry = json.loads(path.read_text().splitlines()[0])
    assert set(entry) == {
        "arrival", "status", "fault", "admitted", "inputs", "tokens", "digests", "request_id",
    }  # fmt: skip
    assert entry["digests"] == [digest("text 0"), digest("again")]
    assert (entry["inputs"], entry["tokens"]) == (2, 4)
    statuses = sim.ledger.statuses()
    assert (statuses[404], statuses[200] + statuses[500]) == (1, 10)
    counts = sim.ledger.answered_counts()
    assert counts[digest("again")] == statuses[200] == counts.total() / 2
    assert sim.ledger.tokens() == 40


def test_a_file_goes_on_after_what_it_holds_and_its_unfinished_line_is_left_out(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for _ in range(2):
        with Simulator(ledger=path) as sim:
            post(sim, "a")
    assert len(Ledger.read(path)) == 2
    with path.open("ab") as file:
        file.write(b'{"arrival": 1.')
    assert len(Ledger.read(path)) == 2


@pytest.mark.parametrize("line", ["nonsense", "[]", "{}", '{"digests": ["xy"]}', '{"digests": 1}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"ledger\.jsonl:1 "):
        Ledger.read(path)


def test_a_ledger_that_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(InputError, match="missing"):
        Ledger.read(tmp_path / "missing")
    sim = Simulator(ledger=tmp_path)
    with pytest.raises(ConfigurationError, match="cannot write"), sim:
        pass


@given(
    st.lists(st.tuples(st.integers(0, 5 * 10**9), st.integers(0, 100), st.booleans()), max_size=40),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_the_worst_window_is_the_worst_of_all_windows(arrivals, seconds):
    ledger = Ledger(record(at / 1e9, tokens, admitted=yes) for at, tokens, yes in arrivals)
    length = round(seconds * 1e9)
    windows = [
        [tokens for at, tokens, yes in arrivals if yes and end - length < at <= end]
        for end, _, _ in arrivals
    ]
    requests = max(map(len, windows), default=0)
    assert ledger.worst_window(seconds) == (requests, max(map(sum, windows), default=0))


def test_answers_of_no_use_do_not_count_as_answers():
    ledger = Ledger(
        [
            record(0.0),
            record(1.0, fault="permuted", texts=["a"]),
            record(2.0, fault="null_row"),
            record(3.0, status=500),
            record(4.0, status=None),
        ]
    )
    assert ledger.answered_counts() == {digest("a"): 2, digest("b"): 1}
    assert ledger[0].digests == [digest("a"), digest("b")]


def test_utilisation_is_what_was_admitted_by_what_was_allowed():
    ledger = Ledger(
        [record(0.0), record(10.0), record(20.0, 50), record(30.0, admitted=False), record(31.0)]
    )
    assert ledger.utilisation(0, 30, rpm=60) == pytest.approx(2 / 30)
    assert ledger.utilisation(0, 30, tpm=240) == pytest.approx(60 / 120)
    assert ledger.utilisation(0, 30, rpm=60, tpm=240) == pytest.approx(60 / 120)
    with pytest.raises(ConfigurationError):
        ledger.utilisation(1, 1, rpm=1)
    with pytest.raises(ConfigurationError):
        ledger.utilisation(0, 1)


# Command


def command(*arguments):
    code = "import typer; from tollway.cli.simulate import simulate; typer.run(simulate)"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a console differ")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end_and_sums_up(tmp_path, end):
    path = tmp_path / "ledger.jsonl"
    with command("--rpm", "600", "--fault", "503=1", "--ledger", str(path)) as process:
        url = re.search(r"OPENAI_BASE_URL=(\S+)", line := process.stdout.readline())[1]
        assert line.startswith(f"{url}  ")
        answer = httpx.post(
            f"{url}/embeddings", json={"model": MODEL, "input": "hello world"}, headers=KEY
        )
        assert answer.status_code == 503
        httpx.get(f"{url}/models", headers=KEY)
        process.send_signal(end)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        "requests 2 (503 1, 200 1)",
        "tokens   2 admitted",
        "worst  1 s: 1 requests, 2 tokens",
        "worst 60 s: 1 requests, 2 tokens",
    ]
    assert len(Ledger.read(path)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a console differ")
def test_sigterm_ends_it_where_a_shell_had_it_ignore_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a child inherits
    try:
        process = command()
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        process.stdout.readline()
        process.terminate()
        out, _ = process.communicate(timeout=20)
    assert out.startswith("requests 0")


def test_the_help_names_every_fault():
    with command("--help") as process:
        out, _ = process.communicate(timeout=20)
    words = set(re.findall(r"\w+", out))
    assert words >= set(FAULTS)


def test_the_command_names_a_fault_it_cannot_read():
    with command("--fault", "500") as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "NAME=RATE" in err
