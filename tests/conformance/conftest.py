"""Prints the matrix of chat cases and providers: `pytest tests/conformance --matrix`."""

from __future__ import annotations

from pathlib import Path

COLUMNS: list[str] = []
ROWS: dict[str, dict[str, str]] = {}
MARKS = {"passed": "✓", "failed": "✗"}


def pytest_addoption(parser):
    parser.addoption(
        "--matrix",
        nargs="?",
        const="-",
        help="print the table of providers and cases, or write it into this file",
    )


def pytest_runtest_logreport(report):
    told = dict(report.user_properties)
    if report.when != "call" or "case" not in told:
        return
    if told["provider"] not in COLUMNS:
        COLUMNS.append(told["provider"])
    mark = MARKS.get(report.outcome, "?")
    if report.passed and told.get("outcome"):
        mark = told["outcome"]
    ROWS.setdefault(told["case"], {})[told["provider"]] = mark


def pytest_terminal_summary(terminalreporter, config):
    target = config.getoption("--matrix", None)
    if not target or not ROWS:
        return
    lines = [f"| case | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, marks in ROWS.items():
        cells = " | ".join(marks.get(column, "") for column in COLUMNS)
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    if target == "-":
        terminalreporter.write_line("\n".join(lines))
    else:
        Path(target).write_text("\n".join(lines) + "\n")
