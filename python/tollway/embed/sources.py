"""Documents from files: `.txt`, `.md`, `.jsonl`, `.csv`, and folders of them."""

from __future__ import annotations

import csv
import json
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tollway.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Document", "Split", "read_documents"]

Split = Literal["file", "paragraph", "line"]

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Document:
    """One text to embed.

    Attributes:
        id: The `id` field, or the path within the input and the number of the piece.
        text: What is embedded.
        metadata: The other fields of a `.jsonl` or `.csv` record.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_documents(
    source: str | Path,
    *,
    split: Split = "file",
    text_field: str = "text",
    id_field: str = "id",
) -> Iterator[Document]:
    """Read documents one by one, in a stable order: a folder's files by path.

    Args:
        source: A file, or a folder that is searched for files of the known kinds; hidden ones and
            `*.index.jsonl` are left out.
        split: How `.txt` and `.md` become texts: the whole file, its paragraphs (set apart by
            blank lines), or its lines. Blank ones are left out.
        text_field: Field of `.jsonl` records and column of `.csv` that holds the text.
        id_field: The one that holds the id, where there is one.

    Raises:
        InputError: A file is missing, unreadable, of an unknown kind, not UTF-8 (with the byte
            offset), or a record has no text (with the line).
    """
    if split not in get_args(Split):
        allowed = ", ".join(get_args(Split))
        raise ConfigurationError(f"split must be one of {allowed}, not {split!r}")
    root = Path(source)
    try:
        files = list(_files(root))
    except OSError as error:
        raise InputError(f"cannot read {error.filename or root}: {error.strerror}") from error
    return _documents(root, files, split, text_field, id_field)


def _documents(
    root: Path, files: list[Path], split: Split, text_field: str, id_field: str
) -> Iterator[Document]:
    for path in files:
        name = path.name if path == root else path.relative_to(root).as_posix()
        try:
            kind = path.suffix.lower()
            if kind == ".jsonl":
                yield from _jsonl(path, name, text_field, id_field)
            elif kind == ".csv":
                yield from _csv(path, name, text_field, id_field)
            else:
                yield from _text(path, name, split)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error


def _files(root: Path) -> Iterator[Path]:
    known = {".txt", ".md", ".jsonl", ".csv"}
    # A link that leads nowhere is there, but cannot be read: stat says why.
    if not os.path.lexists(root):
        raise InputError(f"there is no file or folder {root}")
    if not stat.S_ISDIR(root.stat().st_mode):
        if root.suffix.lower() not in known:
            raise InputError(
                f"{root} is of no known kind; known are {', '.join(sorted(known))}, and folders"
            )
        yield root
        return
    found: list[Path] = []
    # A folder that cannot be listed is an error: its documents would be missing silently.
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += (
            Path(folder, name)
            for name in names
            # What a job wrote beside its output is not an input.
            if not name.startswith(".") and not name.endswith(".index.jsonl")
        )
    found = sorted(path for path in found if path.suffix.lower() in known)
    if not found:
        raise InputError(f"{root} holds no file of a known kind: {', '.join(sorted(known))}")
    yield from found


def _raise(error: OSError) -> None:
    raise error


def _lines(path: Path) -> Iterator[str]:
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


def _text(path: Path, name: str, split: Split) -> Iterator[Document]:
    if split == "file":
        text = "".join(_lines(path))
        if text.strip():
            yield Document(name, text)
        return
    number = 0
    piece: list[str] = []
    for line in _lines(path):
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


def _jsonl(path: Path, name: str, text_field: str, id_field: str) -> Iterator[Document]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{where} is not a JSON object")
        yield _record(dict(record), where, f"{name}#{number}", text_field, id_field)  # pyright: ignore[reportUnknownArgumentType]


def _csv(path: Path, name: str, text_field: str, id_field: str) -> Iterator[Document]:
    # The default of 128 KB is less than a long document.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for number, record in enumerate(reader, 1):
            where = f"{path}, line {reader.line_num}"
            if None in record:
                raise InputError(f"{where} has more fields than the header names")
            yield _record(dict(record), where, f"{name}#{number}", text_field, id_field)
    except csv.Error as error:
        # It counts the lines of the records before: a quote left open is where its record begins.
        raise InputError(f"{path}, line {reader.line_num + 1}: {error}") from error


def _record(
    record: dict[str, Any], where: str, default_id: str, text_field: str, id_field: str
) -> Document:
    text = record.pop(text_field, None)
    if not isinstance(text, str):
        there = ", ".join(map(repr, record)) or "none"
        raise InputError(
            f"{where}: no text in field {text_field!r} (others there: {there}); name the field "
            "that holds it with text_field"
        )
    given = record.pop(id_field, None)
    return Document(default_id if given is None or given == "" else str(given), text, record)
