"""The command line: reports, exit codes, one line for each failure, and nothing sent after one."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import commands
from tollway.cli import main
from tollway.simulator import Faults, Simulator, vector

KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


@pytest.fixture
def tollway(monkeypatch, capsys):
    """Run a command in this process: exit code, stdout, stderr."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "TOLLWAY_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def tollway(*arguments):
        monkeypatch.setattr(sys, "argv", ["tollway", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    yield tollway
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def docs(tmp_path):
    path = tmp_path / "docs"
    path.mkdir()
    (path / "a.txt").write_text("one\ntwo\n\nthree\n")
    (path / "b.md").write_text("four")
    return path


def to(sim, *more):
    return ("--model", commands.SMALL, "--base-url", sim.base_url, *more)


# What a job says


def test_a_folder_becomes_an_array_and_a_report(tollway, sim, docs, tmp_path):
    output = tmp_path / "vectors.npy"
    code, out, err = tollway("embed", docs, output, "--split", "paragraph", *to(sim))
    assert (code, err) == (0, "")
    expected = [vector(text, 1536) for text in ("one\ntwo", "three", "four")]
    assert np.load(output).tobytes() == np.stack(expected).tobytes()
    named = dict(line.split(None, 1) for line in out.splitlines())
    assert named["output"] == f"{output}  float32 (3, 1536)"
    assert named["model"] == commands.SMALL
    assert named["texts"] == "3 (3 distinct, 0 from before)"
    assert named["tokens"] == "5"
    assert named["requests"] == "1"
    assert re.fullmatch(r"\d+\.\d s", named["time"])
    code, out, _ = tollway("embed", docs, output, "--split", "paragraph", "--json", *to(sim))
    report = json.loads(out)
    assert (code, report["reused"], report["requests"], report["errors"]) == (0, 3, 0, [])
    # All that the text says, by name.
    assert (report["model"], report["dtype"]) == (commands.SMALL, "float32")
    assert report.keys() >= {
        "output",
        "dimensions",
        "texts",
        "distinct",
        "tokens",
        "cost",
        "seconds",
    }


def test_texts_without_a_vector_are_exit_code_3(tollway, sim, tmp_path):
    records = tmp_path / "a.jsonl"
    records.write_text('{"id": "good", "text": "x"}\n{"id": "blank", "text": " "}\n')
    code, out, _ = tollway("embed", records, tmp_path / "v.npy", *to(sim))
    assert code == 3
    assert "failed    1 text; run again to try again" in out
    assert "  blank: the text is empty; nothing was sent" in out


def test_plan_and_count(tollway, sim, docs):
    before = len(sim.ledger)
    code, out, _ = tollway("plan", docs, "--split", "paragraph", *to(sim))
    assert code == 0
    assert "texts     3 (3 distinct)" in out
    assert "tokens    5" in out
    code, out, _ = tollway("plan", docs, "--json", *to(sim))
    assert json.loads(out)["texts"] == 2
    code, out, _ = tollway("count", docs / "a.txt", docs / "b.md", "--encoding", "cl100k_base")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["6", "1", "7"]
    assert len(sim.ledger) == before


# What cannot work


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def unusable_inputs(folder):
    """Arguments, error and words of what a job's input may have wrong."""
    link = folder / "link.txt"
    link.symlink_to(folder / "gone.txt")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "x.txt").symlink_to(folder / "gone.txt")
    (folder / "empty").mkdir()
    marked = b"\xef\xbb\xbf" + "한글\n".encode() + b"caf\xe9\n"
    return {
        "missing": (folder / "missing.txt", "there is no file or folder"),
        "dangling": (link, "link.txt: No such file or directory"),
        "unreadable": (broken, "x.txt: No such file or directory"),
        "not UTF-8": (put(folder / "latin.txt", marked), "not UTF-8: byte 0xe9 at offset 13"),
        "blank": (put(folder / "blank.txt", " \n\n"), "blank.txt holds no text"),
        "empty": (folder / "empty", "holds no file of a known kind"),
        "kind": (put(folder / "a.pdf", "%PDF"), "of no known kind"),
        "jsonl": (put(folder / "a.jsonl", '{"text": "x"}\n{"text"'), "a.jsonl, line 2 is not JSON"),
        "csv": (put(folder / "a.csv", 'text\nx\n"open\n'), "a.csv, line 3: unexpected end"),
        "field": (put(folder / "b.jsonl", '{"body": "x"}'), "line 1: no text in field 'text'"),
    }


CASES = [
    "missing", "dangling", "unreadable", "not UTF-8", "blank", "empty", "kind", "jsonl", "csv",
    "field",
]  # fmt: skip


@pytest.mark.parametrize("command", ["embed", "plan"])
@pytest.mark.parametrize("case", CASES)
def test_an_input_that_cannot_be_used(tollway, sim, tmp_path, case, command):
    source, words = unusable_inputs(tmp_path / put(tmp_path / "in/x", "").parent)[case]
    before = len(sim.ledger)
    output = [tmp_path / "v.npy"] if command == "embed" else []
    code, out, err = tollway(command, source, *output, *to(sim))
    assert (code, out) == (1, "")
    assert err.startswith("tollway: InputError: ")
    assert err.count("\n") == 1
    assert words in err
    assert len(sim.ledger) == before
    assert not (tmp_path / "v.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--model", "openai/text-embedding-9"], "ConfigurationError", "nearest are"),
        (["--model", "opena/x"], "ConfigurationError", "did you mean openai/x?"),
        (["--model", "text-embedding-3-small"], "ConfigurationError", "named provider/model"),
        (["--model", "local/other"], "ConfigurationError", "there is local/"),
        (["--model", commands.SMALL, "--base-url", "nowhere"], "ConfigurationError", "base_url"),
        (["--sub-window", "61"], "ConfigurationError", "sub_window must be 0 to 60"),
    ],
)
def test_options_that_cannot_work(tollway, docs, tmp_path, arguments, error, words):
    code, _, err = tollway("embed", docs, tmp_path / "v.npy", *arguments)
    assert code == 1
    assert err.startswith(f"tollway: {error}: ")
    assert words in err
    assert not list(tmp_path.glob("v.*"))


