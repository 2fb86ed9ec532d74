"""Prints the matrix of chat cases and providers: `pytest tests/conformance --matrix`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

COLUMNS: list[str] = []
ROWS: dict[str, dict[str, str]] = {}
MARKS = {"passed": "✓", "failed": "✗"}


@pytest.fixture(autouse=True)
async def _litellm_s_connections():
    """Close what LiteLLM keeps open for the process, which no provider of ours may close."""
    yield
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        await litellm.close_litellm_async_clients()
        litellm.in_memory_llm_clients_cache.flush_cache()


def pytest_collection_modifyitems(items):
    for item in items:
        if "litellm" in item.name:
            # What pydantic says of LiteLLM's own types.
            for kind in ("UserWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


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
