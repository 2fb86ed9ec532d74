"""Answers in OpenAI's form as servers write them: text, reasoning, finish reasons, usage."""

from __future__ import annotations

import pytest

from tollway.errors import BadResponseError
from tollway.providers.openai_wire import ChunkReader, completion_of, usage_of


def answer_with(message, finish="stop", **members):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"choices": [choice], **members}


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "a", "reasoning": "b"}, "a", "b"),
        ({"content": "a", "reasoning_content": "b"}, "a", "b"),
        ({"content": [{"type": "text", "text": "a"}]}, "a", ""),
        ({"content": [{"type": "thinking", "thinking": [{"text": "b"}]}, {"text": "a"}]}, "a", "b"),
        ({"content": None}, "", ""),
        ({"content": "<think>b"}, "", "b"),
    ],
)
def test_text_and_reasoning(message, text, reasoning):
    made = completion_of(answer_with(message), {}, "openai", model="m", split=True)
    assert (made.text, made.reasoning) == (text, reasoning)


def test_finish_reasons():
    def finish(reason, **message):
        answer = answer_with({"content": "a", **message}, reason)
        return completion_of(answer, {}, "openai", model="m", split=False).finish_reason

    call = {"id": "1", "function": {"name": "x", "arguments": "{}"}}
    assert finish("eos") == "stop"
    assert finish("function_call") == "tool_calls"
    assert finish("stop", tool_calls=[call]) == "tool_calls"
    assert finish("stop", refusal="no") == "refusal"
    assert finish("content_filter") == "content_filter"
    reader = ChunkReader(split=False)
    piece = {"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]}
    assert reader.read(piece).tool_calls[0].name == "x"
    assert reader.read({"choices": [{"delta": {}, "finish_reason": "stop"}]}).finish_reason == (
        "tool_calls"
    )


@pytest.mark.parametrize(
    "answer",
    [None, [], "text", {}, {"choices": []}, {"choices": None, "error": {"message": "upstream"}},
     {"choices": [{}]}, {"choices": ["x"]}, answer_with({"content": "a"}, None)],
)  # fmt: skip
def test_what_holds_no_answer_is_none(answer):
    with pytest.raises(BadResponseError):
        completion_of(answer, {}, "openai", model="m", split=True)


def test_usage_in_its_dialects():
    full = usage_of(
        {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1, "image_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": None},
        }
    )
    assert (full.input_tokens, full.output_tokens, full.cached_tokens) == (10, 7, 4)
    assert (full.reasoning_tokens, full.input_audio_tokens, full.output_audio_tokens) == (3, 1, 0)
    assert usage_of({"prompt_tokens": 9, "prompt_cache_hit_tokens": 5}).cached_tokens == 5
    for nothing in (None, {}, {"prompt_tokens": None}, "x"):
        assert usage_of(nothing).estimated
