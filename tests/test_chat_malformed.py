"""Answers with the status 200 in another form than their API's: of no use, and asked for again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import httpx
import httpx2
import pytest

from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.errors import BadResponseError, RetriesExhaustedError, StreamInterruptedError

TWICE = RetryPolicy(max_retries=1, base_delay=0.0, max_delay=0.0)
USAGE = {"input_tokens": 3, "output_tokens": 1}


def openai(**message):
    return {"choices": [{"message": {"content": "a", **message}, "finish_reason": "stop"}]}


def claude(*content):
    return {"content": list(content), "stop_reason": "end_turn", "usage": USAGE}


def ollama(message):
    return {"message": message, "done": True, "done_reason": "stop"}


def converse(*content):
    return {"output": {"message": {"content": list(content)}}, "stopReason": "tool_use"}


# What each is asked by, a right answer, and answers of no use.
ANSWERS = {
    "openai": (
        openai(),
        [
            openai(tool_calls=[{"index": [], "function": {"name": "look"}}]),
            {"choices": [{"message": {"content": "a"}, "finish_reason": ["stop"]}]},
        ],
    ),
    "anthropic": (
        claude({"type": "text", "text": "a"}),
        [
            claude({"type": "text"}),
            claude({"text": "a"}),
            claude(None),
            claude({"type": "tool_use", "id": "1", "name": "look"}),
            {**claude(), "content": "hello"},
        ],
    ),
    "ollama": (
        ollama({"content": "a"}),
        [
            ollama({"content": ["a"]}),
            ollama({"content": "", "tool_calls": [{}]}),
            ollama({"content": "", "tool_calls": ["look"]}),
        ],
    ),
    "bedrock": (
        converse({"text": "a"}),
        [converse({"toolUse": {"toolUseId": "1"}}), converse("a")],
    ),
}
CASES = [(name, wrong) for name, (_, every) in ANSWERS.items() for wrong in every]


def serving(name, answers, **headers):
    """Return a model that gives these answers in turn, and what it was asked."""
    asked = []

    def serve(request):
        asked.append(json.loads(request.content))
        answer = answers[min(len(asked), len(answers)) - 1]
        library = httpx if name == "ollama" else httpx2
        content = answer if isinstance(answer, str) else json.dumps(answer)
        return library.Response(200, content=content, headers=headers)

    def called(**arguments):
        asked.append(arguments)
        return dict(answers[min(len(asked), len(answers)) - 1])

    options = {"limits": RateLimiter(Limits()), "retry": TWICE}
    if name == "bedrock":
        client = SimpleNamespace(converse=called)
        return LLM("bedrock/some.model", client=client, **options), asked
    if name == "ollama":
        client = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    else:
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
        options["api_key"] = "k"
    return LLM(f"{name}/m", base_url="http://malformed", http_client=client, **options), asked


@pytest.mark.parametrize(("name", "wrong"), CASES)
async def test_an_answer_in_another_form_is_asked_for_again(name, wrong):
    llm, asked = serving(name, [wrong, ANSWERS[name][0]], **{"content-type": "application/json"})
    answer = await llm.complete("hello")
    assert answer.text == "a"
    assert [made.error for made in answer.attempts] == ["BadResponseError"]
    assert len(asked) == 2


@pytest.mark.parametrize("model", ["anthropic/m", "gemini/m", "bedrock/m"])
async def test_a_count_that_is_none_is_no_count(model):
    def serve(_):
        return httpx2.Response(200, json={})

    name, _, _ = model.partition("/")
    options = {"retry": RetryPolicy(max_retries=0)}
    if name == "anthropic":
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
        options |= {"api_key": "k", "http_client": client}
    elif name == "gemini":

        async def nothing(**_):
            return SimpleNamespace(total_tokens=None)

        models = SimpleNamespace(count_tokens=nothing)
        aio = SimpleNamespace(models=models)
        options["client"] = SimpleNamespace(vertexai=False, aio=aio)
    else:
        options["client"] = SimpleNamespace(count_tokens=lambda **_: {})
    llm = LLM(model, **options)
    with pytest.raises(RetriesExhaustedError) as raised:
        await llm.count_tokens("hello", ask_provider=True)
    assert isinstance(raised.value.__cause__, BadResponseError)
    assert not await llm.available()


async def test_numbers_that_are_none_are_counted_here():
    answer = {**ollama({"content": "a"}), "prompt_eval_count": "12", "eval_count": "3"}
    llm, _ = serving("ollama", [answer])
    assert (await llm.complete("hello")).usage.estimated


START = {"type": "message_start", "message": {"model": "m", "content": [], "usage": USAGE}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
STREAMS = {
    "anthropic": [[START, TEXT], [START, BLOCK, TEXT, {**TEXT, "index": 5}]],
    "ollama": [
        [{"message": "a"}],
        [{"message": {"content": "a"}}, {"message": {"content": ["b"]}}],
    ],
    "openai": [
        [{"choices": [{"delta": {"content": "a"}, "finish_reason": ["stop"]}]}],
        [
            {"choices": [{"delta": {"content": "a"}}]},
            {"choices": [{"delta": {"tool_calls": [{"index": []}]}}]},
        ],
    ],
}


def written(name, events):
    if name == "ollama":
        return "".join(json.dumps(event) + "\n" for event in events)
    return "".join(
        f"event: {event.get('type', '')}\ndata: {json.dumps(event)}\n\n" for event in events
    )


@pytest.mark.parametrize("name", STREAMS)
async def test_a_piece_in_another_form_breaks_the_stream_off(name):
    kind = {"content-type": "text/event-stream"}
    before, after = (written(name, events) for events in STREAMS[name])
    llm, asked = serving(name, [before], **kind)
    with pytest.raises(Exception, match="not its API's") as raised:
        _ = [chunk async for chunk in llm.stream("hello")]
    assert isinstance(raised.value.__cause__, BadResponseError)
    assert len(asked) == 2
    # Once something has come, nothing is sent again.
    llm, asked = serving(name, [after], **kind)
    with pytest.raises(StreamInterruptedError) as raised:
        _ = [chunk async for chunk in llm.stream("hello")]
    assert raised.value.partial.text == "a"
    assert len(asked) == 1
    assert llm.limiter.snapshot().in_flight == 0
