"""Calls of tools in answers of OpenAI's format, whose small print each server writes anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from tollway.types import ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CallReader"]


class CallReader:
    """Tells the calls of one answer apart, of a whole one or of one in pieces.

    By the format each has an index and an id. Some servers give all the same index, others none, or
    no id; and arguments that are an object where they should be its text.
    """

    def __init__(self) -> None:
        # The number and id of the call that goes on at an index.
        self._open: dict[Any, tuple[int, str | None]] = {}
        self._count = 0

    def read(self, given: object) -> Iterator[ToolCallDelta]:
        """Yield the calls in a list of them, or the pieces of calls."""
        for call in cast("list[object]", given) if isinstance(given, list) else ():
            if isinstance(call, dict):
                yield self._read(cast("dict[str, Any]", call))

    def _read(self, call: dict[str, Any]) -> ToolCallDelta:
        named: Any = call.get("function")
        function = cast("dict[str, Any]", named) if isinstance(named, dict) else {}
        index, own, name = call.get("index"), call.get("id") or None, function.get("name") or None
        number, known = self._open.get(index, (-1, None))
        # Every call has a name; some servers make up another id for each piece.
        is_another = bool(name and known and own and own != known)
        is_new = number < 0 or is_another or (index is None and name is not None)
        if is_new:
            number, known = self._count, None
            self._count += 1
        known = known or own
        self._open[index] = (number, known)
        named_so = known or (f"call_{number}" if is_new else None)
        return ToolCallDelta(number, named_so, name, _written(function.get("arguments")))


def _written(arguments: object) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json.dumps(arguments, ensure_ascii=False)