def test_a_missing_key_names_the_variable(tollway, docs, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    code, _, err = tollway("embed", docs, tmp_path / "v.npy", "--model", commands.SMALL)
    assert (code, err.count("\n")) == (1, 1)
    assert "OPENAI_API_KEY" in err


def test_a_plan_needs_no_key(tollway, docs, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    code, out, err = tollway("plan", docs, "--model", commands.SMALL)
    assert (code, err) == (0, "")
    assert "cost      $0.0000" in out
    code, _, err = tollway("plan", docs, "--model", "openai/text-embedding-9")
    assert (code, "nearest are" in err) == (1, True)


def test_a_mark_of_the_byte_order_is_not_counted(tollway, tmp_path):
    code, out, _ = tollway("count", put(tmp_path / "a.txt", b"\xef\xbb\xbfhello"))
    assert (code, out.split()[0]) == (0, "1")


def test_an_unknown_encoding(tollway, docs):
    code, _, err = tollway("count", docs / "a.txt", "--encoding", "cl100k")
    assert (code, err.count("\n")) == (1, 1)
    assert "ConfigurationError" in err
    assert "cl100k_base" in err


def test_outputs_that_cannot_be_written(tollway, sim, docs, tmp_path):
    before = len(sim.ledger)
    put(tmp_path / "file", "x")
    (tmp_path / "folder.npy").mkdir()
    for output, words in [
        (tmp_path / "file/v.npy", "cannot write"),
        (tmp_path / "folder.npy", "it is a folder"),
        (tmp_path / "v.bin", "must end in .npy"),
        ("/proc/v.npy" if sys.platform == "linux" else tmp_path / "file/v.npy", "cannot write"),
    ]:
        code, _, err = tollway("embed", docs, output, *to(sim))
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith("tollway: CheckpointError: ")
        assert words in err
    assert len(sim.ledger) == before


def test_a_parquet_in_the_folder_that_is_read(tollway, sim, docs):
    before = len(sim.ledger)
    (docs / "deep").mkdir()
    for output in (docs / "v.parquet", docs / "deep" / "v.parquet"):
        code, _, err = tollway("embed", docs, output, *to(sim))
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith("tollway: CheckpointError: ")
        assert "would be read as a part of it the next time" in err
    assert len(sim.ledger) == before
    # A .npy is no input.
    for _ in range(2):
        code, out, _ = tollway("embed", docs, docs / "v.npy", "--json", *to(sim))
        assert (code, json.loads(out)["texts"]) == (0, 2)


def test_a_job_of_another_model_or_dimension(tollway, sim, docs, tmp_path):
    output = tmp_path / "v.npy"
    assert tollway("embed", docs, output, *to(sim))[0] == 0
    before = len(sim.ledger)
    other = ("--model", "openai/text-embedding-3-large", "--base-url", sim.base_url)
    for arguments, words in [
        (other, "keeps rows of openai/text-embedding-3-small, not openai/text-embedding-3-large"),
        (to(sim, "--dimensions", 8), "keeps rows of 1536 dimensions, not 8"),
    ]:
        code, _, err = tollway("embed", docs, output, *arguments)
        assert code == 1
        assert f"tollway: CheckpointError: {output}.job {words}" in err
    assert len(sim.ledger) == before


def test_texts_that_are_too_long(sim, docs, tmp_path):
    put(docs / "c.txt", "word " * 9_000)
    before = len(sim.ledger)
    for option, words in [
        (
            ("--too-long", "error"),
            r"ContextWindowError: c.txt has 9\d{3} tokens, and .* takes 8191",
        ),
        (("--tpm", 1000), r"RequestTooLargeError: c.txt has 8191 tokens, more than .* 1000"),
    ]:
        # In processes of their own: one process holds a quota with one set of limits.
        code, _, err = commands.run("embed", docs, tmp_path / "v.npy", *to(sim, *option))
        assert (code, err.count("\n")) == (1, 1)
        assert re.match(rf"tollway: {words}", err)
    assert len(sim.ledger) == before


def test_a_second_process_on_the_same_job(tmp_path):
    docs, output = put(tmp_path / "a.txt", "text"), tmp_path / "v.npy"
    with Simulator(latency=30) as sim, commands.start("embed", docs, output, *to(sim)) as first:
        try:
            while len(list((tmp_path / "v.npy.job").glob("rows.sqlite"))) == 0:
                assert first.poll() is None
                time.sleep(0.001)
            code, _, err = commands.run("embed", docs, output, *to(sim))
            assert code == 1
            assert f"another process (pid {first.pid}) works on the job" in err
            assert err.count("\n") == 1
        finally:
            first.kill()
            first.communicate()
    assert len(sim.ledger) <= 1


def test_wrong_usage_is_exit_code_2(tollway):
    for arguments in (["embed"], ["embed", "a", "b", "--rpm", "0"], ["nothing"]):
        assert tollway(*arguments)[0] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("arguments", [["count", "a.txt"], ["plan", "a.txt"], ["limits"]])
def test_a_report_that_cannot_be_written_is_one_line(tmp_path, arguments):
    put(tmp_path / "a.txt", "text")
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ended = subprocess.run(
            [sys.executable, "-m", "tollway", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=commands.environment(TOLLWAY_LIMITS_DIR=str(tmp_path / "limits")),
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "tollway: cannot write the output: No space left on device\n"


def test_a_system_that_gives_no_more_is_not_taken_for_the_output(tollway, monkeypatch):
    def fail():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("tollway.cli.app", fail)
    assert tollway("limits") == (1, "", "tollway: OSError: Too many open files\n")


def test_count_without_a_standard_input(tollway, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = tollway("count", "-")
    assert (code, err) == (1, "tollway: InputError: there is no standard input\n")


def test_a_job_without_a_standard_error(sim, docs, tmp_path):
    words = ["embed", docs, tmp_path / "v.npy", *to(sim)]
    ended = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'exec "$@" 2>&-',
            "sh",
            sys.executable,
            "-m",
            "tollway",
            *map(str, words),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=commands.environment(),
        check=False,
    )
    assert (ended.returncode, np.load(tmp_path / "v.npy").shape) == (0, (2, 1536)), ended.stdout


def test_a_port_in_use_is_named(tollway, sim):
    port = sim.base_url.split(":")[2].split("/")[0]
    code, _, err = tollway("simulate", "--port", port)
    assert (code, err.count("\n")) == (1, 1)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; port 0 takes" in err


# Keys


def test_a_key_is_nowhere(sim, docs, tmp_path):
    """Not in reports, progress, errors or files, even where the server repeats it."""
    output = tmp_path / "v.npy"
    shown = []
    with Simulator(faults=Faults({"500": 0.3}, seed=4), api_keys={KEY}) as failing:
        arguments = ["embed", docs, output, "--split", "line", "--batch-size", 1]
        arguments += ["--model", commands.SMALL, "--base-url", failing.base_url]
        code, *texts = commands.run(*arguments, OPENAI_API_KEY=KEY)
        assert code == 0
        shown += texts
        code, *texts = commands.run(*arguments, "--json", OPENAI_API_KEY=KEY)
        assert code == 0
        shown += texts
    with Simulator(api_keys={"another"}) as refusing:
        arguments = ["embed", docs, tmp_path / "w.npy", *to(refusing)]
        code, *texts = commands.run(*arguments, OPENAI_API_KEY=KEY)
        assert code == 1
        assert "AuthenticationError" in texts[1]
        shown += texts
        code, *texts = commands.run(*arguments, OPENAI_API_KEY=KEY, TOLLWAY_TRACEBACK="1")
        assert code == 1
        assert "Traceback" in texts[1]
        shown += texts
    assert KEY[:10] not in "".join(shown)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"v.npy", "v.index.jsonl", "vectors", "rows.sqlite"}
    assert not [path for path in files if KEY[:10].encode() in path.read_bytes()]


# The terminal


def test_progress_without_a_terminal_is_lines_of_json(tollway, docs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["tollway.cli.embed"], "_LINE_INTERVAL", 0.0)
    with Simulator(faults=Faults({"500": 0.5}, seed=4)) as failing:
        arguments = ["--split", "line", "--batch-size", 1, *to(failing)]
        code, _, err = tollway("embed", docs, tmp_path / "v.npy", *arguments)
    assert code == 0
    first, *_, last = [json.loads(line) for line in err.splitlines()]
    # What the bar shows, by name.
    assert list(first) == [
        "texts", "total", "rate", "eta", "tokens", "cost", "requests", "rate_limited", "retries",
        "hedges", "retrying", "seconds",
    ]  # fmt: skip
    assert (first["texts"], first["total"], first["eta"]) == (0, 4, None)
    assert (last["texts"], last["total"], last["eta"], last["tokens"]) == (4, 4, 0.0, 4)
    assert last["rate"] > 0
    assert last["requests"] - last["retries"] == 4
    assert last["retries"] == len(failing.ledger) - 4 > 0


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_progress_on_a_terminal_of_80_columns_is_one_line(tmp_path):
    import fcntl  # noqa: PLC0415
    import pty  # noqa: PLC0415
    import struct  # noqa: PLC0415
    import termios  # noqa: PLC0415

    docs = put(tmp_path / "a.txt", "\n".join(f"line {i} of many" for i in range(3000)))
    # Fewer than the successes pay retries for: the others would wait for a second each.
    faults = Faults({"429": 0.03, "500": 0.03}, seed=2, retry_after=0.01)
    with Simulator(latency=0.02, faults=faults) as sim:
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        arguments = ["embed", docs, tmp_path / "v.npy", "--split", "line", "--batch-size", 20]
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "tollway"),
                *map(str, [*arguments, *to(sim)]),
            ],
            stdout=subprocess.DEVNULL,
            stderr=follower,
            env=commands.environment(TERM="xterm", COLUMNS="80"),
        ) as process:
            os.close(follower)
            written = b""
            while True:
                try:
                    part = os.read(leader, 65_536)
                except OSError:
                    break
                if not part:
                    break
                written += part
        os.close(leader)
    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())
    frames = [frame for frame in re.split(r"[\r\n]+", plain) if "/s ·" in frame]
    assert frames
    assert max(map(len, frames)) <= 80
    # Nothing is cut off: counts, tokens, and time to go are whole in every frame.
    troubles = r"( · \d+x429)?( · (1 retry|\d+ retries))?( · [A-Z]\w+[r…])?"
    pattern = rf"(\S+ )?[\d,]+/3,000 · \S+/s( · \d+:\d\d left)? · \S+ tokens{troubles}\s*"
    assert [frame for frame in frames if not re.fullmatch(pattern, frame)] == []
