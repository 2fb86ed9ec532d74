"""What a job reads and writes beside files: iterables, Arrow, chunks, callbacks."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tollway
from tollway import Document, Embedder, Limits, embed_job, embed_stream, to_arrow
from tollway.embed import embed_job_async, embed_stream_sync, plan
from tollway.errors import CheckpointError, ConfigurationError, InputError
from tollway.simulator import Simulator, vector

MODEL = "openai/text-embedding-3-small"


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


@pytest.fixture
def output(tmp_path):
    return tmp_path / "vectors.npy"


def embedder_of(sim, **options):
    return Embedder(MODEL, base_url=sim.base_url, **{"api_key": "any", "dimensions": 8, **options})


def job(sim, source, output, *, options=None, **given):
    embedder = embedder_of(sim, **(options or {}))
    try:
        return embed_job(source, output, embedder, **given)
    finally:
        embedder.aclose_sync()


def right(texts):
    return np.stack([vector(text, 8) for text in texts])


def index_of(output):
    path = output.with_name(f"{output.stem}.index.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Iterables


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
async def test_an_async_iterable_is_read_as_needed(sim, output, count):
    async def texts():
        for i in range(count):
            await asyncio.sleep(0)
            yield f"t{i}" if i % 2 else Document(f"id{i}", f"t{i}", {"n": i})

    async with embedder_of(sim) as embedder:
        report = await embed_job_async(texts(), output, embedder)
    assert report.texts == count
    assert np.load(output).tobytes() == right([f"t{i}" for i in range(count)]).tobytes()
    assert index_of(output)[0] == {"row": 0, "id": "id0", "metadata": {"n": 0}}


async def test_a_source_that_fails_keeps_what_was_sent(sim, output):
    async def texts():
        for i in range(600):
            yield f"failing {i}"
        raise OSError("the source went away")

    async with embedder_of(sim) as embedder:
        with pytest.raises(OSError, match="went away"):
            await embed_job_async(texts(), output, embedder)
        report = await embed_job_async([f"failing {i}" for i in range(600)], output, embedder)
    assert report.reused >= 384


async def test_documents_are_drawn_only_as_requests_leave(sim, output):
    """With one request in flight, no more is read than a group beyond what was sent."""
    drawn, most = 0, 0
    with Simulator(latency=0.005) as sim:

        def texts():
            nonlocal drawn, most
            for i in range(3000):
                drawn += 1
                most = max(most, drawn - sum(record.inputs for record in sim.ledger))
                yield f"lazy {i}"

        async with embedder_of(sim, limits=Limits(max_in_flight=1)) as embedder:
            await embed_job_async(texts(), output, embedder)
    assert most <= 256 + 2 * 128 + 1


# Arrow and Parquet


def table(count=1000):
    return pa.table(
        {
            "id": [f"doc{i}" for i in range(count)],
            "text": [f"arrow {i}" for i in range(count)],
            "n": list(range(count)),
            "day": [dt.date(2026, 1, 1)] * count,
        }
    )


@pytest.mark.parametrize("form", ["table", "reader", "file", "folder"])
def test_arrow_in(sim, output, tmp_path, form):
    source = table()
    (tmp_path / "docs").mkdir()
    pq.write_table(source, tmp_path / "docs" / "a.parquet", row_group_size=300)
    given = {
        "table": source,
        "reader": source.to_reader(max_chunksize=77),
        "file": tmp_path / "docs" / "a.parquet",
        "folder": tmp_path / "docs",
    }[form]
    totals = set()
    report = job(sim, given, output, on_progress=lambda progress: totals.add(progress.total))
    assert report.texts == 1000
    assert totals == {None if form == "reader" else 1000}
    assert np.load(output).tobytes() == right([f"arrow {i}" for i in range(1000)]).tobytes()
    line = {"row": 7, "id": "doc7", "metadata": {"n": 7, "day": "2026-01-01"}}
    assert index_of(output)[7] == line


def test_arrow_with_fields_of_other_names(sim, output):
    source = pa.table({"key": [5, 6], "body": ["one", "two"]})
    job(sim, source, output, text_field="body", id_field="key")
    assert [line["id"] for line in index_of(output)] == ["5", "6"]
    with pytest.raises(InputError, match="row 0: no text in field 'text'"):
        job(sim, source, output)
    with pytest.raises(InputError, match="row 0: no text in field 'text'"):
        job(sim, pa.table({"text": pa.array([None], pa.string())}), output)


class Series:
    """A column that is an iterable of texts too, as those of pandas and polars are."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __iter__(self):
        return iter(self.texts)

    def __arrow_c_stream__(self, requested_schema=None):
        return pa.chunked_array([self.texts]).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("make", [Series, lambda texts: pa.chunked_array([texts]), pa.array])
