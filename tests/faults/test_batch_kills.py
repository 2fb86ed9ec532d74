"""SIGKILL at every step of a run in batches: every answer is right, and paid for once."""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np
import pytest

from batch_runs import Runs
from tollway.simulator import BatchBehaviour, Simulator, digest, reply, vector

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

OPENAI, ANTHROPIC = "openai/gpt-4o", "anthropic/claude-haiku-4-5"
SMALL = "openai/text-embedding-3-small"
TEXTS = [f"text {i} of a run that is killed" for i in range(5)]
# Two batches, looked at as soon as can be.
OPTIONS = {"poll": 0.02, "longest_poll": 0.05, "settling": 0.25, "max_requests": 3}


@pytest.fixture(scope="module")
def runs():
    runs = Runs()
    yield runs
    runs.close()


class Case:
    """One run that is killed, and the one after it."""

    def __init__(self, runs, folder, model, sim, texts=TEXTS, **options):
        self.runs, self.sim, self.texts, self.folder = runs, sim, texts, folder
        folder.mkdir()
        is_embedding = "embedding" in model
        base_url = sim.base_url
        if model == ANTHROPIC:
            base_url = base_url.removesuffix("/v1")
        self.order = {
            "model": model,
            "base_url": base_url,
            "texts": texts,
            "output": str(folder / ("vectors.npy" if is_embedding else "answers.jsonl")),
            "result": str(folder / "result.json"),
            "folder": str(folder),
            "options": {**OPTIONS, **options},
        }

    def run(self, **kill):
        return self.runs.run(**self.order, **kill)

    def check(self, batches=None):
        """Everything is answered rightly, once, and nothing is left to be done."""
        assert not self.run()
        if "embedding" in self.order["model"]:
            vectors = np.load(self.order["output"])
            assert (vectors == np.stack([vector(text, 8) for text in self.texts])).all()
            assert not (self.folder / "vectors.npy.job" / "batches").exists()
        else:
            said = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
            assert said == [reply(("user", text)) for text in self.texts]
            assert not (self.folder / "answers.jsonl.batches").exists()
        self.sim._store.advance(to_the_end=True)
        counts = self.sim.ledger.answered_counts()
        assert counts == {digest(text): 1 for text in self.texts}
        if batches is not None:
            assert self.sim.batches == batches


def deadly(sim, number, *, after):
    """Have the simulator kill who sends request so-and-so, before or after doing what it asks."""
    handler, seen = sim._server._handler, 0

    async def handle(request):
        nonlocal seen
        seen += 1
        is_last = seen == number
        if is_last and not after:
            os.kill(int(request.headers["x-pid"]), signal.SIGKILL)
            return None
        response = await handler(request)
        if is_last:
            os.kill(int(request.headers["x-pid"]), signal.SIGKILL)
            return None
        return response

    sim._server._handler = handle


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, SMALL])
@pytest.mark.parametrize("after", [False, True], ids=["unheard", "unanswered"])
def test_killed_at_every_request(tmp_path, runs, model, after):
    number = 0
    while True:
        number += 1
        with Simulator(batches=BatchBehaviour(seconds=0.05)) as sim:
            case = Case(runs, tmp_path / str(number), model, sim)
            deadly(sim, number, after=after)
            if not case.run():
                break
            sim._server._handler = sim._answer
            case.check(batches=2)
    assert number > 6


@pytest.mark.parametrize(("model", "step"), [(OPENAI, 1), (ANTHROPIC, 4), (SMALL, 4)])
def test_killed_at_every_change_on_disk(tmp_path, runs, model, step):
    """The changes are the same for all: every one is tried with the first."""
    number = 1 - step
    while True:
        number += step
        with Simulator(batches=BatchBehaviour(seconds=0.05)) as sim:
            case = Case(runs, tmp_path / str(number), model, sim)
            if not case.run(kill_at_event=number):
                break
            case.check(batches=2)
    assert number > 20


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, SMALL])
def test_killed_while_answers_are_kept(tmp_path, runs, model):
    for number in range(1, len(TEXTS) + 1):
        with Simulator(batches=BatchBehaviour(seconds=0.05)) as sim:
            case = Case(runs, tmp_path / str(number), model, sim)
            # Rows are kept by the batch.
            assert case.run(kill_at_answer=number) or model == SMALL
            case.check(batches=2)


def test_killed_again_and_again(tmp_path, runs):
    """Each run gets one request further than the one before it."""
    with Simulator(batches=BatchBehaviour(seconds=0.05)) as sim:
        case = Case(runs, tmp_path / "one", OPENAI, sim)
        kills = 0
        for number in range(1, 24):
            sim._server._handler = sim._answer
            deadly(sim, 1 + number // 2, after=bool(number % 2))
            kills += case.run()
        sim._server._handler = sim._answer
        case.check(batches=2)
    assert kills >= 6


def test_a_list_that_is_behind(tmp_path, runs):
    """What was submitted when the process died may not be in the provider's list yet."""
    for model in (OPENAI, ANTHROPIC):
        with Simulator(batches=BatchBehaviour(seconds=0.05, hidden=0.5)) as sim:
            case = Case(runs, tmp_path / model.replace("/", "-"), model, sim, settling=3.0)
            deadly(sim, 2 if model == OPENAI else 1, after=True)
            assert case.run()
            assert sim.batches == 1
            sim._server._handler = sim._answer
            case.check(batches=2)


def test_strangers_of_the_same_size_are_told_apart(tmp_path, runs):
    """Anthropic's list names no batch as ours: the results do."""
    strangers = [f"a stranger's text {i}" for i in range(3)]
    with Simulator(batches=BatchBehaviour(seconds=0.3)) as sim:
        case = Case(runs, tmp_path / "ours", ANTHROPIC, sim, TEXTS[:3])
        deadly(sim, 1, after=True)
        assert case.run()
        sim._server._handler = sim._answer
        other = Case(runs, tmp_path / "theirs", ANTHROPIC, sim, strangers)
        deadly(sim, 2, after=False)
        assert other.run()
        sim._server._handler = sim._answer
        assert not case.run()
        assert not other.run()
        assert sim.batches == 2
        counts = sim.ledger.answered_counts()
    assert counts == {digest(text): 1 for text in [*TEXTS[:3], *strangers]}
