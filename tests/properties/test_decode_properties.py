"""Decoding: one result for every way to write an answer, and no bytes that break it."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway import _core, errors

SPACES = st.sampled_from(["", " ", "\n", "\t \r\n"])
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    values = draw(st.lists(floats, min_size=rows * columns, max_size=rows * columns))
    return np.array(values, dtype=np.float32).reshape(rows, columns)


def as_base64(row):
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


@st.composite
def answers(draw, vectors):
    """An answer with the given vectors: any order, form, order of keys, and white space."""
    data = []
    for index in draw(st.permutations(range(len(vectors)))):
        vector = vectors[index]
        if isinstance(vector, np.ndarray):
            vector = as_base64(vector) if draw(st.booleans()) else vector.tolist()
        item = {
            "index": index,
            "embedding": vector,
            "object": "embedding",
            "more": {"embedding": [None, {"index": [3]}], "]}": '"'},
        }
        data.append(dict(draw(st.permutations(list(item.items())))))
    usage = {"prompt_tokens": 11, "total_tokens": 12}
    members = {"data": data, "usage": usage, "model": "m", "error": None}
    body = dict(draw(st.permutations(list(members.items()))))
    separators = (f"{draw(SPACES)},{draw(SPACES)}", f"{draw(SPACES)}:{draw(SPACES)}")
    text = json.dumps(body, separators=separators, ensure_ascii=draw(st.booleans()))
    return (draw(SPACES) + text + draw(SPACES)).encode()


@given(st.data(), matrices(), st.booleans())
def test_every_way_to_write_an_answer_gives_the_same_bytes(data, matrix, known):
    body = data.draw(answers(list(matrix)))
    decoded = _core.decode_embeddings(body, len(matrix), matrix.shape[1] if known else None)
    assert decoded.bad_rows == []
    assert decoded.vectors.tobytes() == matrix.tobytes()
    assert decoded.prompt_tokens == 11


bad_vectors = st.sampled_from(
    [None, [], "", "====", "AAA", 7, {}, [[1.0]], [None], ["1"], [float("nan")], [float("inf")]]
)


@given(st.data(), matrices())
def test_every_bad_row_is_named_and_the_others_are_right(data, matrix):
    vectors = list(matrix)
    bad = data.draw(st.sets(st.integers(0, len(vectors) - 1)))
    for index in bad:
        vectors[index] = data.draw(bad_vectors)
    body = data.draw(answers(vectors))
    numbers = [vector for vector in vectors if str(vector) in {"[nan]", "[inf]"}]
    if len(numbers) == len(vectors) > 1 != matrix.shape[1]:
        with pytest.raises(errors.ProviderError, match=f"dimension 1 instead of {matrix.shape[1]}"):
            _core.decode_embeddings(body, len(vectors), matrix.shape[1])
        return
    decoded = _core.decode_embeddings(body, len(vectors), matrix.shape[1])
    assert {row for row, _ in decoded.bad_rows} == bad
    assert all(reason for _, reason in decoded.bad_rows)
    for index, row in enumerate(decoded.vectors):
        assert np.isnan(row).all() if index in bad else row.tobytes() == matrix[index].tobytes()


@given(st.data(), matrices(), st.integers(0, 8), st.none() | st.integers(1, 10))
def test_changed_bytes_give_rows_or_an_error(data, matrix, n, dimensions):
    body = bytearray(data.draw(answers(list(matrix))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[place] = data.draw(st.integers(0, 255))
        else:
            del body[place : place + data.draw(st.integers(0, 50))]
            body.append(32)
    try:
        decoded = _core.decode_embeddings(bytes(body), n, dimensions)
    except errors.ProviderError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        # Another attempt may bring another answer, but no vectors of another length.
        assert refusal.retryable != (f"instead of {dimensions}" in str(refusal))
        return
    assert len(decoded.vectors) == n
    bad = [row for row, _ in decoded.bad_rows]
    if decoded.vectors.shape[1]:
        assert np.flatnonzero(np.isnan(decoded.vectors).any(axis=1)).tolist() == bad


keys = st.binary(min_size=16, max_size=16) | st.sampled_from(
    [bytes(11) + b"%c" % n + b"tail" for n in b"abc"]
)


@given(st.lists(st.lists(keys, max_size=40), max_size=8))
def test_the_table_of_rows_is_a_dict(batches):
    # Of a digest 12 bytes count.
    table, reference = _core.RowTable(), {}
    for batch in batches:
        expected = []
        for key in (digest[:12] for digest in batch):
            new = key not in reference
            expected.append((reference.setdefault(key, len(reference)), new))
        rows, new = table.insert_new(batch)
        assert list(zip(rows.tolist(), new.tolist(), strict=True)) == expected
        assert len(table) == len(reference)
    for key, row in reference.items():
        assert table.get(key + b"any.") == row
