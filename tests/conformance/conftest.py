"""Collects the matrix of chat cases and providers: `--matrix` prints it, `--page` writes it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from conformance.chat_bench import CASES
from conformance.chat_providers import ENTRIES
from conformance.matrix import PAGE, merged, table
from tollway.bridge import run_sync

COLUMNS: list[str] = []
ROWS: dict[str, dict[str, str]] = {}
MARKS = {"passed": "✓", "failed": "✗"}


@pytest.fixture(autouse=True)
async def _litellm_s_connections():
    """Close what LiteLLM keeps open for the process, which no provider of ours may close."""
    yield
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        # In the loop of the synchronous calls, which sleeps otherwise; this one goes on anyway.
        run_sync(litellm.close_litellm_async_clients())
        litellm.in_memory_llm_clients_cache.flush_cache()
        await asyncio.sleep(0)


@pytest.fixture
def found():
    """Return the columns of this run and what was found by now."""
    return COLUMNS, ROWS


def pytest_collection_modifyitems(items):
    for item in items:
        if "litellm" in item.name:
            # What pydantic says of LiteLLM's own types.
            for kind in ("UserWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))
    # The page is compared with what all the others found.
    items.sort(key=lambda item: item.name.startswith("test_the_page"))


def pytest_addoption(parser):
    parser.addoption("--matrix", action="store_true", help="print the table of providers and cases")
    parser.addoption("--page", action="store_true", help="write it into docs/conformance.md")


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
    if not ROWS:
        return
    if config.getoption("--matrix", None):
        terminalreporter.write_line(table(COLUMNS, ROWS))
    if config.getoption("--page", None):
        text = PAGE.read_text() if PAGE.exists() else ""
        entries = [entry for entry in ENTRIES if entry.name in COLUMNS]
        PAGE.write_text(merged(text, entries, [case.name for case in CASES], ROWS))
