"""The checkpoint of a map: one JSON line an answer, appended as it comes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tollway.chat.repair import JsonError
from tollway.errors import CheckpointError
from tollway.types import Completion, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tollway.chat.request import Prompt

try:
    import fcntl
except ImportError:  # Windows: one writer at a time is up to the user there
    fcntl = None  # type: ignore[assignment]

__all__ = ["MapCheckpoint"]


class MapCheckpoint:
    """Answers by what was asked, in a file of JSON lines.

    An answer is written before it counts as done, by one append: a process that is killed loses
    at most what was in flight. A last line that is not whole is cut off on opening.

    Args:
        path: The file; made where it is not there.
        identity: Returns all of a prompt's request that decides its answer.
        parse: Returns `Completion.parsed` for an answer's text.

    Raises:
        CheckpointError: Another process has it open, or it cannot be read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Callable[[Prompt], Any],
        parse: Callable[[str], Any] | None,
    ) -> None:
        self._path = Path(path)
        self._identity = identity
        self._parse = parse
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise CheckpointError(f"cannot open {self._path}: {error.strerror}") from error
        try:
            self._claim()
            self._answers = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        """Return itself; the file is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and let others write."""
        os.close(self._file)

    def key(self, prompt: Prompt) -> str:
        """Return the key of a prompt: equal ones are told apart by their number."""
        written = json.dumps(self._identity(prompt), sort_keys=True, default=_plain)
        digest = hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()
        with self._lock:
            number = self._seen[digest]
            self._seen[digest] += 1
        return f"{digest}-{number}"

    def get(self, key: str) -> Completion | None:
        """Return the answer that an earlier run kept, or None where it is of no use any more."""
        kept = self._answers.get(key)
        if kept is None:
            return None
        members = dict(kept)
        members["usage"] = Usage(**members.get("usage", {}))
        members["tool_calls"] = tuple(ToolCall(**call) for call in members.get("tool_calls", ()))
        answer = Completion(**members)
        if self._parse is None or answer.tool_calls:
            return answer
        try:
            return dataclasses.replace(answer, parsed=self._parse(answer.text))
        except JsonError:
            # A model's validators may have changed, and a batch's answer was kept unseen.
            return None

    def add(self, key: str, answer: Completion) -> None:
        """Append an answer.

        Raises:
            CheckpointError: It cannot be written; what is there stays.
        """
        line = json.dumps({"key": key, **_kept(answer)}, default=_plain).encode() + b"\n"
        with self._lock:
            try:
                written = os.write(self._file, line)
                if written < len(line):
                    os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            except OSError as error:
                raise CheckpointError(f"cannot write {self._path}: {error.strerror}") from error
        if written < len(line):
            raise CheckpointError(f"cannot write {self._path}: no space left")

    def _claim(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"{self._path} is being written by another map; wait for it, or name another file"
            ) from error

    def _read(self) -> dict[str, dict[str, Any]]:
        answers: dict[str, dict[str, Any]] = {}
        whole = self._path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.ftruncate(self._file, end)
        for number, line in enumerate(whole[:end].splitlines(), 1):
            try:
                record = json.loads(line)
                key = record.pop("key")
                Completion(**record)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"{self._path}:{number} is no answer of a map; is it the file that was meant?"
                ) from error
            answers[key] = record
        return answers


def _kept(answer: Completion) -> dict[str, Any]:
    """Return what is kept of an answer: no headers, nothing that is a provider's own."""
    plain = dataclasses.replace(answer, raw=None, headers={}, extra={}, parsed=None, attempts=())
    kept = dataclasses.asdict(plain)
    for call in kept["tool_calls"]:
        call.pop("extra")
    kept["usage"] = {name: value for name, value in kept["usage"].items() if value}
    return {name: value for name, value in kept.items() if value not in (None, "", {}, (), [])} | {
        "text": answer.text
    }


def _plain(value: Any) -> Any:
    """Return what JSON can hold for a value that it cannot: bytes as their digest."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    with contextlib.suppress(TypeError):
        return dataclasses.asdict(value)
    return repr(value)
