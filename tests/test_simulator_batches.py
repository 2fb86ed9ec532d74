"""The simulator's files and batches, as the official SDKs see them."""

from __future__ import annotations

import asyncio
import json

import anthropic
import openai
import pytest

from tollway.simulator import BatchBehaviour, Faults, Ledger, Simulator, digest, reply

URL = "/v1/chat/completions"


def simulated(**behaviour):
    return Simulator(batches=BatchBehaviour(**behaviour))


def client_of(sim):
    return openai.AsyncOpenAI(base_url=sim.base_url, api_key="k", max_retries=0)


def claude_of(sim):
    base_url = sim.base_url.removesuffix("/v1")
    return anthropic.AsyncAnthropic(base_url=base_url, api_key="k", max_retries=0)


def chat(text):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}


def lines(texts, url=URL, body=chat):
    requests = [
        {"custom_id": f"request-{i}", "method": "POST", "url": url, "body": body(text)}
        for i, text in enumerate(texts)
    ]
    return "\n".join(map(json.dumps, requests)).encode()


async def submit(client, content, endpoint=URL, **more):
    file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


async def ended(client, batch):
    while batch.status in {"validating", "in_progress", "finalizing", "cancelling"}:
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    return batch


async def content(client, file):
    text = (await client.files.content(file)).text
    return {line["custom_id"]: line for line in map(json.loads, text.splitlines())}


async def test_a_batch_of_completions():
    async with simulated(seconds=0.05) as sim, client_of(sim) as client:
        texts = ["one", "zwei — drei", "[[filtered]]"]
        batch = await submit(client, lines(texts), metadata={"tag": "mine"})
        assert batch.status == "validating"
        batch = await ended(client, batch)
        assert (batch.status, batch.metadata) == ("completed", {"tag": "mine"})
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
        right = await content(client, batch.output_file_id)
        for i, text in enumerate(texts[:2]):
            body = right[f"request-{i}"]["response"]["body"]
            assert body["choices"][0]["message"]["content"] == reply(("user", text))
        wrong = await content(client, batch.error_file_id)
        assert wrong["request-2"]["response"]["status_code"] == 400
        assert sim.ledger.answered_counts() == {digest(text): 1 for text in texts[:2]}


async def test_a_batch_of_embeddings():
    def embed(text):
        return {"model": "text-embedding-3-small", "input": [text], "dimensions": 4}

    async with simulated() as sim, client_of(sim) as client:
        written = lines(["one"], "/v1/embeddings", embed)
        batch = await ended(client, await submit(client, written, "/v1/embeddings"))
        (line,) = (await content(client, batch.output_file_id)).values()
        assert len(line["response"]["body"]["data"][0]["embedding"]) == 4


async def test_batches_that_expire_or_are_cancelled():
    async with simulated(seconds=0.4, window=0.2) as sim, client_of(sim) as client:
        batch = await ended(client, await submit(client, lines("abcdefghij")))
        assert batch.status == "expired"
        assert len(await content(client, batch.output_file_id)) == 5
        failed = await content(client, batch.error_file_id)
        assert {line["error"]["code"] for line in failed.values()} == {"batch_expired"}
        sim._store.behaviour = BatchBehaviour(seconds=3600)
        batch = await submit(client, lines("ab"))
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        assert (await ended(client, batch)).status == "cancelled"


async def test_batches_are_listed_newest_first():
    async with simulated() as sim, client_of(sim) as client:
        made = [(await submit(client, lines([str(i)]))).id for i in range(5)]
        page = await client.batches.list(limit=2)
        assert [batch.id for batch in page.data] == made[:2:-1]
        assert page.has_next_page()
        assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (b"no json", "invalid_json_line"),
        (b"", "empty_file"),
        (lines(["a"], "/v1/embeddings"), "invalid_url"),
        (lines(["a"]) + b"\n" + lines(["b"]), "duplicate_custom_id"),
        (lines(["a"], body=lambda _: {"model": "missing-1"}), "model_not_found"),
    ],
)
async def test_files_that_are_refused(written, code):
    async with simulated() as sim, client_of(sim) as client:
        batch = await ended(client, await submit(client, written))
        assert batch.status == "failed"
        assert batch.errors.data[0].code == code
        assert not sim.batches


