"""The client of our own among loops, threads and processes, and the vectors that it brings."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from tollway import _core
from tollway.errors import ConfigurationError
from tollway.simulator import Simulator, vector
from tollway.transport import NativeTransport, Request
from wire import Wire, answer, eventually

HEADERS = {"authorization": "Bearer any", "content-type": "application/json"}
MODEL = "text-embedding-3-small"


def post(url, body=b"{}"):
    return Request("POST", url, HEADERS, body)


# Loops, threads, processes


def test_several_loops_use_a_transport_at_once():
    with Wire() as wire:
        transport, counts = NativeTransport(), []

        async def many():
            answers = await asyncio.gather(*(transport.send(post(wire.url)) for _ in range(50)))
            counts.append(sum(it.status == 200 for it in answers))

        threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        asyncio.run(many())
    assert counts == [50] * 5


def test_a_loop_without_readers():
    """As that of Windows: it is called instead."""

    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, fd, callback, *args):
            raise NotImplementedError

    with Wire() as wire, asyncio.Runner(loop_factory=Loop) as runner:
        transport = NativeTransport()

        async def many():
            return await asyncio.gather(*(transport.send(post(wire.url)) for _ in range(50)))

        assert {it.status for it in runner.run(many())} == {200}


def test_a_loop_is_woken_once_for_all_that_has_ended():
    with Wire() as wire, asyncio.Runner() as runner:
        wakes = []
        completions = _core.Completions(lambda: wakes.append(1))
        client = _core.HTTPClient(
            headers={}, connect=5, first_byte=60, idle=60, total=60, max_answer=1000, proxy=""
        )
        loop = runner.get_loop()
        futures = [loop.create_future() for _ in range(40)]
        for future in futures:
            client.send(completions, future, "POST", wire.url, {}, b"", None)
        assert len(completions) == 40
        while len(completions):
            assert eventually(wakes.copy)
            # Whatever ends meanwhile wakes nobody.
            eventually(lambda: len(wakes) > 1, 0.1)
            assert len(wakes) == 1
            wakes.clear()
            completions.drain()
        assert all(future.result().status == 200 for future in futures)
        with pytest.raises(RuntimeError, match="have no file"):
            completions.fileno()


def test_a_loop_that_goes_closes_its_requests():
    with Wire(lambda connection: connection.wait_for_the_end()) as wire:
        transport, loop = NativeTransport(), asyncio.new_event_loop()
        task = loop.create_task(transport.send(post(wire.url)))
        loop.run_until_complete(asyncio.sleep(0.05))
        assert eventually(lambda: wire.connections == 1)
        task.cancel()
        loop.close()
        del task, loop
        gc.collect()
        assert wire.ended.wait(30)


def test_a_loop_that_was_closed_over_its_requests_is_not_kept():
    """As when it is closed without a word to its tasks; the next loop that sends ends them."""
    with Wire(lambda connection: connection.wait_for_the_end()) as wire, Wire() as other:
        transport, loop = NativeTransport(), asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(transport.send(post(wire.url)))
        loop.run_until_complete(asyncio.sleep(0.05))
        assert eventually(lambda: wire.connections == 1)
        loop.close()
        kept = weakref.ref(loop)
        del task, loop
        gc.collect()
        assert asyncio.run(transport.send(post(other.url))).status == 200
        assert wire.ended.wait(30)
        gc.collect()
        assert kept() is None


EXIT = """
import atexit
atexit.register(lambda: too_late())
import asyncio, sys, threading
import numpy as np
from tollway.transport import NativeTransport, Request
transport = NativeTransport()
def forever():
    out = np.zeros((1, 2), np.float32)
    asyncio.run(transport.embed(sys.argv[1], {}, "m", ["a"], out=out))
@atexit.register
def late():
    # Registered later than the client's own, and so called before it.
    assert asyncio.run(transport.send(Request("GET", sys.argv[2], {}))).status == 200
def too_late():
    try:
        asyncio.run(transport.send(Request("GET", sys.argv[2], {})))
    except Exception as error:
        print(error)
threading.Thread(target=forever, daemon=True).start()
sys.stdin.readline()
"""


def test_a_process_ends_with_requests_under_way():
    arrived = threading.Event()

    def script(connection):
        connection.read()
        arrived.set()
        connection.wait_for_the_end()

    with Wire(script) as wire, Wire() as other:
        command = [sys.executable, "-X", "dev", "-c", EXIT, wire.url, other.url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, **pipes) as process:
            assert arrived.wait(30)
            output, errors = process.communicate("\n", timeout=30)
        assert (process.returncode, errors) == (0, "")
        assert output == "the process is ending, and sends no more requests\n"
        assert len(other.requests) == 1
        assert wire.ended.wait(30)


FORK = """
import asyncio, os, sys, threading, time
from tollway.transport import NativeTransport, Request
transport = NativeTransport()
def send(path):
    return asyncio.run(transport.send(Request("GET", sys.argv[1] + path, {}))).body
assert send("/warm") == b"/warm"
slow = []
thread = threading.Thread(target=lambda: slow.append(send("/slow")))
thread.start()
sys.stdin.readline()
child = os.fork()
mine = "child" if child == 0 else "parent"
for i in range(20):
    assert send(f"/{mine}/{i}") == f"/{mine}/{i}".encode()
