"""Every chat provider through its official SDK against the simulator: the same cases for each."""

from __future__ import annotations

import pytest

import conformance.chat_cases
import conformance.chat_cases_errors  # noqa: F401 - both add their cases
from conformance import matrix
from conformance.chat_bench import CASES, Bench
from conformance.chat_providers import ENTRIES, FAST
from tollway.errors import ConfigurationError
from tollway.simulator import Simulator


@pytest.fixture(scope="module", params=ENTRIES, ids=lambda entry: entry.name)
def served(request):
    entry = request.param
    with Simulator(**entry.simulator) as sim:
        yield entry, sim


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_chat(served, case, record_property):
    entry, sim = served
    async with entry.make(sim, retry=FAST) as llm:
        capabilities = llm.provider.capabilities
        missing = case.needs - capabilities.features - capabilities.parameters
        record_property("provider", entry.name)
        record_property("case", case.name)
        if case.name in entry.lacks or (missing and not case.refused):
            # Declared: by the capabilities, or with a reason in the table.
            record_property("outcome", "*none*")
            return
        bench = Bench(entry, sim, llm)
        if missing:
            record_property("outcome", "*refused*")
            sent = len(sim.ledger)
            with pytest.raises(ConfigurationError):
                await case.run(bench)
            assert len(sim.ledger) == sent
            return
        await case.run(bench)


def test_nothing_is_declared_that_is_no_case():
    for entry in ENTRIES:
        assert entry.lacks.keys() <= {case.name for case in CASES}


def test_the_page_of_the_matrix_is_what_was_found(found, request):
    """Compared for the providers that ran: without LiteLLM that is a part."""
    if request.config.getoption("--page"):
        pytest.skip("it is being written")
    columns, rows = found
    text = matrix.PAGE.read_text()
    assert list(matrix.read(text)[1]) == [case.name for case in CASES]
    # What an endpoint refused in one case shows in later ones: part of a column tells nothing.
    whole = [
        column
        for column in columns
        if sum(column in marks for marks in rows.values()) == len(CASES)
    ]
    wrong = matrix.stale(text, whole, rows)
    assert not wrong, "run make conformance: " + "; ".join(wrong[:5])
