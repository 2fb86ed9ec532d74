"""The page docs/conformance.md: cases by providers, as the suite finds them.

LiteLLM runs by itself, with another SDK: a run replaces the columns that it has, and leaves the
others as they are.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
HEAD = """\
# What each provider can do

Every provider of completions runs through the same cases against the [simulator](simulator.md), by
its own SDK and over HTTP. `make conformance` runs them and writes this page; the suite fails where
the page says something else than it finds.

✓: it does. *refused*: the model has no such thing, and asking for it is a `ConfigurationError`
before anything is sent. *none*: the model has no such thing, or below is why it does not apply.

"""


def table(columns, rows):
    """Return the table; `rows` has the marks of a case by its name and by column."""
    lines = [f"| case | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, marks in rows.items():
        cells = " | ".join(marks.get(column, "") for column in columns)
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    return "\n".join(lines) + "\n"


def read(text):
    """Return the columns and rows of the table in a page."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    if not lines:
        return [], {}
    columns = lines[0][1:]
    rows = {
        line[0].replace(" ", "_"): dict(zip(columns, line[1:], strict=True)) for line in lines[2:]
    }
    return columns, rows


def merged(text, entries, names, found):
    """Return a page with what a run has found in place of what it said.

    Args:
        text: The page as it is.
        entries: Providers of the run, with what they lack.
        names: Of all cases, in their order.
        found: Marks by case and column.
    """
    columns, rows = read(text)
    own = [entry.name for entry in entries]
    columns += [column for column in own if column not in columns]
    marks = {name: {**rows.get(name, {}), **found.get(name, {})} for name in names if name in found}
    kept = [line for line in text.splitlines() if line.startswith("- *")]
    kept = [line for line in kept if line[3:].partition("*")[0] not in own]
    told = [
        f"- *{entry.name}*, {name.replace('_', ' ')}: {reason}."
        for entry in entries
        for name, reason in entry.lacks.items()
    ]
    reasons = "\n".join(sorted([*told, *kept], key=lambda line: columns.index(line.split("*")[1])))
    return f"{HEAD}{table(columns, marks)}\n{reasons}\n"


def stale(text, columns, found):
    """Return where a page says something else than was found, for these columns."""
    _, rows = read(text)
    return [
        f"{name}, {column}: {rows.get(name, {}).get(column)!r} on the page, found {marks[column]!r}"
        for name, marks in found.items()
        for column in columns
        if column in marks and rows.get(name, {}).get(column) != marks[column]
    ]
