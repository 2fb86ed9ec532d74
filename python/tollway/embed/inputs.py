"""What a job reads: any source as groups of documents, and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from tollway.embed.arrow import is_arrow, records
from tollway.embed.sources import Document, chunked, document_of, read_documents
from tollway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tollway.tokens import Encoding

__all__ = ["GROUP", "Input", "Source"]

Source: TypeAlias = str | Path | Iterable[str | Document] | AsyncIterable[str | Document] | Any
"""A path, `-` for standard input, an Arrow table or stream, or texts or documents."""

# Documents looked at together: about 2 ms of hashing and counting, during which no answer is read.
GROUP = 256


class Input(contextlib.AbstractContextManager["Input"]):
    """A source that is open; closed at the end of a `with` block.

    Args:
        source: What is read.
        encoding: What splits documents into chunks.
        chunk: The most tokens a chunk; None leaves documents whole.
        overlap: Tokens that a chunk repeats of the one before.
        reading: Options of `read_documents`, for files; of them `text_field` and `id_field` for
            Arrow.
    """

    def __init__(
        self,
        source: Source,
        encoding: Encoding,
        *,
        chunk: int | None = None,
        overlap: int = 0,
        **reading: Any,
    ) -> None:
        self._source: Any = source
        self._encoding = encoding
        self._chunk = chunk
        self._overlap = overlap
        self._reading = reading
        self._copy: Path | None = None
        self.name = str(source) if isinstance(source, str | Path) else "the input"
        if chunk is not None:
            # What cannot work is told before anything is read.
            encoding.chunk("", chunk, overlap)
        if isinstance(source, str | Path) and str(source) == "-":
            self.name = "standard input"
            self._source = self._copy = _copied()
            self._reading.setdefault("format", None)
            self._reading["format"] = self._reading["format"] or _guessed(self._copy)
        elif not isinstance(source, str | Path) and not is_arrow(source) and reading:
            raise TypeError(f"{', '.join(reading)} are for files; the source is not one")

    def __exit__(self, *_: object) -> None:
        """Remove the copy of standard input."""
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)

    async def total(self) -> int | None:
        """Read files to their end and count their texts, or say None where that cannot be known.

        What cannot be read is told so before anything is sent.

        Raises:
            InputError: As `read_documents` says, or there is no text at all.
        """
        source = self._source
        if not isinstance(source, str | Path):
            if self._chunk is not None:
                return None
            rows = getattr(source, "num_rows", None)
            if isinstance(rows, int):
                return rows
            return len(source) if hasattr(source, "__len__") else None
        total = 0
        async for group in self.groups():
            total += len(group)
            await asyncio.sleep(0)
        if total == 0:
            raise InputError(f"{self.name} holds no text; nothing was sent")
        return total

    async def groups(self) -> AsyncGenerator[list[Document]]:
        """Yield documents, some hundreds at a time."""
        if isinstance(self._source, AsyncIterable):
            items = aiter(cast("AsyncIterable[object]", self._source))  # pyright: ignore[reportUnknownMemberType]
            number, is_end = 0, False
            while not is_end:
                drawn: list[Document] = []
                while len(drawn) < GROUP and not is_end:
                    try:
                        drawn.append(_document(number, await anext(items)))
                        number += 1
                    except StopAsyncIteration:
                        is_end = True
                for group in _grouped(self._split(drawn)):
                    yield group
        else:
            for group in _grouped(self._split(self._documents())):
                yield group

    def _split(self, documents: Iterable[Document]) -> Iterable[Document]:
        if self._chunk is None:
            return documents
        return chunked(documents, self._encoding, self._chunk, self._overlap)

    def _documents(self) -> Iterator[Document]:
        source, reading = self._source, self._reading
        if isinstance(source, str | Path):
            found = read_documents(source, **reading)
            return found if self._copy is None else map(self._renamed, found)
        if is_arrow(source):
            text, identity = reading.get("text_field", "text"), reading.get("id_field", "id")
            return (
                document_of(record, f"row {i}", str(i), text, identity)
                for i, record in enumerate(records(source))
            )
        return itertools.starmap(_document, enumerate(cast("Iterable[object]", source)))

    def _renamed(self, document: Document) -> Document:
        assert self._copy is not None
        if not document.id.startswith(self._copy.name):
            return document
        return replace(document, id=f"stdin{document.id.removeprefix(self._copy.name)}")


def _grouped(documents: Iterable[Document]) -> Iterator[list[Document]]:
    rest = iter(documents)
    while group := list(itertools.islice(rest, GROUP)):
        yield group


def _document(number: int, item: object) -> Document:
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(str(number), item)
    raise TypeError(f"item {number} must be a str or a Document, not {type(item).__name__}")


def _copied() -> Path:
    """Copy standard input to a file of our own: it is read twice, and must not block an answer."""
    descriptor, name = tempfile.mkstemp(prefix="tollway-stdin-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise InputError(
            f"cannot keep a copy of standard input in {name}: {error.strerror}; name another "
            "folder in the environment variable TMPDIR"
        ) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _guessed(path: Path) -> str:
    """`parquet` or `jsonl` where the first bytes say so, else `txt`."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else "txt"
