"""Any tokenizer.json, with the package `tokenizers` as the oracle."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from corpora import corpora
from token_texts import texts
from tollway.errors import ConfigurationError, InputError
from tollway.tokens import HuggingFaceTokenizer, count_messages

if TYPE_CHECKING:
    from pathlib import Path

SIDES = ("end", "start", "middle")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A byte-level BPE and a WordPiece tokenizer, trained here; both ask to truncate and pad."""
    folder = tmp_path_factory.mktemp("tokenizers")
    text = corpora()["english"][:200_000]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    )
    word = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    word.normalizer = normalizers.BertNormalizer()
    word.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    word.train_from_iterator(
        [text],
        trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special, show_progress=False),
    )
    word.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    paths = {}
    for name, tokenizer in (("bpe", bpe), ("word", word)):
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=64)
        paths[name] = folder / f"{name}.json"
        tokenizer.save(str(paths[name]))
    return paths


@pytest.mark.parametrize("name", ["bpe", "word"])
@pytest.mark.parametrize("special", [False, True])
def test_tokens_are_those_of_the_package(
    files: dict[str, Path], name: str, *, special: bool
) -> None:
    ours = HuggingFaceTokenizer(files[name], special_tokens=special)
    theirs = Tokenizer.from_file(str(files[name]))
    theirs.no_truncation()
    theirs.no_padding()
    batch = [*(text[:3000] for text in corpora().values()), "", "naïve 한국어 🙂"]
    for text in batch:
        ids = theirs.encode(text, add_special_tokens=special).ids
        assert ours.encode(text) == ids
        assert ours.count(text) == len(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert ours.encode_batch(batch) == [ours.encode(text) for text in batch]
    counts = ours.count_batch(iter(batch))
    assert counts.dtype == np.int64
    assert counts.tolist() == [ours.count(text) for text in batch]
    assert ours.count_batch([]).shape == (0,)


@settings(max_examples=300)
@given(
    text=texts,
    max_tokens=st.integers(2, 40),
    side=st.sampled_from(SIDES),
    marker=st.sampled_from(["", "…", " [cut] "]),
    options=st.sampled_from([("bpe", False), ("word", False), ("word", True)]),
)
def test_what_is_cut_fits(
    files: dict[str, Path],
    text: str,
    max_tokens: int,
    side: Any,
    marker: str,
    options: tuple[str, bool],
) -> None:
    name, special = options
    tokenizer = HuggingFaceTokenizer(files[name], special_tokens=special)
    kept = tokenizer.truncate(text, max_tokens, side, marker)
    assert tokenizer.count(kept) <= max_tokens
    assert (kept is text) == (tokenizer.count(text) <= max_tokens)


def test_each_side_keeps_its_end(files: dict[str, Path]) -> None:
    tokenizer = HuggingFaceTokenizer(files["bpe"])
    text = corpora()["english"][:5000]
    assert text.startswith(tokenizer.truncate(text, 50))
    assert text.endswith(tokenizer.truncate(text, 50, "start"))
    head, mark, tail = tokenizer.truncate(text, 50, "middle", "⸺").partition("⸺")
    assert mark
    assert text.startswith(head)
    assert text.endswith(tail)
    for side in SIDES:
        assert tokenizer.count(tokenizer.truncate(text, 50, side)) > 40
    assert tokenizer.truncate_batch([text, "x"], 50) == [tokenizer.truncate(text, 50), "x"]


def test_it_counts_messages(files: dict[str, Path]) -> None:
    tokenizer = HuggingFaceTokenizer(files["bpe"])
    count = count_messages([{"role": "user", "content": "hello"}], "llama", tokenizer=tokenizer)
    assert count == 3 + 3 + tokenizer.count("user") + tokenizer.count("hello")
    assert count.estimated


def test_wrong_calls_are_named(files: dict[str, Path]) -> None:
    tokenizer = HuggingFaceTokenizer(files["word"], special_tokens=True)
    with pytest.raises(ConfigurationError, match="2 or more, not 1"):
        tokenizer.truncate("hello", 1)
    with pytest.raises(ConfigurationError, match="'left'"):
        tokenizer.truncate("hello", 5, side="left")  # type: ignore[arg-type]
    for call in (tokenizer.count_batch, tokenizer.encode_batch):
        with pytest.raises(TypeError, match="not one str"):
            call("hello")
    with pytest.raises(TypeError, match="not one str"):
        tokenizer.truncate_batch("hello", 5)
    assert "word.json" in repr(tokenizer)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    with pytest.raises(InputError, match=r"cannot read .*missing\.json: No such file"):
        HuggingFaceTokenizer(missing)
    for number, content in enumerate([b"{", b"[]", json.dumps({"model": 3}).encode()]):
        path = tmp_path / f"bad{number}.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"bad{number}\.json is no tokenizer\.json"):
            HuggingFaceTokenizer(path)
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(InputError, match="not UTF-8: offset 7"):
        HuggingFaceTokenizer(path)


def test_the_package_is_imported_on_first_use_and_named_where_it_is_missing(
    tmp_path: Path,
) -> None:
    script = f"""
import sys
import tollway.tokens
from tollway.tokens import HuggingFaceTokenizer
assert "tokenizers" not in sys.modules
sys.modules["tokenizers"] = None
try:
    HuggingFaceTokenizer({str(tmp_path / "any.json")!r})
except tollway.errors.ConfigurationError as error:
    assert "pip install 'tollway[tokenizers]'" in str(error)
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert tokenizers.__version__
