"""Texts from files and standard input."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tollway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_text"]


def read_text(path: Path) -> str:
    """Return the text of a file, or of standard input for `-`.

    Raises:
        InputError: It cannot be read, or is not UTF-8, with the byte and its offset.
    """
    is_stdin = str(path) == "-"
    if is_stdin and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - if closed
        raise InputError("there is no standard input")
    try:
        data = sys.stdin.buffer.read() if is_stdin else path.read_bytes()
        # A mark of the byte order is no text; jobs leave it out too.
        return data.decode().removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"
        ) from error
