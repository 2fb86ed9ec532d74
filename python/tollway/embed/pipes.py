"""Copies of what can be read only once: standard input and pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

__all__ = ["copied", "guessed", "is_pipe"]

_CHUNK = 1 << 20

# Milliseconds after which a wait for input looks whether it is still wanted.
_LOOK = 50


def is_pipe(source: Path) -> bool:
    """Whether a path is standard input (`-`), a pipe, or a device such as /dev/stdin."""
    if str(source) == "-":
        return True
    with contextlib.suppress(OSError, ValueError):
        mode = source.stat().st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return False


@contextlib.asynccontextmanager
async def copied(source: Path) -> AsyncGenerator[Path]:
    """Copy a pipe to a file of our own, which is removed at the end of the block.

    A job reads its input twice, and a writer that is slow must not delay answers and permits.

    Args:
        source: As `is_pipe` takes it.

    Raises:
        InputError: It cannot be read, or there is no room for the copy.

    Cancellation: safe at once where the system can wait for input (not on Windows, where it takes
    effect with the next input); the copy is removed.
    """
    with _named_errors():
        descriptor, name = tempfile.mkstemp(prefix="tollway-stdin-")
    stopped = threading.Event()
    try:
        copy = asyncio.ensure_future(asyncio.to_thread(_copy, source, descriptor, stopped))
        try:
            await asyncio.shield(copy)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.wait([copy])
            # Looked at, for nobody else will.
            copy.exception()
            raise
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)  # noqa: ASYNC240 - as fast as anything done here


def _copy(source: Path, descriptor: int, stopped: threading.Event) -> None:
    """Copy until the end of the input, or until `stopped` is set."""
    # Without a buffer of its own, which would be written once more when it is closed.
    with os.fdopen(descriptor, "wb", buffering=0) as target, contextlib.ExitStack() as opened:
        try:
            file = _standard_input() if str(source) == "-" else opened.enter_context(_open(source))
            wait = _waiter(file)
            while not stopped.is_set():
                if not wait():
                    continue
                data = memoryview(file.read1(_CHUNK))
                if not data:
                    break
                with _named_errors():
                    while data:
                        data = data[target.write(data) :]
        except OSError as error:
            raise InputError(f"cannot read {source}: {error.strerror or error}") from error


@contextlib.contextmanager
def _named_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot keep a copy of the input in {tempfile.tempdir or 'a temporary folder'}: "
            f"{error.strerror}; name another folder in the environment variable TMPDIR"
        ) from error


def _standard_input() -> Any:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it is, in a daemon
        raise InputError("there is no standard input; nothing was sent")
    return sys.stdin.buffer


def _open(source: Path) -> Any:
    # Opened as it is, a pipe without a writer would block beyond Ctrl-C.
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def _waiter(file: Any) -> Any:
    """Return a function that waits a moment for input and says whether there is some, or its end.

    Where that cannot be asked, it says so at once, and reading waits.
    """
    if not hasattr(select, "poll"):
        return lambda: True
    try:
        descriptor: int = file.fileno()
    except OSError:
        return lambda: True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda: bool(poll.poll(_LOOK))


def guessed(path: Path) -> str:
    """Return `parquet` or `jsonl` where the first bytes of a file say so, else `txt`."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else "txt"
