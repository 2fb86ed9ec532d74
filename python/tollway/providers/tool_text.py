"""Calls of tools that a model writes into its text, as open models do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from tollway.types import ToolCall

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = ["calls_in"]

# Hermes and Qwen; Mistral; Llama 3; or a text that is nothing else.
_MARK = re.compile(r"<tool_call>\s*|\[TOOL_CALLS\]\s*|<\|python_tag\|>\s*|\A\s*(?=[\[{])")
_CLOSE = re.compile(r"\s*</tool_call>")


def calls_in(text: str, names: AbstractSet[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """Return a text without the calls in it, and the calls.

    Args:
        text: What the model wrote.
        names: Of the tools; what calls another is text.
    """
    decoder = json.JSONDecoder()
    kept: list[str] = []
    calls: list[ToolCall] = []
    done = 0
    for mark in _MARK.finditer(text):
        if mark.start() < done:
            continue
        try:
            value, end = decoder.raw_decode(text, mark.end())
        except (ValueError, RecursionError):
            continue
        found = _calls(value, names, len(calls))
        if not found:
            continue
        calls += found
        kept.append(text[done : mark.start()])
        close = _CLOSE.match(text, end)
        done = close.end() if close else end
    return "".join([*kept, text[done:]]), tuple(calls)


def _calls(value: Any, names: AbstractSet[str], before: int) -> list[ToolCall]:
    """Return the calls that a JSON value is; none where any part of it is something else."""
    calls: list[ToolCall] = []
    for item in value if isinstance(value, list) else [value]:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(item, dict):
            return []
        members = cast("dict[str, Any]", item)
        arguments = members.get("arguments", members.get("parameters"))
        if members.get("name") not in names or not isinstance(arguments, dict):
            return []
        number = before + len(calls)
        given = members.get("id") or f"call_{number}"
        written = json.dumps(arguments, ensure_ascii=False)
        calls.append(ToolCall(str(given), str(members["name"]), written))
    return calls
