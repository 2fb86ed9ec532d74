"""Tools: made from functions, run at the same time, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Annotated, Literal

import pydantic
import pytest

from chat_fakes import llm_of, said
from tollway import Tool, ToolCall
from tollway.chat.tools import read_tool
from tollway.errors import APIConnectionError, ConfigurationError, ToolLoopError


def calls(*named, finish_reason="tool_calls"):
    made = tuple(ToolCall(f"c{i}", name, arguments) for i, (name, arguments) in enumerate(named))
    return said("", tool_calls=made, finish_reason=finish_reason)


def get_weather(
    city: Annotated[str, pydantic.Field(description="Where.")],
    unit: Literal["C", "F"] = "C",
    days: int | None = None,
) -> str:
    """Return the weather
    in a city.

    Not told to the model.
    """
    return f"{city} {unit} {days!r}"


class Place(pydantic.BaseModel):
    """A place."""

    name: str


async def lookup(place: Place, deep: list[Place]) -> dict:
    """Look a place up."""
    return {"place": place.name, "deep": len(deep)}


def test_a_function_is_a_tool():
    tool = read_tool(get_weather).tool
    assert (tool.name, tool.description) == ("get_weather", "Return the weather in a city.")
    assert tool.parameters["required"] == ["city"]
    assert tool.parameters["properties"]["city"] == {
        "type": "string",
        "title": "City",
        "description": "Where.",
    }
    assert tool.parameters["properties"]["unit"]["enum"] == ["C", "F"]


def test_a_model_and_a_tool_are_tools():
    assert read_tool(Place).tool.name == "Place"
    assert read_tool(Place).tool.description == "A place."
    assert read_tool(Place).run is None
    plain = Tool("x")
    assert read_tool(plain).tool is plain


def of_no_schema(lock: threading.Lock) -> str:
    """Take what no JSON is."""
    return str(lock)


def unknown_type(number: NotImported) -> int:  # noqa: F821 - that is the point
    """Take what only a type checker imports."""
    return number


def described_type(place: "the place") -> str:  # noqa: F722 - that is the point
    """Take what is told in words."""
    return place


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        "x",
        lambda untyped: 1,
        lambda *args: 1,
        dict,
        of_no_schema,
        unknown_type,
        described_type,
    ],
)
def test_what_is_no_tool_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        read_tool(wrong)


class Lookup:
    """What is called as an async function, and looks like none."""

    __name__ = "lookup"
    __annotations__ = {"place": str}

    async def __call__(self, place):
        return f"found {place}"


async def test_what_returns_an_awaitable_is_awaited():
    llm, provider = llm_of(calls(("lookup", '{"place": "Oslo"}')), said("done"))
    await llm.run_tools("go", tools=[Lookup()])
    assert provider.requests[1].messages[-1].content == "found Oslo"


async def test_the_loop_runs_tools_until_there_is_an_answer():
    llm, provider = llm_of(
        calls(
            ("get_weather", '{"city": "Seoul", "days": 2}'),
            ("lookup", '{"place": {"name": "x"}, "deep": [{"name": "y"}]}'),
        ),
        said("done"),
    )
    run = await llm.run_tools("go", tools=[get_weather, lookup])
    assert run.completion.text == "done"
    assert run.rounds == 1
    assert run.usage.requests == 2
    assert [message.role for message in run.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    first, second = run.messages[2:4]
    assert (first.tool_call_id, first.content) == ("c0", "Seoul C 2")
    assert (second.tool_call_id, json.loads(second.content)) == ("c1", {"place": "x", "deep": 1})
    assert provider.requests[1].messages[-1] == second


async def test_the_calls_of_one_answer_run_at_the_same_time():
    meeting = asyncio.Barrier(2)
    threads = threading.Barrier(2)

    async def one(number: int) -> int:
        """Meet the other."""
        await asyncio.wait_for(meeting.wait(), 20)
        return number

    def blocking(number: int) -> int:
        """Meet the other in a thread."""
        threads.wait(20)
        return number

    script = [*[(f, f'{{"number": {n}}}') for f in ("one", "blocking") for n in (1, 2)]]
    llm, _ = llm_of(calls(*script), said("done"))
    run = await llm.run_tools("go", tools=[one, blocking])
    assert [message.content for message in run.messages[2:6]] == ["1", "2", "1", "2"]


async def test_however_many_they_are():
    count = 40
    threads = threading.Barrier(count)

    def meet() -> str:
        """Meet all the others."""
        threads.wait(20)
        return "met"

    llm, _ = llm_of(calls(*[("meet", "{}")] * count), said("done"))
    run = await llm.run_tools("go", tools=[meet])
    assert [message.content for message in run.messages[2:-1]] == ["met"] * count


def failing(text: str) -> str:
    """Fail."""
    raise KeyError(text)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("failing", '{"text": "why"}', "KeyError: 'why'"),
        ("failing", "{}", "ValidationError"),
        ("failing", "no json", "JSONDecodeError"),
        ("unknown", "{}", "there is no tool unknown; there are failing"),
    ],
)
async def test_an_error_is_told_to_the_model(name, arguments, told):
    llm, provider = llm_of(calls((name, arguments)), said("sorry"))
    run = await llm.run_tools("go", tools=[failing])
    assert run.completion.text == "sorry"
    assert told in provider.requests[1].messages[-1].content


def unwritable() -> dict:
    """Return what no JSON is."""
    return {(1, 2): 3}


async def cancelled() -> str:
    """Be cancelled from within."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("tool", [unwritable, cancelled])
