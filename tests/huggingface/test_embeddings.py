"""Embeddings in this process, on a tiny model of sentence-transformers with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import sentence_transformers
import torch

from huggingface import tiny
from tollway import Embedder
from tollway.errors import BadRequestError, NotFoundError

TEXTS = ["sunny", "비가 와요 🦊", "snow and rain", "sunny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.embedding_model(tmp_path_factory.mktemp("embedding"))


@pytest.fixture(scope="module")
def model(folder):
    return sentence_transformers.SentenceTransformer(folder, device="cpu")


async def test_vectors_are_the_library_s_own(folder, model):
    async with Embedder(f"huggingface/{folder}", device="cpu") as embedder:
        vectors = await embedder.embed(TEXTS)
        query = await embedder.embed_query("sunny")
    assert (vectors.shape, vectors.dtype) == ((4, 16), np.float32)
    np.testing.assert_allclose(vectors, model.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(query, model.encode_query("sunny"), atol=1e-5)
    # The model's own prompt stands before a query.
    assert not np.allclose(query, vectors[0], atol=1e-3)


async def test_shorter_vectors_are_the_first_values(folder, model):
    async with Embedder(f"huggingface/{folder}", device="cpu", dimensions=8) as embedder:
        vectors = await embedder.embed(TEXTS)
    assert vectors.shape == (4, 8)
    np.testing.assert_allclose(vectors, model.encode_document(TEXTS)[:, :8], atol=1e-5)


async def test_where_memory_does_not_suffice_fewer_are_computed_together(folder, monkeypatch):
    encode = sentence_transformers.SentenceTransformer.encode_document
    sizes = []

    def small(self, texts, batch_size, **options):
        sizes.append(batch_size)
        if batch_size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, texts, batch_size=batch_size, **options)

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode_document", small)
    async with Embedder(f"huggingface/{folder}", device="cpu") as embedder:
        assert np.isfinite(await embedder.embed(TEXTS)).all()
        assert sizes == [32, 16, 8, 4, 2]
        await embedder.embed(TEXTS)
        assert sizes[5:] == [2]


async def test_too_little_memory_for_one_text_is_said(folder, monkeypatch):
    def never(self, texts, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode_document", never)
    async with Embedder(f"huggingface/{folder}", device="cpu") as embedder:
        with pytest.raises(BadRequestError, match="not enough memory"):
            await embedder.embed(["sunny"])


async def test_a_missing_model_is_not_found(tmp_path):
    async with Embedder(f"huggingface/{tmp_path / 'nowhere'}") as embedder:
        with pytest.raises(NotFoundError, match="cannot be loaded"):
            await embedder.embed(["sunny"])
