"""JSON in what models write: whole, in a fence, among words, or nearly right."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["JsonError", "read_json"]

_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null"}
# A text, a comment, a word or anything else: what is inside quotes is never taken for more.
_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|//[^\n]*|/\*.*?\*/|[A-Za-z_$][\w$]*|.', re.DOTALL
)
_CLOSES = {"{": "}", "[": "]"}
_OPENS = re.compile(r"[{\[]")


class JsonError(ValueError):
    """A text that holds no JSON of use; the message tells the model why."""


def read_json(text: str, check: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return the JSON value in a model's answer: the first that is what is wanted.

    In turn: the whole text; what is in a code fence; the objects and arrays among other words; and
    each of these with its usual mistakes mended (single quotes, comments, trailing commas, line
    breaks in a text, Python's True, False and None, keys without quotes).

    Args:
        text: The answer.
        check: Returns what a value is taken as; raises ValueError where it is not what is wanted.

    Raises:
        JsonError: There is none. One that is cut short is not completed: what is missing is not
            known.
    """
    candidates = [text.strip()]
    candidates += [found[1].strip() for found in _FENCE.finditer(text)]
    candidates += _balanced(text)
    problem, misfit = "it holds no JSON", ""
    for mend in (False, True):
        for candidate in filter(None, candidates):
            written = _mended(candidate) if mend else candidate
            try:
                value = json.loads(written, strict=not mend)
            except RecursionError:
                problem = "it is nested too deeply"
                continue
            except ValueError as error:
                problem = f"it is not valid JSON ({error})"
                continue
            try:
                return check(value)
            except RecursionError:
                misfit = misfit or "it is nested too deeply"
            except ValueError as error:
                misfit = misfit or str(error)[:1000]
    raise JsonError(misfit or problem)


def _balanced(text: str) -> Iterator[str]:
    """Yield the objects and arrays of a text, each to the bracket that closes it."""
    end: int | None = 0
    while end is not None and (begun := _OPENS.search(text, end)) is not None:
        end = _end(text, begun.start())
        if end is not None:
            yield text[begun.start() : end]


def _end(text: str, start: int) -> int | None:
    """Return where what opens at `start` is closed; None where it is cut short."""
    open_: list[str] = []
    for token in _TOKEN.finditer(text, start):
        mark = token[0]
        if mark in _CLOSES:
            open_.append(_CLOSES[mark])
        elif mark == open_[-1]:
            open_.pop()
            if not open_:
                return token.end()
    return None


def _mended(text: str) -> str:
    written: list[str] = []
    for token in _TOKEN.finditer(text):
        part = token[0]
        if part.startswith(("//", "/*")) and len(part) > 1:
            continue
        if part[0] == "'" and len(part) > 1:
            inner = part[1:-1].replace("\\'", "'").replace('"', '\\"')
            written.append(f'"{inner}"')
        elif part[0].isalpha() or part[0] in "_$":
            written.append(_word(part, text, token.end()))
        elif part in "}]":
            _drop_comma(written)
            written.append(part)
        else:
            written.append(part)
    return "".join(written)


def _word(word: str, text: str, end: int) -> str:
    """Return a word outside quotes as JSON has it: a literal, or a key that lacks its quotes."""
    if word in {"true", "false", "null", "e", "E"}:
        return word
    if word in _WORDS:
        return _WORDS[word]
    return json.dumps(word) if text[end:].lstrip().startswith(":") else word


def _drop_comma(written: list[str]) -> None:
    last = len(written) - 1
    while last >= 0 and written[last].isspace():
        last -= 1
    if last >= 0 and written[last] == ",":
        del written[last]
