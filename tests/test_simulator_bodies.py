"""The simulator is asked what is not in order: it says so, in each provider's way."""

from __future__ import annotations

import copy
import json

import httpx
import pytest

from tollway.simulator import Simulator

# What may stand where something else should.
OTHERS = ("text", 5, -1.5, True, [1], [["text"]], {"text": 1}, [{"type": "text"}], 1e400)

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
FUNCTION = {"name": "add", "description": "Add.", "parameters": SCHEMA}
OPENAI = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Say why."}]},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "user", "content": "And then?"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "none",
    "temperature": 0.5,
    "max_tokens": 20,
    "stop": ["END"],
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "stream_options": {"include_usage": True},
}
ANTHROPIC = {
    "model": "claude-opus-4-5",
    "max_tokens": 20,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Say why."}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "a", "name": "add", "input": {}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "a", "content": "3"}],
        },
    ],
    "tools": [{"name": "add", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "temperature": 0.5,
    "stop_sequences": ["END"],
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [{"role": "user", "parts": [{"text": "Say why."}]}],
    "tools": [{"functionDeclarations": [FUNCTION]}],
    "toolConfig": {"functionCallingConfig": {"mode": "NONE"}},
    "generationConfig": {
        "maxOutputTokens": 20,
        "stopSequences": ["END"],
        "thinkingConfig": {"includeThoughts": True},
    },
}
BEDROCK = {
    "system": [{"text": "Be brief."}],
    "messages": [{"role": "user", "content": [{"text": "Say why."}]}],
    "inferenceConfig": {"maxTokens": 20, "stopSequences": ["END"]},
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "add", "inputSchema": {"json": SCHEMA}}}],
        "toolChoice": {"auto": {}},
    },
}
OLLAMA = {
    "model": "llama3.2",
    "stream": False,
    "messages": [{"role": "user", "content": "Say why."}],
    "tools": [{"type": "function", "function": FUNCTION}],
    "options": {"num_predict": 20, "stop": ["END"], "num_ctx": 4096},
}
SMALL = "text-embedding-3-small"
BODIES = {
    "/v1/chat/completions": OPENAI,
    "/v1/embeddings": {"model": SMALL, "input": ["one", "two"], "dimensions": 8},
    "/openai/deployments/east/chat/completions": OPENAI,
    "/v1/messages": ANTHROPIC,
    "/v1/messages/count_tokens": ANTHROPIC,
    "/v1/messages/batches": {"requests": [{"custom_id": "a", "params": ANTHROPIC}]},
    "/v1/batches": {
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "input_file_id": "file-1",
        "metadata": {"a": "b"},
    },
    "/v1beta/models/gemini-2.5-flash:generateContent": GEMINI,
    "/v1beta/models/gemini-2.5-flash:countTokens": GEMINI,
    "/v1beta/models/gemini-embedding-001:batchEmbedContents": {
        "requests": [{"content": {"parts": [{"text": "one"}]}, "outputDimensionality": 8}]
    },
    "/model/anthropic.claude/converse": BEDROCK,
    "/model/anthropic.claude/count-tokens": {"input": {"converse": BEDROCK}},
    "/model/amazon.titan-embed-text-v2:0/invoke": {"inputText": "one", "dimensions": 8},
    "/model/cohere.embed-v4/invoke": {"texts": ["one"], "input_type": "search_document"},
    "/api/chat": OLLAMA,
    "/api/embed": {"model": "nomic-embed-text", "input": ["one"], "dimensions": 8},
}
HEADERS = {
    "authorization": "Bearer any",
    "api-key": "any",
    "x-api-key": "any",
    "x-goog-api-key": "any",
    "anthropic-version": "2023-06-01",
}


@pytest.fixture(scope="module")
def sim():
    with Simulator(dimensions=8) as sim:
        yield sim


@pytest.fixture(scope="module")
def client(sim):
    with httpx.Client(base_url=sim.base_url.removesuffix("/v1"), headers=HEADERS) as client:
        yield client


def places(body, at=()):
    """Yield the way to every member of a body."""
    members = body.items() if isinstance(body, dict) else enumerate(body)
    for name, member in members:
        yield (*at, name)
        if isinstance(member, dict | list):
            yield from places(member, (*at, name))


def changed(body, place, other):
    body = copy.deepcopy(body)
    inside = body
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = other
    return body


def message_of(answer):
    body = answer.json()
    error = body.get("error", body)
    return error if isinstance(error, str) else error["message"]


@pytest.mark.parametrize("path", BODIES)
def test_whatever_stands_where_something_else_should_has_an_answer(client, path):
    refused = 0
    for place in places(BODIES[path]):
        for other in OTHERS:
            body = json.dumps(changed(BODIES[path], place, other)).encode()
            answer = client.post(path, content=body)
            assert answer.status_code in {200, 400, 404}, (place, other, answer.text)
            if answer.status_code == 400:
                refused += 1
                assert message_of(answer)
    assert refused


@pytest.mark.parametrize(
    ("member", "value"), [("temperature", "0.5"), ("stop", [1]), ("stop", {"a": 1})]
)
def test_the_member_that_is_not_in_order_is_named(client, member, value):
    body = {**OPENAI, "messages": [{"role": "user", "content": "Why?"}], member: value}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == member


@pytest.mark.parametrize(
    "path", ["openai/deployments/missing-1/embeddings", "openai/v1/embeddings"]
)
def test_a_deployment_that_is_missing(client, path):
    body = {"model": "missing-1", "input": ["one"]}
    assert client.post(f"/{path}", json=body).status_code == 404
    there = client.post(f"/{path.replace('missing-1', 'mine')}", json={**body, "model": "mine"})
    assert there.status_code == 200
