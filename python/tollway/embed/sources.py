"""Documents from files, folders, standard input, Arrow tables, and any iterable."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import stat
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tollway.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from tollway.tokens import Encoding

__all__ = ["Document", "Format", "Split", "chunked", "document_of", "kind_of", "read_documents"]

Split = Literal["file", "paragraph", "line"]

Format = Literal["csv", "jsonl", "md", "parquet", "txt"]

_KINDS = {f".{kind}" for kind in get_args(Format)}

# Folders of jobs: the requests of batches under way lie in them, as `.jsonl`.
_JOBS = (".npy.job", ".parquet.job")

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Document:
    """One text to embed.

    Attributes:
        id: The `id` field, or the path within the input and the number of the piece.
        text: What is embedded.
        metadata: The other fields of a record.
        chunk: Number of the chunk, from 0, where documents are split by tokens.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    chunk: int | None = None


def read_documents(
    source: str | Path,
    *,
    split: Split = "file",
    text_field: str = "text",
    id_field: str = "id",
    format: Format | None = None,  # noqa: A002 - the field's own word
) -> Iterator[Document]:
    """Read documents one by one, in a stable order: a folder's files by path.

    Args:
        source: A file, or a folder that is searched for files of the known kinds (`.txt`, `.md`,
            `.jsonl`, `.csv`, `.parquet`); hidden ones are left out, and what jobs write beside
            their outputs (`*.index.jsonl`, `*.npy.job`, `*.parquet.job`).
        split: How `.txt` and `.md` become texts: the whole file, its paragraphs (set apart by
            blank lines), or its lines. Blank ones are left out.
        text_field: Field of a record that holds the text, column of `.csv` and `.parquet`.
        id_field: The one that holds the id, where there is one.
        format: Kind of a single file whose name does not tell it.

    Raises:
        InputError: A file is missing, unreadable, of an unknown kind, not UTF-8 (with the byte
            offset), or a record has no text (with the line).
        ConfigurationError: `.parquet` without the extra `arrow`.
    """
    _check("split", split, Split)
    if format is not None:
        _check("format", format, Format)
    root = Path(source)
    try:
        files = list(_files(root, format))
    except OSError as error:
        raise InputError(f"cannot read {error.filename or root}: {error.strerror}") from error
    return _documents(root, files, split, text_field, id_field)


def _check(name: str, value: object, choice: Any) -> None:
    allowed = get_args(choice)
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def chunked(
    documents: Iterable[Document], encoding: Encoding, max_tokens: int, overlap: int = 0
) -> Iterator[Document]:
    """Split documents into chunks of tokens; one without text stays as it is.

    Chunks of white space alone, such as the line ends of a text, are left out.

    Args:
        documents: Each becomes one document or more of the same id and metadata, numbered by
            `chunk`.
        encoding: What counts.
        max_tokens: The most tokens a chunk.
        overlap: Tokens that a chunk repeats of the one before.

    Raises:
        ConfigurationError: As `Encoding.chunk` does.
    """
    for document in documents:
        chunks = [
            chunk
            for chunk in encoding.chunk(document.text, max_tokens, overlap)
            if not chunk.isspace()
        ]
        for number, chunk in enumerate(chunks or [document.text]):
            yield replace(document, text=chunk, chunk=number)


def _documents(
    root: Path, files: list[tuple[Path, str]], split: Split, text_field: str, id_field: str
) -> Iterator[Document]:
    for path, kind in files:
        name = path.name if path == root else path.relative_to(root).as_posix()
        try:
            if kind == ".parquet":
                yield from _parquet(path, name, text_field, id_field)
                continue
            # Else a file with a record that is refused would be open for as long as its error.
            with contextlib.closing(_lines(path)) as lines:
                if kind == ".jsonl":
                    yield from _jsonl(lines, path, name, text_field, id_field)
                elif kind == ".csv":
                    yield from _csv(lines, path, name, text_field, id_field)
                else:
                    yield from _text(lines, name, split)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error


def kind_of(path: Path) -> str | None:
    """Return what the name of a file says that it is, or None."""
    suffix = path.suffix.lower()
    return suffix[1:] if suffix in _KINDS else None


