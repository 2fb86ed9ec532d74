"""Tools that a model may call: made from functions and models, and the loop that runs them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tollway.errors import ConfigurationError, ToolLoopError
from tollway.providers.worker import in_thread
from tollway.retry.interrupt import failure_of
from tollway.types import Completion, Message, Tool, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["OnToolError", "Runnable", "ToolRun", "read_tool", "run_loop"]

OnToolError: TypeAlias = Literal["result", "raise"]


@dataclass(frozen=True, slots=True)
class Runnable:
    """A tool and what runs it.

    Attributes:
        tool: As the model sees it.
        run: Takes the arguments, returns the result; None where the caller is to run it.
    """

    tool: Tool
    run: Callable[[dict[str, Any]], Awaitable[Any]] | None


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What came of a loop over tools.

    Attributes:
        completion: The last answer.
        messages: The whole conversation, that answer included.
        rounds: How many answers asked for tools that were run.
        usage: Of all answers.
        cost: Of all answers, US dollars; None where one's is not known.
    """

    completion: Completion
    messages: tuple[Message, ...]
    rounds: int
    usage: Usage
    cost: float | None


def read_tool(given: Tool | Callable[..., Any]) -> Runnable:
    """Return a tool from a `Tool`, a pydantic model or a typed function.

    Of a function its name, the first paragraph of its docstring and its parameters make the tool;
    the arguments are checked against the annotations before it is called. A model's fields are the
    arguments; it is not run.

    Raises:
        ConfigurationError: It is none of these, or a parameter has no annotation, or one that is
            not known here or that JSON has no form of.
    """
    if isinstance(given, Tool):
        return Runnable(given, None)
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        model = cast("Any", given)
        return Runnable(Tool(given.__name__, _paragraph(given), model.model_json_schema()), None)
    if not callable(given):
        raise ConfigurationError(f"a tool is a function, a pydantic model or a Tool, not {given!r}")
    return _from_function(given)


def _from_function(function: Callable[..., Any]) -> Runnable:
    import pydantic  # noqa: PLC0415 - only tools and schemas need it; it comes with the OpenAI SDK

    name = getattr(function, "__name__", type(function).__name__)
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    try:
        hints = inspect.get_annotations(inspect.unwrap(function), eval_str=True)
        parameters = inspect.signature(function).parameters.values()
    except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the parameters of the tool {name} cannot be read: {error}"
        ) from error
    for parameter in parameters:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise ConfigurationError(
                f"the tool {name} takes *{parameter.name}; name its parameters"
            )
        if parameter.name not in hints:
            raise ConfigurationError(
                f"the parameter {parameter.name} of the tool {name} has no type"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        field, hint = f"field_{len(fields)}", hints[parameter.name]
        if not (parameter.name.startswith("_") or hasattr(pydantic.BaseModel, parameter.name)):
            field, value = parameter.name, default
        else:
            # A name that is pydantic's own, or private to it.
            value = pydantic.Field(default, alias=parameter.name)
        fields[field], names[parameter.name] = (hint, value), field
    try:
        model: Any = pydantic.create_model(name, **fields)
        schema = model.model_json_schema()
    except (pydantic.errors.PydanticUserError, SyntaxError) as error:
        raise ConfigurationError(
            f"a parameter of the tool {name} is of a type that JSON has no form of: "
            f"{str(error).splitlines()[0]}"
        ) from error
    schema.pop("title", None)

    async def run(arguments: dict[str, Any]) -> Any:
        checked = model.model_validate(arguments)
        values = {name: getattr(checked, field) for name, field in names.items()}
        if inspect.iscoroutinefunction(function):
            return await function(**values)
        # A function that blocks must not hold up the other calls, nor take a thread from others.
        result = await in_thread(functools.partial(function, **values), "tollway-tool")
        return await result if inspect.isawaitable(result) else result

    return Runnable(Tool(name, _paragraph(function), schema), run)


def _paragraph(of: object) -> str:
    return " ".join((inspect.getdoc(of) or "").partition("\n\n")[0].split())


async def run_loop(
    ask: Callable[[Sequence[Message]], Awaitable[Completion]],
    messages: Sequence[Message],
    tools: Sequence[Runnable],
    *,
    max_rounds: int,
    on_error: OnToolError,
) -> ToolRun:
    """Ask, run the tools that the answer calls, and ask again with their results.

    The calls of one answer run at the same time; the loop ends with an answer that calls none, or
    one that the caller is to run.

    Args:
        ask: Answers a conversation.
        messages: To begin with.
        tools: That may be called.
        max_rounds: How often at most tools are run.
        on_error: What an exception of a tool does: become its `result`, for the model to see, or
            be raised.

    Raises:
        ToolLoopError: The model still calls tools after `max_rounds`; carries the `ToolRun`.
    """
    by_name = {known.tool.name: known for known in tools}
    said = list(messages)
    usage, cost = Usage(), cast("float | None", 0.0)
    for round_ in range(max_rounds + 1):
        answer = await ask(said)
        usage += answer.usage
        cost = None if cost is None or answer.cost is None else cost + answer.cost
        said.append(answer.message)
        done = ToolRun(answer, tuple(said), round_, usage, cost)
        calls = answer.tool_calls
        if not calls or any(_is_callers(call, by_name) for call in calls):
            return done
        if round_ == max_rounds:
            error = ToolLoopError(
                f"the model still calls {calls[0].name} after {max_rounds} rounds; the "
                "conversation is in finished, and may go on"
            )
            error.finished = done
            raise error
        said.extend(await _results(calls, by_name, on_error))
    raise AssertionError("unreachable")


def _is_callers(call: ToolCall, tools: dict[str, Runnable]) -> bool:
    known = tools.get(call.name)
    return known is not None and known.run is None


async def _results(
    calls: Sequence[ToolCall], tools: dict[str, Runnable], on_error: OnToolError
) -> list[Message]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(call, tools, on_error)) for call in calls]
    results: list[Message] = []
    for call, task in zip(calls, tasks, strict=True):
        outcome = task.result()
        if isinstance(outcome, Exception):
            raise outcome
        results.append(Message("tool", outcome, name=call.name, tool_call_id=call.id))
    return results


async def _outcome(
    call: ToolCall, tools: dict[str, Runnable], on_error: OnToolError
) -> str | Exception:
    """Return the text of a result; an exception where it is to be raised."""
    known = tools.get(call.name)
    if known is None or known.run is None:
        return f"Error: there is no tool {call.name}; there are {', '.join(tools)}"
    try:
        arguments = json.loads(call.arguments or "{}")
        result = await known.run(arguments)
        if isinstance(result, str):
            return result
        # Escaped, what is not English would be several times as many tokens.
        return json.dumps(result, default=_plain, ensure_ascii=False)
    except (Exception, asyncio.CancelledError) as raised:
        error = failure_of(raised)
        if not isinstance(error, Exception):
            raise
        return error if on_error == "raise" else f"Error: {type(error).__name__}: {error}"


def _plain(value: Any) -> Any:
    """Return what JSON can hold for a value that it cannot."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)
