"""Several short items in one request, and their answers apart again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast

from tollway.bridge import run_sync
from tollway.chat.map import own_error, run_workers
from tollway.chat.request import CallOptions, check_options
from tollway.chat.schemas import checker, is_strict, strict_schema
from tollway.chat.structured import Wanted
from tollway.errors import (
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    StructuredOutputError,
    TollwayError,
)
from tollway.tokens import tokenizer_for_model
from tollway.types import JsonFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tollway.chat.llm import LLM
    from tollway.types import Completion

__all__ = ["ItemOutcome", "batch_items", "batch_items_sync"]

# Tokens of an item's number and its punctuation in a request.
_FRAME = 12

# Of an item's number, and more.
_DIGITS = 10

# Items refused alone, before any has an answer, after which none is looked for any more.
_ENOUGH = 3

_TOLD = (
    "There are {count} items below, one JSON object a line. Answer each on its own, as if it were "
    "the only one, and give every answer with the number of its item."
)


@dataclasses.dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item.

    Attributes:
        value: The answer, checked; None where there is an error.
        error: Why there is none, or None.
        completion: The answer of the request that it came with, which holds those of other items
            too; its usage and cost are of all of them. None where there is an error.
    """

    value: Any = None
    error: TollwayError | None = None
    completion: Completion | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None


async def batch_items(
    llm: LLM,
    instruction: str,
    items: Iterable[str],
    *,
    answer: Any = str,
    max_items: int = 20,
    max_input_tokens: int = 4000,
    concurrency: int = 25,
    **options: Unpack[CallOptions],
) -> list[ItemOutcome]:
    """Ask the same of many short items, several of them in one request.

    A request holds the instruction and the items with their numbers; its answer is JSON with the
    same numbers. Items whose answer is missing or not what it should be are asked again, first
    together, then each alone. Where a request fails because of what is in it, or is cut short, its
    items are asked in two halves, so that one item costs the others nothing but time.

    Args:
        llm: Who answers.
        instruction: What to do with one item.
        items: n texts.
        answer: What one answer is: any type that pydantic knows (`str`, `Literal["yes", "no"]`,
            `list[str]`, a model), or a JSON schema.
        max_items: The most items of a request.
        max_input_tokens: The most tokens of the items of a request; an item with more goes alone.
        concurrency: Requests under way at once.
        options: As in `LLM.complete`, but for `response_format` and `tools`.

    Returns:
        Outcome i for item i, with `ok`, `value`, or `error`, a `TollwayError`: `BadResponseError`
        or `StructuredOutputError` where the model gave no answer of use to it alone.

    Raises:
        ConfigurationError: An argument cannot work. Nothing was sent.

    Cancellation: requests under way are closed; nothing is kept.
    """
    check_options(options)
    if {"response_format", "tools"} & options.keys():
        raise ConfigurationError("the answers' form is given by answer; they call no tools")
    if min(max_items, max_input_tokens, concurrency) < 1:
        raise ConfigurationError("max_items, max_input_tokens and concurrency are 1 or more")
    if isinstance(items, str):
        raise ConfigurationError("items are many texts, as a list")
    given = list(items)
    for number, item in enumerate(given):
        if not isinstance(item, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"item {number} is no text but {type(item).__name__}")
    asking = _Asking(llm, instruction, given, answer, options)
    packs = asking.packs(max_items, max_input_tokens)

    async def work() -> None:
        for pack in packs:
            await asking.solve(pack)

    await run_workers(work, concurrency)
    return asking.outcomes


def batch_items_sync(
    llm: LLM,
    instruction: str,
    items: Iterable[str],
    *,
    answer: Any = str,
    max_items: int = 20,
    max_input_tokens: int = 4000,
    concurrency: int = 25,
    **options: Unpack[CallOptions],
) -> list[ItemOutcome]:
    """Ask as `batch_items` does, from synchronous code; works inside a running loop too."""
    return run_sync(
        batch_items(
            llm,
            instruction,
            items,
            answer=answer,
            max_items=max_items,
            max_input_tokens=max_input_tokens,
            concurrency=concurrency,
            **options,
        )
    )


