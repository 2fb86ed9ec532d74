"""Documents from files: what becomes a text, what its id is, and what each bad file is told."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.embed.sources import Document, read_documents
from tollway.errors import ConfigurationError, InputError


def texts(source, **reading):
    return [document.text for document in read_documents(source, **reading)]


def ids(source, **reading):
    return [document.id for document in read_documents(source, **reading)]


def fails(source, **reading):
    with pytest.raises(InputError) as caught:
        list(read_documents(source, **reading))
    # Though the error, which leads to where it was read, is still there.
    assert not held(source)
    return str(caught.value)


def held(source):
    """The open files of this process at a path or below it, where the system tells."""
    files, links = Path("/proc/self/fd"), []
    for file in files.iterdir() if files.is_dir() else ():
        with contextlib.suppress(OSError):
            links.append(str(file.readlink()))
    return [link for link in links if link.startswith(str(source))]


@pytest.fixture
def put(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


# Text


def test_a_file_is_one_text_paragraphs_or_lines(put):
    path = put("a.txt", "one\ntwo\n\n\n  three\n \t\nfour")
    assert texts(path) == ["one\ntwo\n\n\n  three\n \t\nfour"]
    assert texts(path, split="paragraph") == ["one\ntwo", "  three", "four"]
    assert texts(path, split="line") == ["one", "two", "  three", "four"]
    assert ids(path) == ["a.txt"]
    assert ids(path, split="line") == ["a.txt#1", "a.txt#2", "a.txt#3", "a.txt#4"]


def test_windows_line_ends_and_a_byte_order_mark(put):
    path = put("a.md", b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
    assert texts(path, split="paragraph") == ["one\r\ntwo", "three"]
    assert texts(path, split="line") == ["one", "two", "three"]
    assert texts(path) == ["one\r\ntwo\r\n\r\nthree\r\n"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=12))
def test_paragraphs_are_the_runs_of_lines_between_blank_ones(tmp_path_factory, lines):
    # A paragraph has only the line ends that are written here.
    lines = [line.replace("\n", " ") for line in lines]
    path = tmp_path_factory.mktemp("paragraphs") / "a.txt"
    path.write_bytes("\n".join(lines).encode())
    # A mark at the very beginning is the file's, not the text's.
    whole = "\n".join(lines).removeprefix("\ufeff")
    expected = []
    for blank, run in _runs(whole.split("\n")):
        if not blank:
            expected.append("\n".join(run).rstrip())
    assert texts(path, split="paragraph") == expected
    assert "".join(texts(path)) == (whole if whole.strip() else "")


def _runs(lines):
    run, blank = [], None
    for line in lines:
        now = not line.strip()
        if run and now != blank:
            yield blank, run
            run = []
        run.append(line)
        blank = now
    if run:
        yield blank, run


@pytest.mark.parametrize("split", ["file", "paragraph", "line"])
def test_a_blank_file_is_no_text(put, split):
    assert texts(put("a.txt", " \n\t\n"), split=split) == []


def test_an_unknown_split_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigurationError, match="file, paragraph, line, not 'word'"):
        read_documents(tmp_path / "missing.txt", split="word")


# Not UTF-8


@pytest.mark.parametrize("split", ["file", "paragraph", "line"])
@pytest.mark.parametrize(
    ("before", "bad"),
    [
        (b"", b"\xff\xfeh\x00"),
        (b"plain\n", b"caf\xe9\n"),
        ("한글 줄\n둘째 줄\n".encode(), b"\xed\xa0\x80"),
        (b"\xef\xbb\xbfmarked\n\xe2\x82\xac\n", b"\x80"),
        (b"\xef\xbb\xbf", b"\xe9"),
        (b"cut off: ", b"\xe2\x82"),
    ],
)
def test_a_byte_that_is_not_utf8_is_named_with_its_offset(put, split, before, bad):
    path = put("a.txt", before + bad)
    with pytest.raises(UnicodeDecodeError) as truth:
        (before + bad).decode()
    start = truth.value.start
    message = fails(path, split=split)
    assert f"{path} is not UTF-8: byte {(before + bad)[start]:#04x} at offset {start};" in message


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_named_with_the_right_offset(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "a.txt"
    path.write_bytes(content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError) as truth:
            content.decode()
        assert f"at offset {truth.value.start};" in fails(path)
    else:
        assert texts(path) == ([text] if text.strip() else [])


# Records


def test_records_keep_id_text_and_the_rest(put):
    lines = [
        {"id": 7, "text": "한글", "lang": "ko", "tags": ["a"]},
        {"text": "no id"},
        {"id": None, "text": "null id"},
    ]
    path = put("a.jsonl", "\n\n".join(json.dumps(line) for line in lines) + "\n")
    assert list(read_documents(path)) == [
        Document("7", "한글", {"lang": "ko", "tags": ["a"]}),
        Document("a.jsonl#3", "no id", {}),
        Document("a.jsonl#5", "null id", {}),
    ]


def test_fields_of_other_names(put):
    path = put("a.jsonl", b'\xef\xbb\xbf{"key": "k", "body": "b", "text": 3}\r\n')
    (document,) = read_documents(path, text_field="body", id_field="key")
    assert document == Document("k", "b", {"text": 3})


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"body": "x", "n": 1}', "line 2: no text in field 'text' (others there: 'body', 'n')"),
        ('{"text": null}', "line 2: no text in field 'text'"),
        ('{"text": 5}', "line 2: no text in field 'text'"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(put, line, what):
    path = put("a.jsonl", '{"text": "good"}\n' + line + "\n")
    assert f"{path}, {what}" in fails(path)


def test_csv_with_quotes_newlines_and_a_mark(put):
    path = put("a.csv", b'\xef\xbb\xbfid,text,lang\r\n1,"say ""hi""\r\nagain",en\r\n,plain,\r\n')
    assert list(read_documents(path)) == [
        Document("1", 'say "hi"\r\nagain', {"lang": "en"}),
        Document("a.csv#2", "plain", {"lang": ""}),
    ]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
                min_size=1,
                max_size=30,
            ),
        ),
        max_size=6,
    )
)
def test_what_csv_writes_is_read_back(tmp_path_factory, rows):
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("name", "text"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(written.getvalue().encode())
    read = [(document.metadata["name"], document.text) for document in read_documents(path)]
    assert read == rows


def test_a_field_longer_than_the_csv_modules_default(put):
    path = put("a.csv", "text\n" + "x" * 200_000 + "\n")
    assert texts(path) == ["x" * 200_000]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("a,b,c\n", "line 3 has more fields than the header names"),
        ("1\n", "line 3: no text in field 'text'"),
        ('1,"open\n', "line 3: unexpected end of data"),
        ('1,"a"b\n', "line 3: ',' expected after '\"'"),
    ],
)
def test_a_bad_row_of_csv_is_named_with_its_line(put, rows, what):
    path = put("a.csv", "id,text\n0,good\n" + rows)
    assert f"{path}, {what}" in fails(path)


def test_csv_without_the_column(put):
    assert "no text in field 'text' (others there: 'id', 'body')" in fails(
        put("a.csv", "id,body\n1,x\n")
    )


# Folders


def test_a_folder_is_read_by_path_without_what_is_hidden_or_written_by_a_job(put, tmp_path):
    for name in (
        "b.txt",
        "a/z.md",
        "a/notes.v1.TXT",
        "a.d/c.txt",
        ".hidden.txt",
        ".git/config.txt",
        "a/.cache/x.txt",
        "a/picture.png",
        "vectors.npy",
        "vectors.npy.job/vectors",
        "vectors.npy.job/batches/000001.jsonl",
        "a/vectors.parquet.job/batches/000001.jsonl",
        "my.job/d.txt",
    ):
        put(name, name)
    put("vectors.index.jsonl", '{"row": 0, "id": "b.txt"}\n')
    put("c.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    put("folder.txt/inner.md", "a folder may have the name of a file")
    assert ids(tmp_path) == [
        "a/notes.v1.TXT",
        "a/z.md",
        "a.d/c.txt",
        "b.txt",
        "c.jsonl#1",
        "c.jsonl#2",
        "folder.txt/inner.md",
        "my.job/d.txt",
    ]


def test_an_input_below_a_hidden_folder_is_not_hidden(put):
    assert ids(put(".private/docs/a.txt", "text").parent) == ["a.txt"]


def test_what_is_missing_or_of_no_known_kind(put, tmp_path):
    assert "there is no file or folder" in fails(tmp_path / "missing.txt")
    assert "holds no file of a known kind: .csv, .jsonl, .md, .parquet, .txt" in fails(tmp_path)
    assert "is of no known kind" in fails(put("a.pdf", b"%PDF"))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_a_link_that_leads_nowhere(tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "gone.txt")
    assert re.search(r"cannot read .*link.txt: No such file", fails(link))
    assert re.search(r"cannot read .*link.txt: No such file", fails(tmp_path))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "cannot read" in fails(loop)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(put, tmp_path, monkeypatch):
    put("open/a.txt", "a")
    closed = put("closed/b.txt", "b").parent
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"cannot read {closed}: Permission denied" in fails(tmp_path)