if child == 0:
    del transport
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("forked", flush=True)
thread.join()
assert slow == [b"/slow"]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_with_a_request_under_way():
    """The child has connections of its own, and the parent keeps those it had."""
    slow, go_on = threading.Event(), threading.Event()

    def script(connection):
        while (request := connection.read()) is not None:
            path = request[0].split(" ")[1].partition("embeddings")[2]
            if path == "/slow":
                slow.set()
                go_on.wait(30)
            connection.send(answer(path.encode()))

    with Wire(script) as wire:
        command = [sys.executable, "-c", FORK, wire.url]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert slow.wait(30)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "forked\n"
            go_on.set()
            process.communicate(timeout=30)
        assert process.returncode == 0


# Vectors


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


def texts_of(count):
    return [f"text {i} é\ud800 \N{GRINNING FACE} \"'\\ \n" for i in range(count)]


@pytest.mark.parametrize("base64", [True, False])
async def test_vectors_come_into_a_new_array_or_a_given_one(sim, base64):
    texts = texts_of(40)
    expected = np.stack([vector(text.replace("\ud800", "\ufffd"), 1536) for text in texts])
    url, transport = f"{sim.base_url}/embeddings", NativeTransport()
    out = np.zeros((50, 1536), np.float32)
    for place in (None, out[5:45]):
        reply = await transport.embed(url, HEADERS, MODEL, texts, base64=base64, out=place)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.embeddings.vectors.tobytes() == expected.tobytes()
        assert reply.embeddings.prompt_tokens > 0
        assert reply.headers["content-type"] == "application/json"
    assert out[5:45].tobytes() == expected.tobytes()
    assert not out[:5].any()
    assert not out[45:].any()


def rows(*vectors):
    text = ",".join(f'{{"index":{i},"embedding":{row}}}' for i, row in enumerate(vectors))
    return answer(f'{{"data":[{text}]}}'.encode())


async def test_what_is_no_vector_is_told_and_nan():
    def script(connection):
        connection.read()
        connection.send(rows("[1,2]", "null", "[3,4]"))
        connection.read()
        connection.send(rows("[1,2]") + b"")
        connection.read()
        connection.send(answer(b'{"data": [{"index": 0, "embedding": [1,2]}, broken'))

    with Wire(script) as wire:
        transport, out = NativeTransport(), np.zeros((3, 2), np.float32)
        reply = await transport.embed(wire.url, {}, "m", ["a", "b", "c"], out=out)
        assert reply.embeddings.bad_rows == [(1, "null instead of a vector")]
        np.testing.assert_array_equal(out, [[1, 2], [np.nan, np.nan], [3, 4]])
        reply = await transport.embed(wire.url, {}, "m", ["a"], length=3)
        assert reply.embeddings.bad_rows == [(0, "dimension 2 instead of 3")]
        out[:] = 7
        reply = await transport.embed(wire.url, {}, "m", ["a", "b", "c"], out=out)
        assert reply.embeddings is None
        assert reply.body.endswith(b"broken")
        assert np.isnan(out).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 4), np.float32),
        np.zeros((2, 0), np.float32),
        np.zeros((4, 2), np.float32)[::2],
        np.zeros((2, 4), np.float32).T[:2],
    ],
)
async def test_a_place_that_rows_do_not_fit_into(wrong):
    with pytest.raises(ConfigurationError, match="out must be"):
        await NativeTransport().embed("http://127.0.0.1:1/", {}, "m", ["a", "b"], out=wrong)


async def test_a_place_that_must_not_be_written_to():
    frozen = np.zeros((2, 4), np.float32)
    frozen.flags.writeable = False
    with pytest.raises((ConfigurationError, ValueError, TypeError)):
        await NativeTransport().embed("http://127.0.0.1:1/", {}, "m", ["a", "b"], out=frozen)


async def test_nothing_is_written_after_a_request_was_cancelled():
    """Whenever it is cancelled: before its answer, while that is decoded, or after."""
    many = rows(*["[" + ",".join(["1.5"] * 1000) + "]"] * 8)

    def script(connection):
        while connection.read() is not None:
            connection.send(many)

    with Wire(script) as wire:
        transport, given_up = NativeTransport(), []
        for i in range(150):
            out = np.zeros((8, 1000), np.float32)
            task = asyncio.create_task(transport.embed(wire.url, {}, "m", ["a"] * 8, out=out))
            await asyncio.sleep(i * 2e-5)
            task.cancel()
            await asyncio.wait([task])
            given_up.append((out, out.copy()))
        await transport.embed(wire.url, {}, "m", ["a"] * 8)
        for out, before in given_up:
            np.testing.assert_array_equal(out, before)


def test_neither_httpx_nor_an_sdk_is_imported_to_embed(sim):
    code = (
        "import sys; from tollway import Embedder\n"
        f"e = Embedder('openai/{MODEL}', base_url='{sim.base_url}', api_key='any')\n"
        "assert e.embed_sync(['a']).shape == (1, 1536)\n"
        "print([it for it in ('httpx', 'httpx2', 'openai', 'anyio') if it in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