def _files(root: Path, given: Format | None) -> Iterator[tuple[Path, str]]:
    """Yield files and their kinds."""
    # A link that leads nowhere is there, but cannot be read: stat says why.
    if not os.path.lexists(root):
        raise InputError(f"there is no file or folder {root}")
    if not stat.S_ISDIR(root.stat().st_mode):
        kind = root.suffix.lower() if given is None else f".{given}"
        if kind not in _KINDS:
            raise InputError(
                f"{root} is of no known kind ({', '.join(sorted(_KINDS))}, or a folder); name its "
                "kind with format"
            )
        yield root, kind
        return
    found: list[Path] = []
    # A folder that cannot be listed is an error: its documents would be missing silently.
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders[:] = [
            name for name in folders if not (name.startswith(".") or name.endswith(_JOBS))
        ]
        found += (
            Path(folder, name)
            for name in names
            # What a job wrote beside its output is not an input.
            if not name.startswith(".") and not name.endswith(".index.jsonl")
        )
    known = sorted(path for path in found if path.suffix.lower() in _KINDS)
    if not known:
        raise InputError(f"{root} holds no file of a known kind: {', '.join(sorted(_KINDS))}")
    for path in known:
        yield path, path.suffix.lower()


def _raise(error: OSError) -> None:
    raise error


def _lines(path: Path) -> Generator[str]:
    """Yield the lines of a UTF-8 file with their ends; a byte order mark is dropped."""
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            line = raw
            if offset == 0 and raw.startswith(_BOM):
                line = raw[len(_BOM) :]
                offset = len(_BOM)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path} is not UTF-8: byte {line[error.start]:#04x} at offset "
                    f"{offset + error.start}; convert it, for example with iconv"
                ) from error
            offset += len(line)


def _text(lines: Iterator[str], name: str, split: Split) -> Iterator[Document]:
    if split == "file":
        text = "".join(lines)
        if text.strip():
            yield Document(name, text)
        return
    number = 0
    piece: list[str] = []
    for line in lines:
        if split == "line" and line.strip():
            number += 1
            yield Document(f"{name}#{number}", line.rstrip("\r\n"))
        elif line.strip():
            piece.append(line)
        elif piece:
            number += 1
            yield Document(f"{name}#{number}", "".join(piece).rstrip())
            piece = []
    if piece:
        yield Document(f"{name}#{number + 1}", "".join(piece).rstrip())


def _jsonl(
    lines: Iterator[str], path: Path, name: str, text_field: str, id_field: str
) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{where} is not a JSON object")
        yield document_of(dict(record), where, f"{name}#{number}", text_field, id_field)  # pyright: ignore[reportUnknownArgumentType]


def _csv(
    lines: Iterator[str], path: Path, name: str, text_field: str, id_field: str
) -> Iterator[Document]:
    # The default of 128 KB is less than a long document.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(lines, strict=True)
    try:
        for number, record in enumerate(reader, 1):
            where = f"{path}, line {reader.line_num}"
            if None in record:
                raise InputError(f"{where} has more fields than the header names")
            yield document_of(dict(record), where, f"{name}#{number}", text_field, id_field)
    except csv.Error as error:
        # It counts the lines of the records before: a quote left open is where its record begins.
        raise InputError(f"{path}, line {reader.line_num + 1}: {error}") from error


def _parquet(path: Path, name: str, text_field: str, id_field: str) -> Iterator[Document]:
    from tollway.embed.arrow import parquet_records  # noqa: PLC0415

    with contextlib.closing(parquet_records(path)) as records:
        for number, record in enumerate(records, 1):
            where = f"{path}, row {number}"
            yield document_of(record, where, f"{name}#{number}", text_field, id_field)


def document_of(
    record: dict[str, Any], where: str, default_id: str, text_field: str, id_field: str
) -> Document:
    """Return the document of a record, whose fields it takes; `where` is for messages."""
    text = record.pop(text_field, None)
    if not isinstance(text, str):
        there = ", ".join(map(repr, record)) or "none"
        raise InputError(
            f"{where}: no text in field {text_field!r} (others there: {there}); name the field "
            "that holds it with text_field"
        )
    given = record.pop(id_field, None)
    return Document(default_id if given is None or given == "" else str(given), text, record)