class _Asking:
    """One call: its items, and what has become of them."""

    def __init__(
        self, llm: LLM, instruction: str, items: list[str], answer: Any, options: CallOptions
    ) -> None:
        self._llm = llm
        self._instruction = instruction
        self._items = items
        schema, self._check = _form(answer)
        # Those of the model itself would answer in the place of an answer.
        no_tools: CallOptions = {"tools": (), "tool_choice": None, "parallel_tool_calls": None}
        self._options: CallOptions = {**options, **no_tools, "response_format": _wanted(schema)}
        nothing = BadResponseError("the item was not asked")
        self._has_succeeded = False
        self._refused_alone = 0
        self.outcomes = [ItemOutcome(error=nothing)] * len(items)

    def packs(self, max_items: int, max_tokens: int) -> Iterator[list[int]]:
        """Yield the numbers of the items of each request, in order."""
        tokenizer = tokenizer_for_model(self._llm.provider.rules.token_model)
        pack: list[int] = []
        held = 0
        for number, item in enumerate(self._items):
            tokens = int(tokenizer.count(item)) + _FRAME
            if pack and (len(pack) == max_items or held + tokens > max_tokens):
                yield pack
                pack, held = [], 0
            pack.append(number)
            held += tokens
        if pack:
            yield pack

    async def solve(self, pack: Sequence[int], *, is_again: bool = False) -> None:
        """Ask for the answers of some items until each has one, or its error."""
        try:
            completion = await self._llm.complete(self._prompt(pack), **self._options)
        except (BadRequestError, StructuredOutputError) as error:
            # Of one of the items, or of their number.
            if len(pack) == 1 or self._is_hopeless(error):
                self._refused_alone += len(pack) == 1
                self._fail(pack, error)
                return
            middle = len(pack) // 2
            for half in (pack[:middle], pack[middle:]):
                await self.solve(half, is_again=is_again)
            return
        except Exception as error:  # noqa: BLE001 - whatever a provider of the user's own raises
            self._fail(pack, own_error(error))
            return
        missing = self._take(pack, completion)
        if len(pack) == 1:
            for number, why in missing.items():
                self._fail([number], BadResponseError(f"item {number} has no answer: {why}"))
        elif missing and not is_again:
            await self.solve([*missing], is_again=True)
        else:
            for number in missing:
                await self.solve([number])

    def _is_hopeless(self, error: TollwayError) -> bool:
        """Whether it is rather the request than any item that is refused: nothing has succeeded."""
        is_general = type(error) is BadRequestError and not self._has_succeeded
        return is_general and self._refused_alone >= _ENOUGH

    def _prompt(self, pack: Sequence[int]) -> str:
        told = _TOLD.format(count=len(pack)) if len(pack) > 1 else "There is one item below."
        # As JSON an item cannot be taken for two, nor for more of the instruction.
        lines = [
            json.dumps({"number": place, "item": self._items[number]}, ensure_ascii=False)
            for place, number in enumerate(pack, 1)
        ]
        return "\n".join([self._instruction, "", told, "", *lines])

    def _take(self, pack: Sequence[int], completion: Completion) -> dict[int, str]:
        """Keep the answers of use; return the items without one, and why."""
        given: dict[int, list[Any]] = {}
        for entry in cast("list[dict[str, Any]]", completion.parsed or []):
            given.setdefault(entry["number"], []).append(entry["answer"])
        missing: dict[int, str] = {}
        for place, number in enumerate(pack, 1):
            answers = given.get(place, [])
            if len(answers) != 1:
                several = f"there are {len(answers)} for its number"
                missing[number] = several if answers else "the model gave none"
                continue
            try:
                value = self._check(answers[0])
            except ValueError as error:
                missing[number] = str(error)[:1000]
            else:
                self._has_succeeded = True
                self.outcomes[number] = ItemOutcome(value, None, completion)
        return missing

    def _fail(self, pack: Sequence[int], error: TollwayError) -> None:
        for number in pack:
            self.outcomes[number] = ItemOutcome(error=error)


def _form(answer: Any) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Return the schema of one answer, and what checks one."""
    if isinstance(answer, Mapping):
        given = cast("Mapping[str, Any]", answer)
        return dict(given), checker(given)
    import pydantic  # noqa: PLC0415 - only tools and schemas need it; it comes with the OpenAI SDK

    try:
        adapter: Any = pydantic.TypeAdapter(answer)
        return strict_schema(adapter.json_schema()), adapter.validate_python
    except pydantic.errors.PydanticUserError as error:
        raise ConfigurationError(
            f"answer is a type that pydantic knows or a JSON schema, not {answer!r:.80}"
        ) from error


def _wanted(schema: dict[str, Any]) -> Wanted:
    """Return the form of a whole answer, of which only the outside is checked at once."""
    entry = {
        "type": "object",
        "properties": {"number": {"type": "integer"}, "answer": schema},
        "required": ["number", "answer"],
        "additionalProperties": False,
    }
    whole: dict[str, Any] = {
        "type": "object",
        "properties": {"answers": {"type": "array", "items": entry}},
        "required": ["answers"],
        "additionalProperties": False,
    }
    # References lead from the root.
    definitions = schema.pop("$defs", None)
    if definitions is not None:
        whole["$defs"] = definitions
    return Wanted(JsonFormat(whole, "answers", strict=is_strict(whole)), _entries)


def _entries(value: Any) -> list[dict[str, Any]]:
    """Return the entries of an answer that have a number and an answer."""
    whole: Any = value
    listed: Any = whole.get("answers") if isinstance(value, dict) else whole
    each = cast("Sequence[Any]", listed) if isinstance(listed, list) else ()
    entries = [entry for entry in map(_entry, each) if entry is not None]
    # A list alone may be any that stands among other words.
    if not isinstance(listed, list) or not (entries or isinstance(value, dict)):
        raise ValueError('it has no list "answers"')
    return entries


def _entry(given: Any) -> dict[str, Any] | None:
    """Return an entry with its number, which some models write as text; None where it is none."""
    if not isinstance(given, dict) or "answer" not in given:
        return None
    entry = cast("dict[str, Any]", given)
    number = entry.get("number")
    if isinstance(number, str) and number.isdecimal() and len(number) < _DIGITS:
        number = int(number)
    # True and False are numbers to Python.
    return {**entry, "number": number} if type(number) is int else None