def test_a_column_alone_is_of_texts(sim, output, make):
    totals = set()
    texts = [f"t{i}" for i in range(300)]
    job(sim, make(texts), output, on_progress=lambda progress: totals.add(progress.total))
    assert np.load(output).tobytes() == right(texts).tobytes()
    assert [line["id"] for line in index_of(output)] == [str(i) for i in range(300)]
    assert totals == {300}
    with pytest.raises(InputError, match="row 1: no text in field 'text'"):
        job(sim, make(["a", None]), output)


def test_what_is_no_parquet(sim, output, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"a\.parquet is not Parquet, or is damaged"):
        job(sim, tmp_path / "a.parquet", output)


@pytest.mark.parametrize("damage", ["text", "page"])
def test_a_damaged_parquet_is_named(tmp_path, damage):
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"text": ["some words"]}), path, **options)
    data = path.read_bytes()
    data = (
        data.replace(b"words", b"w\xffrds") if damage == "text" else data[:4] + b"\xff" + data[5:]
    )
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet is not Parquet, or is damaged: (?!None)."):
        list(tollway.embed.read_documents(path))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_out_is_what_npy_out_is(sim, tmp_path, output, dtype):
    documents = [
        Document("a", "one", {"이름": "값", "n": [1]}),
        Document("b", " "),
        Document("한", "셋"),
        *[Document(f"d{i}", f"text {i}") for i in range(12_000)],
    ]
    options = {"dtype": dtype, "batch_size": 2048}
    report = job(sim, documents, tmp_path / "vectors.parquet", options=options)
    assert [error.id for error in report.errors] == ["b"]
    job(sim, documents, output, options=options)
    read = pq.read_table(tmp_path / "vectors.parquet")
    assert read.schema.field("vector").type == pa.list_(
        pa.float16() if dtype == "float16" else pa.float32(), 8
    )
    assert read["id"].to_pylist() == [document.id for document in documents]
    assert read["chunk"].null_count == len(documents)
    assert json.loads(read["metadata"][0].as_py()) == {"이름": "값", "n": [1]}
    assert read["metadata"].null_count == len(documents) - 1
    rows = np.load(output)
    assert read["vector"].null_count == 1
    assert not read["vector"][1].is_valid
    there = [i for i in range(len(documents)) if i != 1]
    flat = read["vector"].combine_chunks().take(pa.array(there)).flatten().to_numpy()
    assert flat.tobytes() == rows[there].tobytes()
    assert not (tmp_path / "vectors.index.jsonl").exists() or output.exists()


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.parquet"])
def test_ids_that_are_numbers_are_written_as_text(sim, tmp_path, name):
    documents = [Document(7, "seven"), Document(8, " ")]
    assert [error.id for error in job(sim, documents, tmp_path / name).errors] == [8]
    if name == "vectors.npy":
        assert [line["id"] for line in index_of(tmp_path / name)] == ["7", "8"]
    else:
        assert pq.read_table(tmp_path / name)["id"].to_pylist() == ["7", "8"]


def test_metadata_that_is_no_json_is_named(sim, output):
    loop = {}
    loop["itself"] = loop
    for metadata in ({("a", "tuple"): 1}, loop):
        documents = [Document("a", "one"), Document("b", "two", metadata)]
        with pytest.raises(TypeError, match=r"^the metadata of 'b' is no JSON: "):
            job(sim, documents, output)


def test_parquet_of_texts_none_of_which_has_a_vector(tmp_path):
    """Not even their length is known then, and Arrow has no lists of a fixed size of nothing."""
    output = tmp_path / "vectors.parquet"
    embedder = Embedder(embedding_func=lambda texts: [[1.0]] * len(texts), model="mine/none")
    assert embed_job(["", " "], output, embedder).dimensions == 0
    assert pq.read_table(output)["vector"].to_pylist() == [None, None]
    assert to_arrow(np.zeros((2, 0), np.float16)).to_pylist() == [None, None]


