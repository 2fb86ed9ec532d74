"""mode="batch": who takes it and in what form it is asked for, and what cannot be."""

from __future__ import annotations

import json
import logging

import pytest

from batch_fakes import FAST, PROMPTS, SOON, of, right, run, simulated
from tollway import LLM, BatchOptions
from tollway.errors import CheckpointError, ConfigurationError
from tollway.simulator import digest


async def test_checkpoints_are_of_all_modes(tmp_path):
    path = tmp_path / "answers.jsonl"
    async with simulated() as sim:
        assert right(PROMPTS[:5], await run(of(sim), PROMPTS[:5], checkpoint=path))
        llm = of(sim)
        outcomes = await llm.map(PROMPTS[:8], checkpoint=path)
        await llm.aclose()
        assert sum(outcome.resumed for outcome in outcomes) == 5
        outcomes = await run(of(sim), checkpoint=path)
        assert sum(outcome.resumed for outcome in outcomes) == 8
        assert right(PROMPTS, outcomes)


async def test_equal_prompts_are_told_apart(tmp_path):
    prompts = ["same", "same", "other", "same"]
    async with simulated() as sim:
        for checkpoint in (None, tmp_path / "answers.jsonl"):
            assert right(prompts, await run(of(sim), prompts, checkpoint=checkpoint))
        assert sim.ledger.answered_counts()[digest("same")] == 6


async def test_options_that_a_batch_cannot_hold():
    async with simulated() as sim:
        for option in ({"deadline": 3.0}, {"priority": 1}, {"extra_headers": {"x-a": "b"}}):
            with pytest.raises(ConfigurationError, match=next(iter(option))):
                await run(of(sim), **option)
        (empty,) = await run(of(sim), [""])
        assert isinstance(empty.error, ConfigurationError)
    for wrong in (
        {"poll": -1.0},
        {"settling": float("nan")},
        {"max_requests": 0},
        {"on_interrupt": "perhaps"},
    ):
        with pytest.raises(ConfigurationError):
            BatchOptions(**wrong)


async def test_azure_takes_batches_by_its_v1_api(monkeypatch):
    for name in ("OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    async with simulated() as sim:
        options = {
            "azure_endpoint": sim.base_url.removesuffix("/v1"),
            "api_key": "k",
            "base_model": "gpt-4o-mini",
            "retry": FAST,
        }
        assert right(PROMPTS, await run(LLM("azure/mine", **options)))
        old = LLM("azure/mine", api_version="2024-10-21", **options)
        with pytest.raises(ConfigurationError, match="v1 API"):
            await run(old)


def test_from_synchronous_code(tmp_path):
    with simulated() as sim:
        llm = of(sim)
        outcomes = llm.map_sync(
            PROMPTS, mode="batch", batch=SOON, checkpoint=tmp_path / "answers.jsonl"
        )
        llm.aclose_sync()
    assert right(PROMPTS, outcomes)


async def test_a_journal_that_is_none(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "answers.jsonl.batches"
    folder.mkdir()
    async with simulated() as sim:
        for content in ("{", '{"version": 99, "nonce": "", "model": "", "address": ""}'):
            (folder / "000001.json").write_text(content)
            with pytest.raises(CheckpointError):
                await run(of(sim), checkpoint=tmp_path / "answers.jsonl")
        (folder / "000001.json").unlink()
        # Requests that were never submitted count for nothing.
        (folder / "000007.jsonl").write_text(json.dumps({"a": "b"}))
        assert right(PROMPTS, await run(of(sim), checkpoint=tmp_path / "answers.jsonl"))
        assert not folder.exists()
