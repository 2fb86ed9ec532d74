"""Functions of the user's own that embed: rows placed and checked as all others."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from function_fakes import embedder_of, refusal
from tollway import Limits
from tollway.embed import embed_job_async
from tollway.errors import ConfigurationError, ProviderError


def vectors_of(texts):
    return np.array([[len(text), 1.0, 0.5] for text in texts], dtype=np.float64)


async def asynchronous(texts):
    return vectors_of(texts).tolist()


async def as_array(texts):
    return vectors_of(texts)


TEXTS = ["a", "bb", "a", "dddd"]


@pytest.mark.parametrize("function", [vectors_of, asynchronous, as_array])
async def test_vectors_of_a_function(function):
    embedder = embedder_of(function)
    vectors = await embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, vectors_of(TEXTS).astype(np.float32))
    assert embedder.dimensions == 3
    assert np.array_equal(embedder.embed_sync(TEXTS), vectors)


async def test_rows_of_a_lambda_are_kept_under_a_name_that_is_given(tmp_path):
    """Else the rows of one would be taken for those of another."""
    output = tmp_path / "vectors.npy"
    with pytest.raises(ConfigurationError, match="lambda"):
        await embed_job_async(TEXTS, output, embedder_of(lambda texts: -vectors_of(texts)))
    named = embedder_of(lambda texts: -vectors_of(texts), "mine/first")
    assert (await embed_job_async(TEXTS, output, named)).requests == 1
    assert np.array_equal(np.load(output), -vectors_of(TEXTS).astype(np.float32))


async def test_the_functions_own_array_is_not_shared():
    kept = np.ones((1, 3), np.float32)
    vectors = await embedder_of(lambda texts: kept, normalize=True).embed(["a"])
    assert np.array_equal(kept, np.ones((1, 3), np.float32))
    kept[:] = 7
    assert vectors.max() < 1


async def test_a_function_that_is_cancelled_from_within_loses_no_row():
    calls = []

    async def function(texts):
        calls.append(texts)
        if len(calls) == 2:
            raise asyncio.CancelledError
        return vectors_of(texts)

    texts = ["a" * n for n in range(1, 9)]
    vectors = await embedder_of(function, batch_size=2).embed(texts)
    assert np.array_equal(vectors, vectors_of(texts).astype(np.float32))
    assert len(calls) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        [[1.0, 2.0]],
        np.ones((3, 2)),
        np.ones(2),
        np.ones((2, 0)),
        None,
        [["x", "y"], ["z", "w"]],
        [[1.0, 2.0, 3.0], [1.0, 2.0]],
        [None, None],
        [[1.0, float("nan")], [1.0, 2.0]],
        np.array([[1.0, np.nan], [1.0, 2.0]]),
        [None, [1.0, 2.0]],
    ],
    ids=str,
)
async def test_rows_of_no_use_are_asked_for_again(wrong):
    answers = [wrong, np.array([[1.0, 2.0]] * 2)]

    def function(texts):
        answer = answers.pop(0)
        return answer[: len(texts)] if not answers else answer

    vectors = await embedder_of(function, dimensions=2).embed(["a", "b"])
    assert np.array_equal(vectors, [[1.0, 2.0]] * 2)
    assert answers == []


@pytest.mark.parametrize("as_lists", [True, False])
async def test_vectors_of_a_wrong_length_are_not_asked_for_again(as_lists, tmp_path):
    calls, one = [], Limits(max_in_flight=1)

    def function(texts):
        calls.append(len(texts))
        rows = np.ones((len(texts), 2 if len(calls) < 3 else 4))
        return rows.tolist() if as_lists else rows

    with pytest.raises(ProviderError, match="of dimension 2 instead of 3; give the dimensions"):
        await embedder_of(function, dimensions=3, limits=one).embed(["a", "b"])
    assert calls == [2]
    # Without a length that is given, that of the first answer holds.
    embedder = embedder_of(function, batch_size=1, limits=one)
    with pytest.raises(ProviderError, match="answered with 4 dimensions, before with 2"):
        await embedder.embed(["a", "b"])
    assert calls == [2, 1, 1]
    # Nor in a job, where rows from before show that the texts may be what is wrong.
    output = tmp_path / "vectors.npy"
    await embed_job_async(["a"], output, embedder_of(vectors_of))
    named = embedder_of(function, dimensions=3, model="function/vectors_of")
    with pytest.raises(ProviderError, match="of dimension 4 instead of 3"):
        await embed_job_async(["a", "b"], output, named)
    assert calls == [2, 1, 1, 2]


async def test_a_text_that_is_refused_is_found():
    def function(texts):
        if "bad" in texts:
            raise refusal(400)
        return vectors_of(texts)

    texts = ["a", "bad", "c", "d"]
    vectors = await embedder_of(function).embed(texts, on_error="nan")
    assert np.isnan(vectors).any(axis=1).tolist() == [False, True, False, False]


class EmbeddingFunc:
    """As LightRAG's: what a function says of itself."""

    embedding_dim = 3
    max_token_size = 5
    model_name = "small"
    supports_asymmetric = True

    def __init__(self):
        self.seen = []

    async def __call__(self, *args, **kwargs):
        self.seen.append((args[0], kwargs))
        return vectors_of(args[0])


async def test_what_lightrags_embedding_func_says_of_itself_holds():
    function = EmbeddingFunc()
    embedder = embedder_of(function)
    assert (embedder.dimensions, embedder.model) == (3, "function/small")
    await embedder.embed(["one two three four five six seven"])
    await embedder.embed_query("q")
    assert function.seen == [
        (["one two three four five"], {"context": "document"}),
        (["q"], {"context": "query"}),
    ]


async def test_a_named_model_of_embeddings_is_counted_and_paid():
    embedder = embedder_of(vectors_of, "openai/text-embedding-3-small", max_texts=2, batch_size=2)
    assert embedder.cost(1_000_000) == pytest.approx(0.02)
    assert embedder.model == "openai/text-embedding-3-small"
    assert embedder_of(vectors_of).cost(10) is None
