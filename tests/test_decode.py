"""Decoding answers into rows, and the table of which row a text has."""

from __future__ import annotations

import base64
import hashlib
import json
import threading

import numpy as np
import pytest

from tollway import _core, errors


def encoded(row):
    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode()


def answer(*vectors, **more):
    data = [{"index": index, "embedding": vector} for index, vector in vectors]
    return json.dumps({"object": "list", "data": data, **more}).encode()


def test_rows_are_placed_by_index_in_either_form():
    body = answer((1, encoded([3, 4])), (0, [1, 2.5]), usage={"prompt_tokens": 5})
    decoded = _core.decode_embeddings(body, 2)
    assert decoded.vectors.dtype == np.float32
    assert decoded.vectors.flags.c_contiguous
    assert decoded.vectors.flags.writeable
    assert decoded.vectors.tolist() == [[1, 2.5], [3, 4]]
    assert (decoded.bad_rows, decoded.prompt_tokens) == ([], 5)
    assert repr(decoded) == "DecodedEmbeddings(vectors=(2, 2), bad_rows=0, prompt_tokens=5)"


def test_bad_rows_are_nan_and_named_and_the_others_right():
    body = answer(
        (0, encoded([1, 2])), (1, None), (2, [float("nan"), 0]), (3, [1]), (4, encoded([5, 6]))
    )
    decoded = _core.decode_embeddings(body, 6, 2)
    assert decoded.bad_rows == [
        (1, "null instead of a vector"),
        (2, "holds NaN or infinity"),
        (3, "dimension 1 instead of 2"),
        (5, "missing from the answer"),
    ]
    assert decoded.vectors[[0, 4]].tolist() == [[1, 2], [5, 6]]
    assert np.isnan(decoded.vectors[[1, 2, 3, 5]]).all()
    assert decoded.prompt_tokens is None


def test_without_a_usable_row_the_dimension_is_the_one_given_or_none():
    body = answer((0, None))
    assert _core.decode_embeddings(body, 1).vectors.shape == (1, 0)
    assert _core.decode_embeddings(body, 1, 3).vectors.shape == (1, 3)
    assert _core.decode_embeddings(answer(), 0).vectors.shape == (0, 0)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", "cut short after 0 bytes"),
        (answer((0, [1, 2]))[:-9], "cut short"),
        (b"<html>502 Bad Gateway</html>", "<html>502 Bad Gateway"),
        (b'{"object": "list"}', "no data"),
        (answer((0, [1]), (1, [1]), (2, [1])), "more rows than the 2 texts"),
        (answer((7, [1])), "index"),
        (b'{"error": {"message": "model is loading", "code": 7}}', "error: model is loading"),
        (b"\xff\xfe\x00", "at byte 0"),
    ],
)
def test_what_is_no_answer_is_said(body, found):
    with pytest.raises(errors.BadResponseError, match=found) as caught:
        _core.decode_embeddings(body, 2)
    assert caught.value.retryable


def test_an_error_shows_at_most_200_characters_of_the_body():
    for body in (b'{"error": "' + b"x" * 10_000 + b'"}', b"x" * 10_000):
        with pytest.raises(errors.BadResponseError) as caught:
            _core.decode_embeddings(body, 2)
        assert 100 <= str(caught.value).count("x") <= 201


@pytest.mark.parametrize("size", [(2**62, 2**10), (2**40, 2**20), (2**62, None)])
def test_an_impossible_size_is_an_error_and_not_a_crash(size):
    with pytest.raises(errors.BadResponseError, match="no room"):
        _core.decode_embeddings(answer((0, [1])), *size)


def test_dimension_0_is_the_callers_mistake():
    with pytest.raises(errors.ConfigurationError, match="dimensions=0"):
        _core.decode_embeddings(answer((0, [1])), 1, 0)


def digests(count, start=0):
    return [hashlib.blake2b(b"%d" % n, digest_size=16).digest() for n in range(start, count)]


def test_new_digests_are_numbered_in_order():
    table = _core.RowTable()
    a, b, c = digests(3)
    rows, new = table.insert_new([a, b, a, c])
    assert (rows.tolist(), new.tolist()) == ([0, 1, 0, 2], [True, True, False, True])
    assert (rows.dtype, new.dtype) == (np.int64, np.bool_)
    rows, new = table.insert_new([c, *digests(5, 4)])
    assert (rows.tolist(), new.tolist()) == ([2, 3], [False, True])
    assert len(table) == 4
    assert a in table
    assert digests(10, 9)[0] not in table
    assert table.get_batch([b, digests(10, 9)[0]]).tolist() == [1, -1]


def test_any_number_can_be_given_to_a_digest():
    table = _core.RowTable()
    a, b = digests(2)
    assert table.insert(a, 2**32 - 2) is None
    assert table.insert(a, 5) == 2**32 - 2
    assert (table.get(a), table.get(b)) == (5, None)
    with pytest.raises(errors.ConfigurationError, match="4294967295"):
        table.insert(b, 2**32 - 1)


@pytest.mark.parametrize("digest", [b"", b"x" * 15, b"x" * 17])
def test_a_digest_has_16_bytes(digest):
    table = _core.RowTable()
    calls = (
        table.get,
        lambda it: table.insert(it, 1),
        lambda it: table.insert_new([b"x" * 16, it]),
        lambda it: table.get_batch([it]),
    )
    for call in calls:
        with pytest.raises(errors.ConfigurationError, match=f"this one {len(digest)}"):
            call(digest)
    assert len(table) == 0


def test_an_entry_takes_at_most_22_bytes():
    table = _core.RowTable()
    table.insert_new(digests(100_000))
    assert 16 * 100_000 < table.nbytes <= 22 * 100_000


def test_threads_share_a_table():
    table = _core.RowTable()
    texts = digests(20_000)
    found = []

    def insert():
        rows, new = table.insert_new(texts)
        found.append((rows.tolist(), int(new.sum())))

    threads = [threading.Thread(target=insert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new for _, new in found) == 20_000
    assert all(rows == found[0][0] for rows, _ in found)
