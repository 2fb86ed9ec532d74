"""What was submitted, on disk: what keeps a run that is killed from submitting it again.

    <folder>/
      000001.jsonl   the requests of a batch, one a line: its id, its tokens, its body as JSON
      000001.json    that it was about to be submitted: when, how much, its digest; then its name

A batch without its second file was never submitted and is forgotten. The second file is there
before the request that starts a batch, and both are until its results are kept elsewhere, and what
is to be tried again stands in a batch of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedWriter

__all__ = ["Entry", "Journal", "Writing", "under_way"]

_VERSION = 1


@dataclass(slots=True)
class Entry:
    """One batch.

    Attributes:
        number: Of the files.
        nonce: What the custom ids of its requests begin with: no other batch has it.
        model: `provider/model`.
        address: Where it is submitted.
        digest: Of its requests.
        requests: How many.
        tokens: Of their input.
        attempted: When it was about to be submitted, seconds since 1970; None where it surely was
            not.
        batch: The provider's name of it, once that is known.
        is_cancelled: Whether we asked the provider to cancel it.
        is_resumed: Whether it is from an earlier run.
        not_before: Time of the event loop before which it is not submitted.
    """

    number: int
    nonce: str
    model: str
    address: str
    digest: str = ""
    requests: int = 0
    tokens: int = 0
    attempted: float | None = None
    batch: str | None = None
    is_cancelled: bool = False
    is_resumed: bool = False
    not_before: float = 0.0


# What the second file holds.
_KEPT = (
    "nonce", "model", "address", "digest", "requests", "tokens", "attempted", "batch",
    "is_cancelled",
)  # fmt: skip


def under_way(folder: Path) -> bool:
    """Whether a folder names batches that are, or may be, at the provider."""
    return any(folder.glob("*.json"))


class Journal:
    """An open folder of batches. Whose turn it is to write is for the caller to know.

    Args:
        folder: Made when the first batch is written; None for a temporary one.
        model: `provider/model` of what is submitted.
        address: Where.

    Attributes:
        is_temporary: Whether nothing of it is there for a later run.

    Raises:
        CheckpointError: The folder cannot be read, or its batches are of another model or address.
    """

    def __init__(self, folder: Path | None, model: str, address: str) -> None:
        self.is_temporary = folder is None
        self._folder = Path(tempfile.mkdtemp(prefix="tollway-")) if folder is None else folder
        self._model = model
        self._address = address
        self.entries: list[Entry] = []
        try:
            for path in sorted(self._folder.glob("*.json")):
                self.entries.append(self._read(path))
            kept = {entry.number for entry in self.entries}
            for path in self._folder.glob("*.jsonl"):
                if int(path.stem) not in kept:
                    path.unlink()
        except (OSError, ValueError) as error:
            raise self.failure(error) from error
        self._last = max((entry.number for entry in self.entries), default=0)

    def _read(self, path: Path) -> Entry:
        try:
            named: dict[str, Any] = json.loads(path.read_bytes())
            version = named.pop("version")
            entry = Entry(int(path.stem), **named, is_resumed=True)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is no batch of tollway's") from error
        if version != _VERSION:
            raise CheckpointError(f"{path} is of another version of tollway; finish it with that")
        if (entry.model, entry.address) != (self._model, self._address):
            raise CheckpointError(
                f"{path.parent} has a batch under way of {entry.model} at {entry.address}, not "
                f"{self._model} at {self._address}; finish it with that model first, or delete the "
                "folder to give its answers up"
            )
        return entry

    def begin(self) -> Writing:
        """Begin a batch; nothing counts before it is submitted.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        self._last += 1
        entry = Entry(self._last, secrets.token_hex(4), self._model, self._address)
        try:
            # Requests are nobody else's business.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self._lines(entry).open("wb")
        except OSError as error:
            raise self.failure(error) from error
        return Writing(self, entry, file)

    def requests(self, entry: Entry) -> Iterator[tuple[str, int, bytes]]:
        """Yield id, tokens and body of each request of a batch."""
        try:
            with self._lines(entry).open("rb") as file:
                for line in file:
                    name, tokens, body = line.rstrip(b"\n").split(b" ", 2)
                    yield name.decode(), int(tokens), body
        except (OSError, ValueError) as error:
            raise self.failure(error) from error

    def save(self, entry: Entry) -> None:
        """Write what is known of a batch, so that it survives the death of this process.

        Raises:
            CheckpointError: It cannot be written; what was there stays.
        """
        members = asdict(entry)
        named = {"version": _VERSION, **{name: members[name] for name in _KEPT}}
        path = self._folder / f"{entry.number:06}.json"
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(named).encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise self.failure(error) from error

    def forget(self, entry: Entry) -> None:
        """Forget that a batch was submitted; its requests stay, to be submitted again."""
        entry.attempted, entry.batch = None, None
        try:
            (self._folder / f"{entry.number:06}.json").unlink(missing_ok=True)
        except OSError as error:
            raise self.failure(error) from error

    def remove(self, entry: Entry) -> None:
        """Remove a batch whose results are kept elsewhere."""
        self.forget(entry)
        try:
            self._lines(entry).unlink(missing_ok=True)
        except OSError as error:
            raise self.failure(error) from error

    def close(self) -> None:
        """Remove the folder where nothing is left in it; a temporary one in any case."""
        if self.is_temporary:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        # What was not submitted counts for nothing; what was stays.
        with contextlib.suppress(OSError):
            kept = {path.stem for path in self._folder.glob("*.json")}
            for path in [*self._folder.glob("*.jsonl"), *self._folder.glob("*.tmp")]:
                if path.stem not in kept:
                    path.unlink()
            self._folder.rmdir()

    def _lines(self, entry: Entry) -> Path:
        return self._folder / f"{entry.number:06}.jsonl"

    def failure(self, error: OSError | ValueError) -> CheckpointError:
        """Return what it means that the folder cannot be used."""
        why = error.strerror if isinstance(error, OSError) else error
        return CheckpointError(
            f"cannot use {self._folder}: {why}; batches that were submitted go on at the provider, "
            "and are collected by the same run once that is put right"
        )


class Writing:
    """A batch that is being written.

    Attributes:
        entry: It.
        size: Bytes of the bodies so far.
        inputs: Texts in it so far.
    """

    def __init__(self, journal: Journal, entry: Entry, file: BufferedWriter) -> None:
        self._journal = journal
        self._file = file
        self._hash = hashlib.blake2b(entry.nonce.encode(), digest_size=16)
        self.entry = entry
        self.size = 0
        self.inputs = 0

    def add(self, name: str, body: bytes, tokens: int, inputs: int = 1) -> None:
        """Add a request.

        Raises:
            CheckpointError: The disk is full or failing. Nothing of the batch was submitted.
        """
        line = b"%b %d %b\n" % (name.encode(), tokens, body)
        try:
            self._file.write(line)
        except OSError as error:
            raise self._journal.failure(error) from error
        self._hash.update(line)
        self.entry.requests += 1
        self.entry.tokens += tokens
        self.size += len(body)
        self.inputs += inputs

    def end(self) -> Entry:
        """Write all of it out and return it.

        Raises:
            CheckpointError: As `add`.
        """
        try:
            with self._file as file:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._journal.failure(error) from error
        self.entry.digest = self._hash.hexdigest()
        return self.entry

    def drop(self) -> None:
        """Give the batch up."""
        self._file.close()
        self._journal.remove(self.entry)
