"""Encodings as a user meets them: names, errors, batches, threads, hard inputs."""

from __future__ import annotations

import base64
import copy
import gc
import os
import pickle
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiktoken
from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING

from corpora import corpora
from oracle import NAMES, R50K_SHA256, oracle, ranks_of
from tollway.errors import ConfigurationError
from tollway.tokens import (
    Encoding,
    encoding_for_model,
    encoding_name_for_model,
    get_encoding,
    list_encoding_names,
)

# One encoding a pattern and vocabulary: the others differ in their special tokens alone.
DISTINCT = ("cl100k_base", "o200k_base", "p50k_base", "r50k_base")


def assert_same_ids(ours: list[int], theirs: list[int], what: str) -> None:
    """Compare without pytest's diff, which takes minutes on a million ids."""
    if ours != theirs:
        pairs = enumerate(zip(ours, theirs, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        pytest.fail(f"{what}: ids differ at {at}: {ours[at : at + 5]} not {theirs[at : at + 5]}")


def test_names_are_those_of_tiktoken() -> None:
    assert sorted(list_encoding_names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_encoding_describes_itself_as_tiktoken_does(name: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    for attribute in ("name", "n_vocab", "max_token_value", "eot_token", "special_tokens_set"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert repr(ours) == repr(theirs)


def test_gpt2_and_r50k_are_the_published_ranks() -> None:
    assert ranks_of("gpt2", R50K_SHA256) == ranks_of("r50k_base", R50K_SHA256)


@pytest.mark.parametrize("name", NAMES)
def test_every_id_decodes_as_tiktoken_decodes_it(name: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    holes = 0
    for token in range(ours.n_vocab + 2):
        try:
            expected = theirs.decode_single_token_bytes(token)
        except KeyError:
            holes += 1
            with pytest.raises(KeyError):
                ours.decode_single_token_bytes(token)
            with pytest.raises(KeyError, match=str(token)):
                ours.decode([token])
        else:
            assert ours.decode_single_token_bytes(token) == expected
            assert ours.encode_single_token(expected) == theirs.encode_single_token(expected)
    assert holes >= 2


@pytest.mark.parametrize("name", DISTINCT)
def test_corpora_have_the_ids_of_tiktoken(name: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    for title, text in corpora().items():
        ids = theirs.encode_ordinary(text)
        assert_same_ids(ours.encode_ordinary(text), ids, f"{title} with {name}")
        assert ours.count(text) == len(ids)
        pieces = [text[i : i + 997] for i in range(0, len(text), 997)]
        assert ours.count_batch(pieces).sum() == sum(ours.count(piece) for piece in pieces)


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base", "r50k_base"])
def test_every_character_is_of_tiktokens_class(name: str) -> None:
    ours, theirs = get_encoding(name), oracle(name)
    for start in range(0, 0x110000, 0x4000):
        points = (chr(code) for code in range(start, start + 0x4000) if not 0xD800 <= code < 0xE000)
        text = "".join(f"A{c}a {c}1{c}!{c}\n" for c in points)
        assert_same_ids(ours.encode_ordinary(text), theirs.encode_ordinary(text), hex(start))


def _adversarial(size: int) -> dict[str, str]:
    draw = random.Random(0)
    return {
        "letter": "a" * size,
        "spaces": " " * size,
        "spaces and a word": " " * size + "x",
        "newlines": "\n" * size,
        "mixed space": "".join(draw.choice(" \n\t\r") for _ in range(size)),
        "base64": base64.b64encode(draw.randbytes(size * 3 // 4)).decode(),
        "random letters": "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(size)),
        "emoji": "🙂" * (size // 4),
        "random hangul": "".join(chr(draw.randint(0xAC00, 0xD7A3)) for _ in range(size // 3)),
        "marks": "\u0301" * (size // 2),
        "capitals after a mark": "\u0301A" * (size // 3),
        "controls": "".join(chr(draw.randint(0, 31)) for _ in range(size)),
        "lone surrogates": "\ud800" * (size // 3),
        "digits": "7" * size,
        "punctuation": "=" * size,
        "apostrophes": "'" * size,
        "special token starts": "<|" * (size // 2),
    }


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("kind", list(_adversarial(8)))
def test_hard_inputs_end_with_the_ids_of_tiktoken(name: str, kind: str) -> None:
    text = _adversarial(100_000)[kind]
    ours = get_encoding(name)
    ids = ours.encode_ordinary(text)
    assert ours.count(text) == len(ids)
    assert ours.count(ours.truncate(text, 1000)) <= 1000
    try:
        theirs = oracle(name).encode_ordinary(text)
    except BaseException as error:  # its panics are no Exception
        if type(error).__name__ != "PanicException":
            raise
        readable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert ours.decode(ids) == readable
    else:
        assert_same_ids(ids, theirs, kind)


def test_time_grows_with_the_text_and_not_its_square() -> None:
    """A megabyte of one piece ends: squared, each would take hours."""
    encoding = get_encoding("o200k_base")
    for unit in ("a", " ", "뷁", "\n"):
        text = unit * (1_000_000 // len(unit.encode()))
        assert encoding.decode(encoding.encode_ordinary(text)) == text


def test_pickle_and_copy_give_the_same_object() -> None:
    encoding = get_encoding("o200k_base")
    assert pickle.loads(pickle.dumps(encoding)) is encoding
    assert copy.deepcopy(encoding) is encoding
    assert get_encoding("o200k_base") is encoding
    assert isinstance(encoding, Encoding)


@pytest.mark.parametrize(
    "call", ["count_batch", "encode_array", "encode_batch", "encode_ordinary_batch"]
)
def test_a_batch_names_what_is_wrong(call: str) -> None:
    method = getattr(get_encoding("cl100k_base"), call)
    with pytest.raises(TypeError, match="not one str"):
        method("hello")
    with pytest.raises(TypeError, match=r"texts\[2\] must be a str, not int"):
        method(["a", "b", 3])
    with pytest.raises(TypeError, match="not iterable"):
        method(7)


def test_truncate_batch_names_what_is_wrong() -> None:
    encoding = get_encoding("cl100k_base")
    with pytest.raises(TypeError, match="not one str"):
        encoding.truncate_batch("hello", 3)
    with pytest.raises(TypeError, match=r"texts\[0\] must be a str, not NoneType"):
        encoding.truncate_batch([None], 3)  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="-1"):
        encoding.truncate("hello", -1)
    with pytest.raises(ConfigurationError, match="-1"):
        encoding.truncate_batch(["hello"], -1)


def test_single_calls_take_str_alone() -> None:
    encoding = get_encoding("cl100k_base")
    for call in (encoding.count, encoding.encode, encoding.encode_ordinary):
        for wrong in (b"x", None, 3, ["x"]):
            with pytest.raises(TypeError):
                call(wrong)  # type: ignore[arg-type]


def test_results_are_arrays_of_fixed_width() -> None:
    encoding = get_encoding("o200k_base")
    counts = encoding.count_batch(["hello world", "", "한국어"])
    assert counts.dtype == np.int64
    assert counts.tolist() == [2, 0, encoding.count("한국어")]
    ids, offsets = encoding.encode_array(iter(["hello world", "", "x"]))
    assert (ids.dtype, offsets.dtype) == (np.uint32, np.int64)
    assert offsets.tolist() == [0, 2, 2, 3]
    assert encoding.decode(ids) == "hello worldx"
    assert encoding.count_batch([]).shape == (0,)
    empty, offsets = encoding.encode_array(())
    assert (empty.shape, offsets.tolist()) == ((0,), [0])


def test_ids_may_come_in_any_sequence() -> None:
    encoding = get_encoding("o200k_base")
    ids = encoding.encode("naïve café 한국어 🙂")
    for form in (ids, tuple(ids), iter(ids), np.array(ids), np.array(ids, dtype=np.uint32)[::1]):
        assert encoding.decode(form) == "naïve café 한국어 🙂"  # type: ignore[arg-type]
    strided = np.repeat(np.array(ids, dtype=np.uint32), 2)[::2]
    assert encoding.decode(strided) == "naïve café 한국어 🙂"
    for wrong in ([-1], [2**32], np.array([-1])):
        with pytest.raises(OverflowError):
            encoding.decode(wrong)


def test_decoding_follows_the_error_handler() -> None:
    encoding = get_encoding("o200k_base")
    half = encoding.encode("𓀀")[:1]
    assert encoding.decode(half) == oracle("o200k_base").decode(half)
    assert encoding.decode(half, errors="ignore") == ""
    with pytest.raises(UnicodeDecodeError):
        encoding.decode(half, errors="strict")
    with pytest.raises(LookupError, match="nonsense"):
        encoding.decode(half, errors="nonsense")


def test_unknown_tokens_and_bytes_are_key_errors() -> None:
    encoding = get_encoding("cl100k_base")
    assert encoding.encode_single_token("<|endofprompt|>") == 100276
    for unknown in ("hello world zz", b"\xff\xfe\xfd", ""):
        with pytest.raises(KeyError):
            encoding.encode_single_token(unknown)
    with pytest.raises(TypeError):
        encoding.encode_single_token(3)  # type: ignore[arg-type]


def test_special_tokens_are_text_where_tokens_are_counted() -> None:
    encoding = get_encoding("o200k_base")
    text = "a <|endoftext|> b"
    ordinary = encoding.encode_ordinary(text)
    assert encoding.count(text) == encoding.count_batch([text])[0] == len(ordinary) > 3
    assert encoding.encode_array([text])[0].tolist() == ordinary
    assert len(encoding.encode(text, allowed_special="all")) < len(ordinary)


def test_what_is_cut_is_the_beginning() -> None:
    encoding = get_encoding("o200k_base")
    for word in ("word ", "naïve ", "한국어 ", "🙂 words ", "\ud83d\ude42 ", "\ud800 x "):
        text = word * 5_000
        kept = encoding.truncate(text, 100)
        assert text.startswith(kept)
        assert 90 <= encoding.count(kept) <= 100
        assert encoding.truncate(kept, 100) is kept
        assert encoding.truncate(text, 10**9) is text
        assert encoding.truncate(text, 0) == ""
        assert [encoding.truncate(text, 100)] * 3 == encoding.truncate_batch([text] * 3, 100)


def test_cutting_a_long_text_reads_only_its_beginning() -> None:
    encoding = get_encoding("o200k_base")
    for word in ("word ", "한국어 "):
        short, long = word * 2_000, word * 400_000
        assert encoding.truncate(long, 64) == encoding.truncate(short, 64)


def test_the_callers_strings_are_left_as_they_were() -> None:
    encoding = get_encoding("o200k_base")
    for text in ("naïve " * 1000, "한국어 " * 1000, "🙂 " * 1000):
        size = sys.getsizeof(text)
        encoding.count(text)
        encoding.count_batch([text] * 20)
        encoding.truncate(text, 5)
        assert sys.getsizeof(text) == size


def test_str_subclasses_are_texts() -> None:
    class Text(str):
        __slots__ = ()

    encoding = get_encoding("o200k_base")
    text = Text("hello world 한국어")
    assert encoding.count(text) == encoding.count(str(text))
    assert encoding.count_batch([text, np.str_("x")]).tolist() == [encoding.count(text), 1]
    assert encoding.truncate(text, 100) is text
    assert encoding.truncate(text, 2) == "hello world"


def test_threads_share_an_encoding() -> None:
    encoding = get_encoding("o200k_base")
    texts = [f"text {i} 한국어 " * 50 for i in range(400)]
    expected = encoding.count_batch(texts).tolist()
    start = threading.Barrier(4)

    def count(_: int) -> list[int]:
        start.wait(timeout=30)
        return encoding.count_batch(texts).tolist()

    with ThreadPoolExecutor(4) as threads:
        assert all(found == expected for found in threads.map(count, range(4)))


def test_a_batch_survives_changes_by_another_thread() -> None:
    encoding = get_encoding("o200k_base")
    texts = [f"text {i} " * 200 for i in range(2000)]
    expected = encoding.count_batch(texts).tolist()
    done = threading.Event()

    def clear() -> None:
        while not done.is_set():
            shared[:] = shared[:]
        shared.clear()
        gc.collect()

    shared = list(texts)
    other = threading.Thread(target=clear)
    other.start()
    try:
        for _ in range(3):
            assert encoding.count_batch(shared).tolist() == expected
    finally:
        done.set()
        other.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_counts_with_threads_of_its_own() -> None:
    script = """
import os
from tollway.tokens import get_encoding
encoding = get_encoding("o200k_base")
texts = ["hello world " * 100] * 1000
expected = encoding.count_batch(texts).sum()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        same = encoding.count_batch(texts).sum() == expected
        if grandchild:
            same = same and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if same else 1)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
assert encoding.count_batch(texts).sum() == expected
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_import_and_count_need_no_numpy() -> None:
    script = """
import sys
import tollway.tokens
encoding = tollway.tokens.encoding_for_model("gpt-4o")
assert encoding.count("hello world") == 2
assert encoding.truncate("hello world again", 2) == "hello world"
assert encoding.decode(encoding.encode("hello")) == "hello"
assert "numpy" not in sys.modules and "httpx" not in sys.modules
assert len(encoding.count_batch(["hello"])) == 1
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    "model",
    [
        *MODEL_TO_ENCODING,
        *(f"{p}x" if p[-1] == "-" else f"{p}:x" for p in MODEL_PREFIX_TO_ENCODING),
    ],
)
def test_models_have_the_encoding_that_tiktoken_gives_them(model: str) -> None:
    expected = tiktoken.encoding_name_for_model(model)
    assert encoding_for_model(model).name == encoding_name_for_model(model) == expected


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/text-embedding-3-small", "cl100k_base"),
        ("azure/gpt-4o-mini", "o200k_base"),
        ("gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("gpt-4.1-nano-2025-04-14", "o200k_base"),
        ("gpt-5.1-codex", "o200k_base"),
        ("gpt-5-mini", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-pro", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-oss-120b", "o200k_harmony"),
        ("openai/gpt-oss-20b", "o200k_harmony"),
        ("code-davinci-002", "p50k_base"),
        ("code-davinci-edit-001", "p50k_edit"),
        ("ft:gpt-4o-mini:org::id", "o200k_base"),
        ("ft:babbage-002:org::id", "cl100k_base"),
    ],
)
def test_families_are_known_by_their_prefix(model: str, name: str) -> None:
    assert encoding_for_model(model).name == name


def test_an_unknown_model_is_an_error_that_helps() -> None:
    with pytest.raises(ConfigurationError, match=r"'text-embeding-3-smal'.*text-embedding-3"):
        encoding_for_model("text-embeding-3-smal")
    with pytest.raises(ConfigurationError, match="fallback"):
        encoding_for_model("claude-sonnet-4-5")
    assert encoding_for_model("claude-sonnet-4-5", fallback="o200k_base").name == "o200k_base"
    for near_miss in ("gpt-40", "o10", "gpt-4.7", "", "davinci-0022", "gpt-50"):
        with pytest.raises(ConfigurationError):
            encoding_for_model(near_miss)
    with pytest.raises(ConfigurationError, match="nonsense"):
        encoding_for_model("claude-sonnet-4-5", fallback="nonsense")


def test_an_unknown_encoding_is_an_error_that_helps() -> None:
    with pytest.raises(ConfigurationError, match=r"'cl100k'; nearest: cl100k_base"):
        get_encoding("cl100k")
