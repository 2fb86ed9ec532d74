"""Many prompts through a provider's batch API: half the price, within a day, resumable."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING

from tollway.batch import BatchRun, Item
from tollway.batch.journal import Journal
from tollway.chat.map import MapProgress, Outcome, own_error, without_raw
from tollway.chat.meter import Meter
from tollway.chat.repair import JsonError
from tollway.errors import (
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    ProviderError,
    StructuredOutputError,
    TollwayError,
)
from tollway.providers.batches import chat_batches

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence

    from tollway.batch import BatchOptions, BatchProgress
    from tollway.chat.checkpoint import MapCheckpoint
    from tollway.chat.path import CallPath
    from tollway.chat.request import CallOptions, Prompt
    from tollway.chat.structured import Wanted
    from tollway.providers import ChatProvider, ChatRequest
    from tollway.providers.batches import BatchResult, ChatBatchAPI
    from tollway.types import Completion

__all__ = ["batch_folder", "map_in_batches"]

# Options of a call that a batch cannot hold.
_NOT_TAKEN = ("deadline", "priority", "extra_headers")
# Prompts that are taken in before other tasks have their turn.
_STEP = 256


def batch_folder(checkpoint: str | os.PathLike[str]) -> Path:
    """Return where a checkpoint's batches are named: `answers.jsonl.batches`."""
    path = Path(checkpoint)
    return path.with_name(f"{path.name}.batches")


async def map_in_batches(
    path: CallPath,
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
    *,
    ask: Callable[[Prompt], ChatRequest],
    named: CallOptions,
    wanted: Wanted | None,
    checkpoint: MapCheckpoint | None,
    folder: Path | None,
    progress: Callable[[MapProgress], object] | None,
    keep_raw: bool,
    options: BatchOptions,
) -> list[Outcome]:
    """Answer every prompt in batches; see `LLM.map`.

    Args:
        path: Whose provider and retries.
        prompts: What to answer; all are drawn and kept.
        ask: Makes the request of a prompt.
        named: Options of the call.
        wanted: What answers are to be.
        checkpoint: Where answers are kept and looked up, or None.
        folder: Where batches are named while they are under way; None for a temporary one.
        progress: Called after each prompt and each look at the batches.
        keep_raw: Whether answers keep what the provider wrote around them.
        options: How to wait.
    """
    for name in _NOT_TAKEN:
        if named.get(name):
            raise ConfigurationError(f'mode="batch" takes no {name}')
    api = chat_batches(path.provider)
    total = len(prompts) if hasattr(prompts, "__len__") else None  # type: ignore[arg-type]
    work = _Work(
        path.provider,
        api,
        ask,
        wanted=wanted,
        checkpoint=checkpoint,
        told=progress,
        total=total,
        keep_raw=keep_raw,
    )
    journal = Journal(folder, api.model, api.address)
    await BatchRun(api, journal, path.retry, options, work).run(work.items(prompts))
    return [work.outcomes[number] for number in range(len(work.outcomes))]


@dataclasses.dataclass(slots=True)
class _Prompt:
    """A prompt under way.

    Attributes:
        number: Its place among all.
        prompt: It.
        tokens: Of its request.
        written: Hash of the body that was sent.
    """

    number: int
    prompt: Prompt
    tokens: int
    written: int


