"""How long does an embeddings answer take to become an array, beside json and numpy?

Run: `pytest benches/python/bench_decode.py --benchmark-group-by=group`
"""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from tollway import _core

ROWS, DIMENSION = 128, 1_536


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(1).standard_normal((ROWS, DIMENSION), dtype=np.float32)


def answer(matrix, form):
    def vector(row):
        return base64.b64encode(row.tobytes()).decode() if form == "base64" else row.tolist()

    data = [
        {"object": "embedding", "index": index, "embedding": vector(row)}
        for index, row in enumerate(matrix)
    ]
    return json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 9}}).encode()


def with_tollway(body):
    return _core.decode_embeddings(body, ROWS).vectors


def with_json_and_numpy(body):
    rows = np.empty((ROWS, DIMENSION), dtype=np.float32)
    for item in json.loads(body)["data"]:
        vector = item["embedding"]
        if isinstance(vector, str):
            vector = np.frombuffer(base64.b64decode(vector), dtype=np.float32)
        rows[item["index"]] = vector
    return rows


@pytest.mark.parametrize("decode", [with_tollway, with_json_and_numpy])
@pytest.mark.parametrize("form", ["base64", "floats"])
def test_decode_128_rows(benchmark, matrix, form, decode):
    benchmark.group = form
    body = answer(matrix, form)
    rows = benchmark(decode, body)
    assert rows.tobytes() == matrix.tobytes()
