"""Sync twins: each takes what its async function takes, and passes all of it on."""

from __future__ import annotations

import inspect

import pytest

from tollway import LLM, Embedder
from tollway.chat import items
from tollway.embed import job
from tollway.integrations.lightrag import keywords

TWINS = [
    (LLM, "available_sync", "available"),
    (LLM, "complete_sync", "complete"),
    (LLM, "map_sync", "map"),
    (LLM, "run_tools_sync", "run_tools"),
    (Embedder, "embed_sync", "embed"),
    (Embedder, "embed_query_sync", "embed_query"),
    (items, "batch_items_sync", "batch_items"),
    (job, "embed_job", "embed_job_async"),
    (keywords, "extract_keywords_sync", "extract_keywords"),
]


@pytest.mark.parametrize(("holder", "sync", "name"), TWINS, ids=[sync for _, sync, _ in TWINS])
def test_a_twin_takes_and_passes_on_all(monkeypatch, holder, sync, name):
    twin, signature = getattr(holder, sync), inspect.signature(getattr(holder, name))
    parameters = signature.parameters.values()
    taken = inspect.signature(twin).parameters.values()
    assert [(p.name, p.kind, p.default) for p in taken] == [
        (p.name, p.kind, p.default) for p in parameters
    ]

    async def record(*args, **kwargs):
        return signature.bind(*args, **kwargs).arguments

    monkeypatch.setattr(holder, name, record)
    given = {p.name: object() for p in parameters if p.kind is not p.VAR_KEYWORD}
    if isinstance(holder, type):
        given["self"] = object.__new__(holder)
    further = {"further": object()} if len(given) < len(parameters) else {}
    passed = twin(**given, **further)
    options = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    assert passed == {**given, **dict.fromkeys(options, further)}