class _Work:
    """The prompts of one map."""

    def __init__(
        self,
        provider: ChatProvider,
        api: ChatBatchAPI,
        ask: Callable[[Prompt], ChatRequest],
        *,
        wanted: Wanted | None,
        checkpoint: MapCheckpoint | None,
        told: Callable[[MapProgress], object] | None,
        total: int | None,
        keep_raw: bool,
    ) -> None:
        self._meter = Meter(provider, batch=True)
        self._api = api
        self._ask = ask
        self._wanted = wanted
        self._checkpoint = checkpoint
        self._told = told
        self._keep_raw = keep_raw
        self._open: dict[str, _Prompt] = {}
        self._progress = MapProgress(total=total)
        self.outcomes: dict[int, Outcome] = {}

    async def items(
        self, prompts: Iterable[Prompt] | AsyncIterable[Prompt]
    ) -> AsyncGenerator[Item]:
        """Draw the prompts, and yield the requests of those that have no answer yet."""
        number = 0
        async for prompt in _each(prompts):
            item = self._item(number, prompt)
            if item is not None:
                yield item
            number += 1
            if number % _STEP == 0:
                await asyncio.sleep(0)

    def _item(self, number: int, prompt: Prompt) -> Item | None:
        name, body, tokens = str(number), b"", 0
        outcome: Outcome | None = None
        try:
            if self._checkpoint is not None:
                key = self._checkpoint.key(prompt)
                name, known = _name(key), self._checkpoint.get(key)
                outcome = None if known is None else Outcome(known, resumed=True)
            if outcome is None:
                request = self._ask(prompt)
                body, tokens = self._api.write(request), int(self._meter.count(request))
        except Exception as error:  # noqa: BLE001 - of what is in a prompt, as in the other modes
            outcome = Outcome(error=own_error(error))
        if outcome is not None:
            self._settle(number, outcome)
            return None
        self._open[name] = _Prompt(number, prompt, tokens, hash(body))
        return Item(name, body, tokens)

    async def take(self, results: Sequence[tuple[str, BatchResult]]) -> Mapping[str, ProviderError]:
        """Keep the answers in results; see `Work.take`."""
        failed: dict[str, ProviderError] = {}
        for name, result in results:
            prompt = self._open.get(name)
            try:
                answer = self._read(result, prompt)
                # Of a prompt that is not asked any more it is not known what it was to be.
                answer = answer if prompt is None else self._checked(answer)
            except ProviderError as error:
                failed[name] = error
                continue
            except StructuredOutputError as error:
                self._end(name, Outcome(error=error))
                continue
            if self._checkpoint is not None:
                key = _key(name)
                if prompt is not None or self._checkpoint.get(key) is None:
                    self._checkpoint.add(key, answer)
            self._end(name, Outcome(answer if self._keep_raw else without_raw(answer)))
        return failed

    def _read(self, result: BatchResult, prompt: _Prompt | None) -> Completion:
        if prompt is None:
            return self._meter.priced(self._api.read(result, None), 0)
        request = None if result.refused is None else self._ask(prompt.prompt)
        try:
            answer = self._api.read(result, request)
        except BadRequestError as error:
            if hash(self._api.write(self._ask(prompt.prompt))) == prompt.written:
                raise
            # The first refusal of the batch has taught what all of them are to leave out.
            raise BadResponseError(
                f"{error}; sent again without", status=error.status, retry_after=0.0
            ) from error
        return self._meter.priced(answer, prompt.tokens)

    def _checked(self, answer: Completion) -> Completion:
        """Return an answer with its value, where one was asked for.

        Raises:
            StructuredOutputError: It has none; in a batch nothing is asked again.
        """
        if self._wanted is None or answer.tool_calls:
            return answer
        problem = f"it ended with {answer.finish_reason}"
        if answer.finish_reason == "stop":
            try:
                return dataclasses.replace(answer, parsed=self._wanted.read(answer.text))
            except JsonError as error:
                problem = str(error)
        raise StructuredOutputError(
            f"the answer is not what was asked for: {problem}; its text is in completion", answer
        )

    async def fail(self, name: str, error: TollwayError) -> None:
        """Learn that a prompt has no answer."""
        self._end(name, Outcome(error=error))

    def again(self, name: str) -> bytes | None:
        """Return the body with what has been learned since; see `Work.again`."""
        prompt = self._open.get(name)
        if prompt is None:
            return None
        body = self._api.write(self._ask(prompt.prompt))
        prompt.written = hash(body)
        return body

    def allow(self, tokens: int) -> None:
        """Allow any number."""

    def show(self, progress: BatchProgress) -> None:
        """Pass on how far the batches are."""
        self._progress.batches = progress
        self._tell()

    def _end(self, name: str, outcome: Outcome) -> None:
        if name in self._open:
            self._settle(self._open.pop(name).number, outcome)

    def _settle(self, number: int, outcome: Outcome) -> None:
        self.outcomes[number] = outcome
        self._progress.add(outcome)
        self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._told(self._progress)


async def _each(prompts: Iterable[Prompt] | AsyncIterable[Prompt]) -> AsyncIterator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt


def _name(key: str) -> str:
    """Return a checkpoint's key as a batch takes it: at most 64 characters, with what is added."""
    digest, _, number = key.partition("-")
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=") + f"-{number}"


def _key(name: str) -> str:
    digest, _, number = name.rpartition("-")
    return f"{base64.urlsafe_b64decode(digest + '=').hex()}-{number}"
