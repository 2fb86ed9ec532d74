"""Texts through a provider's batch API: half the price, within a day."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import TYPE_CHECKING

from tollway.batch import BatchOptions, BatchRun, Item
from tollway.batch.journal import Journal
from tollway.embed.packing import Batch
from tollway.embed.rows import Averages, Sent
from tollway.errors import (
    BadResponseError,
    ConfigurationError,
    ProviderError,
    RequestTooLargeError,
)
from tollway.providers.batches import embedding_batches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tollway.batch import BatchProgress
    from tollway.embed.embedder import Embedder
    from tollway.embed.packing import Prepared
    from tollway.embed.sending import Tally
    from tollway.errors import TollwayError
    from tollway.providers.base import EmbeddingAnswer, EmbeddingProvider
    from tollway.providers.batches import BatchResult

__all__ = ["BatchSending", "Unpacked", "check_mode"]


def check_mode(mode: str, provider: EmbeddingProvider) -> None:
    """Refuse a `mode` that cannot be, before anything is read or sent.

    Raises:
        ConfigurationError: It is neither `direct` nor `batch`, or the provider has no batch API.
    """
    if mode == "batch":
        embedding_batches(provider)
    elif mode != "direct":
        raise ConfigurationError(f"mode must be direct or batch, not {mode!r}")


class Unpacked:
    """In place of a `Packer`: a batch holds a request for each text, so that each fails alone."""

    def add(self, keys: Sequence[int], prepared: Prepared) -> list[Batch]:
        """Return the texts as they are, the pieces of one next to each other."""
        owners = [keys[owner] for owner in prepared.owners]
        return [Batch(owners, prepared.texts, prepared.counts)]

    def flush(self) -> list[Batch]:
        """Return nothing: nothing is held back."""
        return []


@dataclasses.dataclass(slots=True)
class _Text:
    """A text under way.

    Attributes:
        keys: The caller's number of it; of several where they are equal as they are sent.
        counts: Tokens of each of its pieces.
    """

    keys: list[int]
    counts: NDArray[np.int64]


class BatchSending:
    """One call's texts in batches; stands where a `Sending` does.

    Args:
        embedder: Its provider's batch API, retries and ceilings.
        deliver: Awaited with what became of texts, in order of completion.
        tally: Added to.
        folder: Where batches are named while they are under way; None for a temporary one.
        options: How to wait.
        told: Called with how far the batches are.

    Raises:
        ConfigurationError: The provider has no batch API.
    """

    def __init__(
        self,
        embedder: Embedder,
        deliver: Callable[[Sent], Awaitable[None]],
        tally: Tally,
        *,
        folder: Path | None = None,
        options: BatchOptions | None = None,
        told: Callable[[BatchProgress], object] | None = None,
    ) -> None:
        self._embedder = embedder
        self._api = embedding_batches(embedder.provider)
        self._deliver = deliver
        self._tally = tally
        self._folder = folder
        self._options = options or BatchOptions()
        self._told = told
        self._open: dict[str, _Text] = {}
        self.averages = Averages()

    async def run(self, batches: AsyncGenerator[Batch]) -> None:
        """Send every text and deliver what became of it; see `BatchRun.run`."""
        journal = Journal(self._folder, self._api.model, self._api.address)
        run = BatchRun(self._api, journal, self._embedder.retry, self._options, self)
        try:
            await run.run(self._items(batches))
        finally:
            await batches.aclose()

    async def _items(self, batches: AsyncGenerator[Batch]) -> AsyncGenerator[Item]:
        async for batch in batches:
            start = 0
            for key, pieces in itertools.groupby(batch.keys):
                end = start + sum(1 for _ in pieces)
                texts, counts = batch.texts[start:end], batch.counts[start:end]
                start = end
                body = self._api.write(texts)
                name = hashlib.blake2b(body, digest_size=20).hexdigest()
                if name in self._open:
                    self._open[name].keys.append(key)
                    continue
                self._open[name] = _Text([key], counts)
                problem = self._problem(counts)
                if problem is not None:
                    await self.fail(name, problem)
                    continue
                yield Item(name, body, int(counts.sum()), len(texts))

    def _problem(self, counts: NDArray[np.int64]) -> TollwayError | None:
        """Return why the pieces of a text are no request, or None."""
        rules, tokens = self._embedder.provider.rules, int(counts.sum())
        most = rules.max_request_tokens
        if len(counts) <= rules.max_texts and (most is None or tokens <= most):
            return None
        return RequestTooLargeError(
            f"a text of {tokens:,} tokens in {len(counts):,} pieces is more than one request of "
            f"{self._api.model} takes, and in a batch a text is not spread over several"
        )

    async def take(self, results: Sequence[tuple[str, BatchResult]]) -> Mapping[str, ProviderError]:
        """Deliver the rows in results; see `Work.take`."""
        import numpy as np  # noqa: PLC0415

        failed: dict[str, ProviderError] = {}
        done: list[tuple[_Text, NDArray[np.float32]]] = []
        for name, result in results:
            text = self._open.get(name)
            if text is None:
                # Of an earlier run, and no more in the input.
                continue
            try:
                answer = self._read(result, text)
            except ProviderError as error:
                failed[name] = error
                continue
            del self._open[name]
            done += [(dataclasses.replace(text, keys=[key]), answer.vectors) for key in text.keys]
        if done:
            keys = [text.keys[0] for text, rows in done for _ in range(len(rows))]
            counts = np.concatenate([text.counts for text, _ in done])
            vectors = np.concatenate([rows for _, rows in done])
            self._tally.texts += len(done)
            await self._hand_over(keys, counts, vectors, None)
        return failed

    def _read(self, result: BatchResult, text: _Text) -> EmbeddingAnswer:
        answer = self._api.read(result, len(text.counts))
        usage = answer.usage
        if usage.estimated:
            usage = dataclasses.replace(usage, input_tokens=int(text.counts.sum()))
        # Paid for, whatever it is worth.
        self._tally.usage += usage
        if answer.bad_rows:
            row, reason = answer.bad_rows[0]
            raise BadResponseError(f"row {row} of an answer is of no use: {reason}", status=200)
        self._embedder.check_dimensions(answer.vectors.shape[1])
        return answer

    async def _hand_over(
        self,
        keys: list[int],
        counts: NDArray[np.int64],
        vectors: NDArray[np.float32] | None,
        error: TollwayError | None,
    ) -> None:
        batch = Batch(keys, [""] * len(keys), counts)
        failed = range(len(keys)) if vectors is None else ()
        joined = self.averages.join(batch, Sent(keys, vectors, failed, error))
        if joined.keys:
            await self._deliver(joined)

    async def fail(self, name: str, error: TollwayError) -> None:
        """Deliver that a text has no row."""
        text = self._open.pop(name)
        for key in text.keys:
            await self._hand_over([key] * len(text.counts), text.counts, None, error)

    def again(self, name: str) -> bytes | None:
        """Return None: a text is sent as it was."""
        del name
        self._tally.retries += 1
        return None

    def allow(self, tokens: int) -> None:
        """Raise where a further batch costs too much; see `Work.allow`."""
        self._embedder.allow(self._tally.usage.input_tokens + tokens, batch=True)

    def show(self, progress: BatchProgress) -> None:
        """Pass on how far the batches are."""
        self._tally.sent = progress.submitted
        if self._told is not None:
            self._told(progress)