async def test_tokens_in_the_queue():
    async with simulated(seconds=3600, enqueued_tokens=20) as sim, client_of(sim) as client:
        first = await submit(client, lines(["word " * 15]))
        second = await ended(client, await submit(client, lines(["word " * 15])))
        assert second.errors.data[0].code == "token_limit_exceeded"
        sim._store.behaviour = BatchBehaviour(enqueued_tokens=20)
        await ended(client, first)
        assert (await ended(client, await submit(client, lines(["a"])))).status == "completed"


async def test_requests_that_are_not_in_order():
    async with simulated() as sim, client_of(sim) as client:
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_none")
        with pytest.raises(openai.NotFoundError):
            await client.files.content("file-none")
        with pytest.raises(openai.BadRequestError):
            await submit(client, lines(["a"]), "/v1/moderations")
        with pytest.raises(openai.BadRequestError):
            await client.files.create(file=b"a", purpose="assistants")
        batch = await ended(client, await submit(client, lines(["a"])))
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
    async with Simulator(api_keys=["right"]) as sim, client_of(sim) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.batches.list()


def asked(texts):
    return [
        {
            "custom_id": f"request-{i}",
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 100,
                "messages": [{"role": "user", "content": text}],
            },
        }
        for i, text in enumerate(texts)
    ]


async def claude_ended(client, batch):
    while batch.processing_status != "ended":
        await asyncio.sleep(0.01)
        batch = await client.messages.batches.retrieve(batch.id)
    return batch


async def test_a_batch_of_messages():
    faults = Faults({"500": 0.4}, seed=1)
    async with simulated(seconds=0.05, faults=faults) as sim, claude_of(sim) as client:
        texts = [f"text {i}" for i in range(10)]
        batch = await client.messages.batches.create(requests=asked(texts))
        assert batch.request_counts.processing == 10
        batch = await claude_ended(client, batch)
        results = [each async for each in await client.messages.batches.results(batch.id)]
        assert [each.custom_id for each in results] == [f"request-{i}" for i in range(10)][::-1]
        kinds = [each.result.type for each in results]
        assert {"succeeded", "errored"} == set(kinds)
        counts = batch.request_counts
        assert (counts.succeeded, counts.errored) == (
            kinds.count("succeeded"),
            kinds.count("errored"),
        )
        for each in results:
            if each.result.type == "succeeded":
                text = texts[int(each.custom_id.partition("-")[2])]
                assert each.result.message.content[0].text == reply(("user", text))
            else:
                assert each.result.error.error.type == "api_error"


async def test_batches_of_messages_that_end_early():
    async with simulated(seconds=0.4, window=0.2) as sim, claude_of(sim) as client:
        batch = await client.messages.batches.create(requests=asked("abcd"))
        counts = (await claude_ended(client, batch)).request_counts
        assert (counts.succeeded, counts.expired) == (2, 2)
        sim._store.behaviour = BatchBehaviour(seconds=3600)
        batch = await client.messages.batches.create(requests=asked("ab"))
        batch = await client.messages.batches.cancel(batch.id)
        assert batch.processing_status == "canceling"
        assert (await claude_ended(client, batch)).request_counts.canceled == 2
        page = await client.messages.batches.list(limit=1)
        assert ([each.id for each in page.data], page.has_more) == ([batch.id], True)


async def test_batches_of_messages_that_are_refused():
    async with simulated(queue=1) as sim, claude_of(sim) as client:
        create = client.messages.batches.create
        with pytest.raises(anthropic.BadRequestError):
            await create(requests=[])
        with pytest.raises(anthropic.BadRequestError):
            await create(requests=asked("a") + asked("b"))
        with pytest.raises(anthropic.BadRequestError):
            await create(requests=[{**asked("a")[0], "custom_id": "a b"}])
        with pytest.raises(anthropic.RateLimitError):
            await create(requests=asked("ab"))
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.batches.retrieve("msgbatch_none")


async def test_what_is_charged_outlives_the_simulator(tmp_path):
    """A batch goes on without its client: at the end all of it stands in the file."""
    path = tmp_path / "ledger.jsonl"
    sim = Simulator(ledger=path, batches=BatchBehaviour(seconds=600))
    async with sim, client_of(sim) as client:
        batch = await submit(client, lines(["a", "b"]))
    records = [record for record in Ledger.read(path) if record.batch == batch.id]
    assert [record.answered for record in records] == [True, True]
    assert all(record.tokens for record in records)
    async with sim, client_of(sim) as client:
        assert (await client.batches.retrieve(batch.id)).status == "completed"
