"""Text generation in this process, on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch
import transformers

from huggingface import tiny
from tollway import LLM, Message, RetryPolicy, Tool
from tollway.errors import (
    BadRequestError,
    ConfigurationError,
    ContextWindowExceededError,
    NotFoundError,
    RetriesExhaustedError,
)
from tollway.providers.huggingface_models import MODELS, LoadedModel

ONCE = RetryPolicy(max_retries=0)
WEATHER = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    return tiny.chat_model(tmp_path_factory.mktemp("strict"), template=tiny.STRICT)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def llm(folder):
    return LLM(f"huggingface/{folder}", retry=ONCE, max_tokens=20)


async def says(llm, tokenizer, text, prompt="hello", **options):
    scripted = tiny.script(tokenizer, text)
    return await llm.complete(prompt, extra_body=scripted, **options)


# Answers


async def test_an_answer_repeats_and_costs_nothing(llm):
    first, second = await llm.complete("hello"), await llm.complete("hello")
    assert first.text == second.text
    assert first.text
    assert first.finish_reason == "length"
    assert first.usage.output_tokens == 20
    assert not first.usage.estimated
    assert first.cost == 0.0
    assert (first.provider, first.model) == ("huggingface", llm.provider.model)


async def test_the_prompt_is_the_template_s(llm, tokenizer):
    answer = await llm.complete("hello", system_prompt="be brief")
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        add_generation_prompt=True,
        return_dict=True,
    )
    assert answer.usage.input_tokens == len(prompt["input_ids"])


async def test_a_stream_is_the_answer(llm, tokenizer):
    text = "나는 🦊 sunny, 안녕하세요 <b>"
    whole = await says(llm, tokenizer, text, max_tokens=200)
    assert (whole.text, whole.finish_reason) == (text, "stop")
    scripted = tiny.script(tokenizer, text)
    async with llm.stream("hello", extra_body=scripted, max_tokens=200) as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.text for chunk in chunks) == text
    assert len([chunk for chunk in chunks if chunk.text]) > 5
    # Characters are never torn: a piece that is none shows as U+FFFD.
    assert not any("\ufffd" in chunk.text for chunk in chunks)
    assert chunks[-1].completion.usage == whole.usage


async def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(llm, tokenizer):
    text = "sunny, rain, snow and the weather"
    answer = await says(llm, tokenizer, text, stop=["snow", "nowhere"], max_tokens=100)
    assert (answer.text, answer.finish_reason) == ("sunny, rain, ", "stop")
    whole = len(tokenizer.encode(text))
    assert answer.usage.output_tokens < whole
    scripted = tiny.script(tokenizer, text)
    async with llm.stream("x", stop="snow", extra_body=scripted, max_tokens=100) as stream:
        assert "".join([chunk.text async for chunk in stream]) == "sunny, rain, "
    answer = await says(llm, tokenizer, "sunny, sno", stop="snow", max_tokens=100)
    assert answer.text == "sunny, sno"


async def test_drawn_answers_repeat_by_their_seed_and_leave_other_draws_alone(llm):
    async def drawn(seed):
        return (await llm.complete("hello", temperature=1.5, seed=seed)).text

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = await drawn(3), await drawn(3), await drawn(4)
    assert torch.equal(torch.rand(1), expected)
    assert first == again != other


async def test_reasoning_stands_apart(llm, tokenizer):
    text = "<think>a river</think>\nThe weather"
    answer = await says(llm, tokenizer, text, max_tokens=100)
    assert (answer.reasoning, answer.text) == ("a river", "The weather")
    scripted = tiny.script(tokenizer, text)
    async with llm.stream("x", extra_body=scripted, max_tokens=100) as stream:
        (*_, last) = [chunk async for chunk in stream]
    assert (last.completion.reasoning, last.completion.text) == ("a river", "The weather")


async def test_json_is_asked_for_in_words_and_checked(llm, tokenizer):
    wanted = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    answer = await says(
        llm,
        tokenizer,
        'In JSON:\n```json\n{"name": "Oslo",}\n```',
        response_format=wanted,
        max_tokens=100,
    )
    assert answer.parsed == {"name": "Oslo"}


# Tools


async def test_calls_of_tools_are_read_from_the_text(llm, tokenizer):
    written = "I ask.\n" + tiny.calls(
        ("get_weather", {"city": "서울"}), ("get_weather", {"city": "Oslo"})
    )
    answer = await says(llm, tokenizer, written, tools=[WEATHER], max_tokens=300)
    assert answer.finish_reason == "tool_calls"
    assert [json.loads(call.arguments)["city"] for call in answer.tool_calls] == ["서울", "Oslo"]
    assert len({call.id for call in answer.tool_calls}) == 2
    assert answer.text == "I ask."
    scripted = tiny.script(tokenizer, written)
    async with llm.stream("x", extra_body=scripted, tools=[WEATHER], max_tokens=300) as stream:
        (*_, last) = [chunk async for chunk in stream]
    assert last.completion.tool_calls == answer.tool_calls
    assert last.completion.text == answer.text
    results = [
        Message("tool", "rain", name="get_weather", tool_call_id=call.id)
        for call in answer.tool_calls
    ]
    asked = [Message("user", "x"), answer.message, *results]
    plain = await says(llm, tokenizer, "rain", asked, tools=[WEATHER])
    assert (plain.text, plain.tool_calls) == ("rain", ())


async def test_what_calls_no_tool_that_was_given_is_text(llm, tokenizer):
    written = tiny.calls(("rm", {"path": "/"}))
    answer = await says(llm, tokenizer, written, tools=[WEATHER], max_tokens=200)
    assert (answer.text, answer.tool_calls) == (written, ())
    assert answer.finish_reason == "stop"


async def test_tools_need_a_place_in_the_template(strict):
    async with LLM(f"huggingface/{strict}", retry=ONCE) as llm:
        with pytest.raises(ConfigurationError, match="calls no tools"):
            await llm.complete("hello", tools=[WEATHER])
        # It was not known before the model was loaded.
        assert "tools" not in llm.provider.capabilities.features


async def test_there_is_no_choice_of_tools(llm):
    with pytest.raises(ConfigurationError, match="tool_choice"):
        await llm.complete("hello", tools=[WEATHER], tool_choice="required")


# Templates


async def test_a_system_prompt_that_is_refused_goes_before_the_first_question(strict):
    async with LLM(f"huggingface/{strict}", retry=ONCE, max_tokens=5) as llm:
        told = await llm.complete("hello", system_prompt="be brief")
        asked = await llm.complete("be brief\n\nhello")
    assert told.usage == asked.usage
    assert told.text == asked.text


async def test_a_model_without_a_template_is_no_chat_model(tmp_path):
    folder = tiny.chat_model(tmp_path, template=None)
    async with LLM(f"huggingface/{folder}", retry=ONCE) as llm:
        with pytest.raises(BadRequestError, match="chat_template"):
            await llm.complete("hello")
    async with LLM(f"huggingface/{folder}", chat_template=tiny.TEMPLATE, max_tokens=3) as llm:
        assert (await llm.complete("hello")).usage.output_tokens == 3


# Windows, memory, missing models


async def test_a_prompt_over_the_window_is_an_error(llm):
    with pytest.raises(ContextWindowExceededError, match="its window 512"):
        await llm.complete("many words " * 200)


async def test_an_answer_that_fills_the_window_says_so(llm):
    answer = await llm.complete("hello", max_tokens=None)
    assert answer.finish_reason == "context_window"
    assert answer.usage.total_tokens == 512


async def test_too_little_memory_is_said_and_not_tried_again(llm, monkeypatch):
    async with llm:
        await llm.provider.open()
        loaded = llm.provider._loaded()
        times = []

        def generate(**_):
            times.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(loaded._model, "generate", generate)
        with pytest.raises(BadRequestError, match="not enough memory"):
            await llm.complete("hello")
        assert len(times) == 1


async def test_what_the_library_does_not_take_is_said(llm):
    with pytest.raises(BadRequestError, match="colour"):
        await llm.complete("hello", extra_body={"colour": "red"})


@pytest.mark.parametrize("what", ["nothing", "no weights"])
async def test_a_missing_model_is_not_found(tmp_path, tokenizer, what):
    if what == "no weights":
        tokenizer.save_pretrained(tmp_path)
    async with LLM(f"huggingface/{tmp_path}", retry=ONCE) as llm:
        with pytest.raises(NotFoundError, match="cannot be loaded"):
            await llm.complete("hello")


# Cancellation


async def steps(folder, ask):
    """Return the tokens that were generated after `ask`, which leaves its call early."""
    async with LLM(f"huggingface/{folder}", retry=ONCE, max_tokens=400) as llm:
        await llm.provider.open()
        loaded = llm.provider._loaded()
        counted, begun, go_on = [], threading.Event(), threading.Event()

        def slowly(_, so_far):
            counted.append(1)
            begun.set()
            if len(counted) == 3:
                go_on.wait(20)
            return list(range(3, 300))

        await ask(llm, {"prefix_allowed_tokens_fn": slowly}, begun)
        go_on.set()
        # The worker is free again: the next call is answered, and nothing was generated beside.
        assert (await llm.complete("hello", max_tokens=2)).usage.output_tokens == 2
        assert loaded is llm.provider._loaded()
        return len(counted)


async def test_a_cancelled_call_stops_the_model(folder):
    async def cancel(llm, scripted, begun):
        task = asyncio.create_task(llm.complete("hello", extra_body=scripted))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert await steps(folder, cancel) <= 5


async def test_a_stream_that_is_left_stops_the_model(folder):
    async def leave(llm, scripted, begun):
        async with llm.stream("hello", extra_body=scripted) as stream:
            await anext(stream)

    assert await steps(folder, leave) <= 5


async def test_a_call_that_takes_too_long_stops_the_model(folder):
    async def wait(llm, scripted, begun):
        with pytest.raises(RetriesExhaustedError) as caught:
            await llm.complete("hello", extra_body=scripted, timeout=0.5)
        assert caught.value.attempts[0].error == "APITimeoutError"

    assert await steps(folder, wait) <= 5


# Loaded models


async def test_two_of_the_same_model_share_it_and_the_least_recently_used_goes(tmp_path):
    folders = [tiny.chat_model(tmp_path / name) for name in "abc"]
    first, second, third = (
        LLM(f"huggingface/{folder}", max_loaded=2, max_tokens=2) for folder in folders
    )
    again = LLM(f"huggingface/{folders[0]}", max_loaded=2)
    assert again.provider._loaded() is first.provider._loaded()
    loaded = {llm: llm.provider._loaded() for llm in (first, second)}
    for llm in (first, second, first, third):
        await llm.complete("hello")
    # The first was used after the second, which had to go.
    assert first.provider._loaded() is loaded[first]
    assert second.provider._loaded() is not loaded[second]
    assert len(MODELS._models) <= 2
    assert isinstance(loaded[second], LoadedModel)


def test_synchronous_calls_and_several_threads(llm):
    answers = []

    def ask(text):
        answers.append(llm.complete_sync(text).usage.output_tokens)

    threads = [threading.Thread(target=ask, args=(f"hello {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [20] * 4
