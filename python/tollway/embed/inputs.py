"""What a job reads: any source as groups of documents, and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from tollway.embed.arrow import is_arrow, records
from tollway.embed.pipes import copied, guessed, is_pipe
from tollway.embed.sources import Document, chunked, document_of, kind_of, read_documents
from tollway.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tollway.tokens import Encoding

__all__ = ["Input", "Source"]

Source: TypeAlias = str | Path | Iterable[str | Document] | AsyncIterable[str | Document] | Any
"""A path (`-` for standard input), an Arrow table, column or stream, or texts or documents."""

# Documents looked at together: about 2 ms of hashing and counting, during which no answer is read.
GROUP = 256


class Input(contextlib.AbstractAsyncContextManager["Input"]):
    """A source that is open in an `async with` block.

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
        self._copies = contextlib.AsyncExitStack()
        self._copy: Path | None = None
        self.name = str(source) if isinstance(source, str | Path) else "the input"
        # What the ids of the texts of a pipe begin with.
        self._prefix = Path(self.name).name
        # What cannot work is told before anything is read.
        if chunk is not None:
            encoding.chunk("", chunk, overlap)
        elif overlap:
            raise ConfigurationError("overlap is between chunks: say how long they are with chunk")
        if self.name == "-":
            self.name, self._prefix = "standard input", "stdin"
        if not isinstance(source, str | Path) and not is_arrow(source) and reading:
            raise TypeError(f"{', '.join(reading)} are for files; the source is not one")

    async def __aenter__(self) -> Self:
        """Copy standard input or a pipe to a file, and return itself."""
        source = self._source
        if isinstance(source, str | Path) and is_pipe(Path(source)):
            self._copy = await self._copies.enter_async_context(copied(Path(source)))
            self._reading["format"] = (
                self._reading.get("format") or kind_of(Path(source)) or guessed(self._copy)
            )
            self._source = self._copy
        return self

    async def __aexit__(self, *_: object) -> None:
        """Remove the copy."""
        await self._copies.aclose()

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
            return found if self._copy is None else self._renamed(found, self._copy)
        if is_arrow(source):
            text, identity = reading.get("text_field", "text"), reading.get("id_field", "id")
            return (
                document_of(record, f"row {i}", str(i), text, identity)
                for i, record in enumerate(records(source, text))
            )
        return itertools.starmap(_document, enumerate(cast("Iterable[object]", source)))

    def _renamed(self, documents: Iterator[Document], copy: Path) -> Iterator[Document]:
        """Call a pipe by its own name, in ids and errors, and not by that of its copy."""
        try:
            for document in documents:
                if document.id.startswith(copy.name):
                    yield replace(document, id=self._prefix + document.id.removeprefix(copy.name))
                else:
                    yield document
        except InputError as error:
            raise InputError(str(error).replace(str(copy), self.name)) from error


def _grouped(documents: Iterable[Document]) -> Iterator[list[Document]]:
    rest = iter(documents)
    while group := list(itertools.islice(rest, GROUP)):
        yield group


def _document(number: int, item: object) -> Document:
    if isinstance(item, Document):
        if not isinstance(item.text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the text of item {number}, {item.id!r}, must be a str, not "
                f"{type(item.text).__name__}"
            )
        return item
    if isinstance(item, str):
        return Document(str(number), item)
    raise TypeError(f"item {number} must be a str or a Document, not {type(item).__name__}")
