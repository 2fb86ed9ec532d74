"""The command line as its users run it: in a process of its own, or in this one for speed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

SMALL = "openai/text-embedding-3-small"

# Nothing of the machine's own may reach a command under test.
_PRIVATE = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "TOLLWAY_TRACEBACK")


def environment(**more: str) -> dict[str, str]:
    """The environment of a command, with a key that only a simulator takes."""
    kept = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    return {**kept, "PYTHONWARNINGS": "error", "OPENAI_API_KEY": "any", **more}


def start(
    *arguments: object,
    stdin: int | None = None,
    largest: int | None = None,
    **env: str,
) -> subprocess.Popen[str]:
    """Start `tollway ARGUMENTS`, its output piped.

    Args:
        arguments: Of the command line.
        stdin: As `subprocess.Popen` takes it.
        largest: Bytes that no file of the process can exceed, as if the disk were full.
        env: More of the environment.
    """
    code = "from tollway.cli import main; main()"
    if largest is not None:
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))"
        code = f"import resource; {limit}; {code}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
    )


def run(*arguments: object, **env: str) -> tuple[int, str, str]:
    """Run `tollway ARGUMENTS` to its end: exit code, stdout, stderr."""
    with start(*arguments, **env) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def a_second() -> float:
    """A second; on a busy machine as much more as a start of a command takes longer."""
    began = time.monotonic()
    run("embed", "--help")
    return max(1.0, 2 * (time.monotonic() - began))