async def test_neither_a_result_nor_a_cancellation_of_its_own_ends_the_loop(tool):
    llm, provider = llm_of(calls((tool.__name__, "{}")), said("sorry"))
    assert (await llm.run_tools("go", tools=[tool])).completion.text == "sorry"
    assert provider.requests[1].messages[-1].content.startswith("Error: ")
    llm, _ = llm_of(calls((tool.__name__, "{}")), said("sorry"))
    with pytest.raises((TypeError, APIConnectionError)):
        await llm.run_tools("go", tools=[tool], on_tool_error="raise")


async def test_a_tool_under_way_is_cancelled_with_the_call():
    is_running, ended = asyncio.Event(), []

    async def slow() -> str:
        """Take long."""
        is_running.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)
        return "late"

    llm, _ = llm_of(calls(("slow", "{}")), said("never"))
    task = asyncio.create_task(llm.run_tools("go", tools=[slow]))
    await is_running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_or_stops_the_loop():
    llm, provider = llm_of(calls(("failing", '{"text": "why"}')), said("never"))
    with pytest.raises(KeyError, match="why"):
        await llm.run_tools("go", tools=[failing], on_tool_error="raise")
    assert len(provider.requests) == 1


async def test_the_rounds_are_limited():
    llm, provider = llm_of(calls(("get_weather", '{"city": "Seoul"}')))
    with pytest.raises(ToolLoopError, match="after 3 rounds") as caught:
        await llm.run_tools("go", tools=[get_weather], max_rounds=3)
    assert len(provider.requests) == 4
    assert caught.value.finished.rounds == 3
    assert caught.value.finished.usage.requests == 4
    with pytest.raises(ConfigurationError):
        await llm.run_tools("go", tools=[get_weather], max_rounds=0)


@pytest.mark.parametrize(
    ("choice", "tools", "later"),
    [
        ("get_weather", [get_weather], None),
        ("required", [get_weather], None),
        ("none", [get_weather], "none"),
        # One that ends the loop may be called at any time.
        ("required", [get_weather, Place], "required"),
        ("Place", [get_weather, Place], "Place"),
    ],
)
async def test_a_choice_by_which_the_loop_would_never_end_is_for_the_first_answer(
    choice, tools, later
):
    llm, provider = llm_of(
        calls(("get_weather", '{"city": "Seoul"}')), said("done"), tool_choice=choice
    )
    assert (await llm.run_tools("go", tools=tools)).completion.text == "done"
    assert [request.tool_choice for request in provider.requests] == [choice, later]


async def test_a_tool_that_is_only_described_is_the_callers():
    llm, provider = llm_of(calls(("Place", '{"name": "x"}')))
    run = await llm.run_tools("go", tools=[Place, get_weather])
    assert run.completion.tool_calls[0].name == "Place"
    assert len(provider.requests) == 1


def test_the_loop_for_synchronous_code():
    llm, _ = llm_of(calls(("get_weather", '{"city": "Seoul"}')), said("done"))
    assert llm.run_tools_sync("go", tools=[get_weather]).completion.text == "done"