@pytest.mark.parametrize(("name", "out"), [("a.parquet", "a.parquet"), ("a.index.jsonl", "a.npy")])
@pytest.mark.parametrize("by", ["itself", "link"])
def test_an_output_never_replaces_what_is_read(sim, tmp_path, name, out, by):
    source = read = tmp_path / name
    if source.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["one", "two"]}), source)
    else:
        source.write_text('{"text": "one"}\n')
    if by == "link":
        read = tmp_path / f"link{source.suffix}"
        read.symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(CheckpointError, match="is what is read, and would be replaced"):
        job(sim, read, tmp_path / out)
    assert source.read_bytes() == before
    assert not list(tmp_path.glob("*.job"))


def test_a_parquet_replaces_no_index(sim, tmp_path):
    source = tmp_path / "a.index.jsonl"
    source.write_text('{"text": "one"}\n')
    job(sim, source, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["id"].to_pylist() == ["a.index.jsonl#1"]
    assert source.read_text() == '{"text": "one"}\n'


async def test_two_outputs_of_one_stem_at_once(sim, tmp_path):
    """Each has a folder of its own; the index of one is not that of the other."""
    texts = [f"t{i}" for i in range(1500)]
    documents = [Document(text, text) for text in texts]
    npy, parquet = tmp_path / "vectors.npy", tmp_path / "vectors.parquet"
    async with embedder_of(sim, batch_size=8) as embedder:
        await asyncio.gather(
            embed_job_async(documents, npy, embedder),
            embed_job_async(documents[::-1], parquet, embedder),
        )
    assert [line["id"] for line in index_of(npy)] == texts
    assert pq.read_table(parquet)["id"].to_pylist() == texts[::-1]
    assert np.load(npy).tobytes() == right(texts).tobytes()
    assert not list(tmp_path.glob(".*"))


def test_a_parquet_that_cannot_be_replaced_keeps_every_row(sim, tmp_path, monkeypatch):
    output = tmp_path / "vectors.parquet"
    texts = [f"full {i}" for i in range(50)]
    with monkeypatch.context() as patch:

        def no_space(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(pq.ParquetWriter, "write_table", no_space)
        with pytest.raises(CheckpointError, match="No space left on device; every finished row"):
            job(sim, texts, output)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.parquet.job"]
    assert job(sim, texts, output).reused == 50
    assert pq.read_table(output).num_rows == 50


def test_without_the_extra(sim, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    before = len(sim.ledger)
    for source, output in (("a", "x.parquet"), (tmp_path / "a.parquet", "x.npy")):
        with pytest.raises(ConfigurationError, match=r"pip install 'tollway\[arrow\]'"):
            job(sim, [source] if source == "a" else source, tmp_path / output)
    assert len(sim.ledger) == before


def test_vectors_as_an_arrow_array():
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = to_arrow(vectors)
    assert array.type == pa.list_(pa.float32(), 4)
    assert array.flatten().to_numpy().tobytes() == vectors.tobytes()
    vectors[1] = np.nan
    assert to_arrow(vectors).to_pylist()[1] is None
    assert len(to_arrow(np.empty((0, 4), np.float32))) == 0


# Chunks


def test_documents_in_chunks(sim, output, tmp_path):
    long = " ".join(f"word{i}" for i in range(500))
    documents = [Document("a", long, {"lang": "en"}), Document("b", "short"), Document("c", "")]
    report = job(sim, documents, output, chunk=100, overlap=10)
    embedder = embedder_of(sim)
    chunks = embedder.encoding.chunk(long, 100, 10)
    assert len(chunks) > 5
    assert np.load(output)[:-1].tobytes() == right([*chunks, "short"]).tobytes()
    assert index_of(output) == [
        *(
            {"row": i, "id": "a", "chunk": i, "metadata": {"lang": "en"}}
            for i in range(len(chunks))
        ),
        {"row": len(chunks), "id": "b", "chunk": 0},
        {"row": len(chunks) + 1, "id": "c", "chunk": 0},
    ]
    assert (report.texts, [error.id for error in report.errors]) == (len(chunks) + 2, ["c"])
    parquet = tmp_path / "vectors.parquet"
    job(sim, documents, parquet, chunk=100, overlap=10)
    assert pq.read_table(parquet)["chunk"].to_pylist() == [*range(len(chunks)), 0, 0]
    docs = tmp_path / "docs.txt"
    docs.write_text(long)
    assert plan(docs, embedder, chunk=100, overlap=10).texts == len(chunks)
    with pytest.raises(ConfigurationError, match="overlap"):
        job(sim, documents, output, chunk=100, overlap=100)
    with pytest.raises(ConfigurationError, match="say how long they are with chunk"):
        job(sim, documents, output, overlap=10)


# Callbacks, and an array of one's own


def test_chunks_of_white_space_are_no_errors(sim, output):
    """The line end of a text can be a token too many, and indented code has long blanks."""
    count = tollway.get_encoding("cl100k_base").count
    words = "one two three four"
    blank = " \n" * 40
    assert count(words) == 4 < count(words + "\n")
    report = job(sim, [words + "\n", f"a{blank}b", " \n"], output, chunk=4)
    assert [(error.id, error.error) for error in report.errors] == [
        ("2", "the text is empty; nothing was sent")
    ]
    chunks = [(line["id"], line["chunk"]) for line in index_of(output)]
    assert chunks == [("0", 0), ("1", 0), ("1", 1), ("2", 0)]
    assert np.isnan(np.load(output)).any(axis=1).tolist() == [False, False, False, True]


async def test_a_callback_gets_documents_and_vectors(sim):
    documents = [Document(f"d{i % 400}", f"stream {i % 400}", {"n": i}) for i in range(1000)]
    got = {}
    busy = 0

    async def store(part, vectors):
        nonlocal busy
        busy += 1
        assert busy == 1
        assert len(part) == len(vectors)
        await asyncio.sleep(0)
        for document, row in zip(part, vectors, strict=True):
            assert row.tobytes() == vector(document.text, 8).astype(np.float16).tobytes()
            got[document.metadata["n"]] = document.id
        busy -= 1

    async with embedder_of(sim, dtype="float16") as embedder:
        report = await embed_stream([*documents, ""], store, embedder)
    assert got == {i: f"d{i % 400}" for i in range(1000)}
    assert (report.texts, report.output, len(report.errors)) == (1001, None, 1)
    assert 400 <= report.distinct <= 1000


def test_a_callback_that_fails_ends_the_stream(sim):
    embedder = embedder_of(sim)

    def store(_part, _vectors):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        embed_stream_sync((f"t{i}" for i in range(10_000)), store, embedder)
    embedder.aclose_sync()


async def test_a_slow_callback_holds_the_source_back():
    """What is read and not yet delivered is bounded by what may be in flight."""
    drawn = done = most = 0

    def texts():
        nonlocal drawn, most
        for i in range(4000):
            drawn += 1
            most = max(most, drawn - done)
            yield f"slow {i}"

    async def store(part, _vectors):
        nonlocal done
        await asyncio.sleep(0.002)
        done += len(part)

    with Simulator() as sim:
        limits = Limits(max_in_flight=3)
        async with embedder_of(sim, limits=limits, batch_size=16) as embedder:
            await embed_stream(texts(), store, embedder)
    assert done == 4000
    assert most <= 256 + 5 * 16


async def test_vectors_into_an_array_of_ones_own(sim, tmp_path):
    texts = [f"own {i % 30}" for i in range(100)]
    mapped = np.lib.format.open_memmap(tmp_path / "own.npy", "w+", dtype=np.float16, shape=(100, 8))
    async with embedder_of(sim) as embedder:
        assert await embedder.embed(texts, out=mapped) is mapped
        for shape in ((99, 8), (100, 9), (100,)):
            with pytest.raises(ConfigurationError, match="out must be of shape"):
                await embedder.embed(texts, out=np.empty(shape, np.float32))
    mapped.flush()
    del mapped
    rows = np.load(tmp_path / "own.npy")
    assert rows.tobytes() == right(texts).astype(np.float16).tobytes()


def test_importing_brings_in_no_arrow():
    code = "import sys, tollway.embed; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert Path(tollway.__file__).exists()
