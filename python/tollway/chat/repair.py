"""JSON in what models write: whole, in a fence, among words, or nearly right."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["JsonError", "read_json"]

_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null"}
# What is inside quotes and comments is never taken for more.
_QUOTED = {'"': r'"(?:\\.|[^"\\])*"', "'": r"'(?:\\.|[^'\\])*'", "/*": r"/\*.*?\*/"}
_REST = (r"//[^\n]*", r"[A-Za-z_$][\w$]*", ".")
_COLON = re.compile(r"\s*:")
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
    problem, misfit = "it holds no JSON", ""
    for mend in (False, True):
        for candidate in _candidates(text):
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


def _candidates(text: str) -> Iterator[str]:
    """Yield what of a text may be JSON; most answers are as a whole, and read no further."""
    if whole := text.strip():
        yield whole
    for found in _FENCE.finditer(text):
        if inside := found[1].strip():
            yield inside
    yield from _balanced(text)


def _balanced(text: str) -> Iterator[str]:
    """Yield the objects and arrays of a text, each to the bracket that closes it."""
    end: int | None = 0
    kinds = [*_QUOTED]
    while end is not None and (begun := _OPENS.search(text, end)) is not None:
        end = _end(text, begun.start(), kinds)
        if end is not None:
            yield text[begun.start() : end]


def _end(text: str, start: int, kinds: list[str]) -> int | None:
    """Return where what opens at `start` is closed; None where it is cut short."""
    open_: list[str] = []
    for token in _tokens(text, start, kinds):
        mark = token[0]
        if mark in _CLOSES:
            open_.append(_CLOSES[mark])
        elif mark == open_[-1]:
            open_.pop()
            if not open_:
                return token.end()
    return None


def _tokens(text: str, start: int, kinds: list[str]) -> Iterator[re.Match[str]]:
    """Yield texts in quotes, comments, words, and every other character by itself.

    Args:
        text: To be read.
        start: Where to begin.
        kinds: Of `_QUOTED`, those to be looked for. One that is not closed is taken out, for none
            after it is: looked for again and again, all would take the square of its length.
    """
    while True:
        for token in _token(*kinds).finditer(text, start):
            yield token
            mark = token[0]
            mark = "/*" if mark == "/" and text.startswith("*", token.end()) else mark
            if mark in kinds:
                kinds.remove(mark)
                start = token.end()
                break
        else:
            return


@functools.cache
def _token(*kinds: str) -> re.Pattern[str]:
    return re.compile("|".join([*(_QUOTED[kind] for kind in kinds), *_REST]), re.DOTALL)


def _mended(text: str) -> str:
    written: list[str] = []
    for token in _tokens(text, 0, [*_QUOTED]):
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
    return json.dumps(word) if _COLON.match(text, end) else word


def _drop_comma(written: list[str]) -> None:
    last = len(written) - 1
    while last >= 0 and written[last].isspace():
        last -= 1
    if last >= 0 and written[last] == ",":
        del written[last]
