"""Embeddings handed on as they come, for whoever keeps them elsewhere."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

from tollway.bridge import run_sync
from tollway.embed.inputs import Input, Source
from tollway.embed.report import JobReport, Progress, TextError, described
from tollway.embed.sending import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from numpy.typing import NDArray

    from tollway.embed.embedder import Embedder
    from tollway.embed.packing import Batch
    from tollway.embed.rows import Averages, Sent
    from tollway.embed.sources import Document

    Deliver = Callable[[list[Document], NDArray[Any]], Awaitable[object] | object]

__all__ = ["embed_stream", "embed_stream_sync"]


def embed_stream_sync(
    source: Source, deliver: Deliver, embedder: Embedder, **options: Any
) -> JobReport:
    """Run `embed_stream` from synchronous code; `deliver` is called in another thread."""
    return run_sync(embed_stream(source, deliver, embedder, **options))


async def embed_stream(
    source: Source,
    deliver: Deliver,
    embedder: Embedder,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    chunk: int | None = None,
    overlap: int = 0,
    **reading: Any,
) -> JobReport:
    """Embed documents and hand each request's on as it is answered; nothing is kept on disk.

    Documents are read as there is room for their requests, and no request is begun while `deliver`
    has more to do than the limits allow requests in flight: memory is bounded by what is in flight.
    Equal texts in flight at the same time are sent once.

    Args:
        source: What `embed_job` takes.
        deliver: Called with documents and their vectors, shape (n, d), in order of completion, one
            call at a time; awaited where it returns an awaitable.
        embedder: What embeds.
        on_progress: Called after every answer.
        chunk: Split documents into chunks of at most so many tokens.
        overlap: Tokens that a chunk repeats of the one before.
        reading: `split`, `text_field`, `id_field`, `format` of `read_documents`.

    Returns:
        A report without output; documents without a vector are in its `errors`, and not delivered.

    Raises:
        TollwayError: As `embed_job` does; what was delivered stays so.
        Exception: What `deliver` raises.

    Cancellation: safe at every await; requests under way are closed.
    """
    stream = _Stream(embedder, deliver, on_progress)
    async with Input(
        source, embedder.encoding, chunk=chunk, overlap=overlap, **reading
    ) as documents:
        sending = embedder.sending(stream.keep, stream.tally, budgeted=True)
        await sending.run(stream.batches(documents, sending.averages))
    return stream.report()


class _Stream:
    """One run: which documents wait for which text."""

    def __init__(
        self,
        embedder: Embedder,
        deliver: Deliver,
        on_progress: Callable[[Progress], object] | None,
    ) -> None:
        self._embedder = embedder
        self._deliver = deliver
        self._on_progress = on_progress
        self._one_at_a_time = asyncio.Lock()
        self._started = time.monotonic()
        # Texts in flight by number, the documents that each is of, and the number of each text.
        self._waiting: dict[int, list[Document]] = {}
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._truncated: list[str] = []
        self._errors: list[TextError] = []
        self._settled = 0
        self.tally = Tally()

    async def batches(self, documents: Input, averages: Averages) -> AsyncGenerator[Batch]:
        packer = self._embedder.packer()
        async for group in documents.groups():
            numbers = self._draw(group)
            names = [self._waiting[number][0].id for number in numbers]
            texts = [self._waiting[number][0].text for number in numbers]
            prepared = self._embedder.prepare(
                texts, names.__getitem__, lenient=self.tally.texts > 0
            )
            self._truncated.extend(names[i] for i in prepared.truncated)
            averages.expect(numbers, prepared)
            for batch in packer.add(numbers, prepared):
                yield batch
        for batch in packer.flush():
            yield batch

    def _draw(self, group: list[Document]) -> list[int]:
        """Return the numbers of texts that are not in flight yet."""
        fresh: list[int] = []
        for document in group:
            if not document.text.strip():
                self._errors.append(TextError(document.id, "the text is empty; nothing was sent"))
                self._settled += 1
                continue
            number = self._numbers.setdefault(document.text, self._next)
            if number == self._next:
                self._next += 1
                fresh.append(number)
            self._waiting.setdefault(number, []).append(document)
        return fresh

    async def keep(self, sent: Sent) -> None:
        import numpy as np  # noqa: PLC0415

        failed = set(sent.failed)
        documents: list[Document] = []
        rows: list[int] = []
        for i, key in enumerate(sent.keys):
            waiting = self._waiting.pop(key)
            del self._numbers[waiting[0].text]
            self._settled += len(waiting)
            if i in failed:
                error = described(sent.why(i))
                self._errors += (TextError(document.id, error) for document in waiting)
            else:
                documents += waiting
                rows += [i] * len(waiting)
        if documents and sent.vectors is not None:
            whole = len(rows) == len(sent.keys) == len(sent.vectors)
            vectors = sent.vectors if whole else sent.vectors[np.array(rows)]
            async with self._one_at_a_time:
                done = self._deliver(documents, self._embedder.finish(vectors))
                if inspect.isawaitable(done):
                    await done
        if self._on_progress is not None:
            seconds = time.monotonic() - self._started
            self._on_progress(Progress(self._settled, None, self.tally, self._cost(), seconds))

    def _cost(self) -> float | None:
        return self._embedder.cost(self.tally.usage.input_tokens)

    def report(self) -> JobReport:
        tally = self.tally
        return JobReport(
            output=None,
            texts=self._settled,
            dimensions=self._embedder.dimensions or 0,
            distinct=self._next,
            reused=0,
            usage=tally.usage,
            requests=tally.sent,
            retries=tally.retries,
            rate_limited=tally.rate_limited,
            hedges=tally.hedges,
            budget_wait=tally.budget_wait,
            cost=self._cost(),
            seconds=time.monotonic() - self._started,
            truncated=self._truncated,
            errors=self._errors,
        )
