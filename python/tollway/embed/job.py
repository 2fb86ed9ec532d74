"""A resumable job: documents in, a `.npy` of their vectors out, nothing paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tollway import _core
from tollway.batch import BatchOptions, under_way
from tollway.bridge import run_sync
from tollway.embed.batching import BatchSending, Unpacked, check_mode
from tollway.embed.checkpoint import Checkpoint
from tollway.embed.inputs import Input, Source
from tollway.embed.report import JobReport, Progress, TextError, described
from tollway.embed.sending import Tally
from tollway.embed.sinks import (
    IndexWriter,
    Matrix,
    check_output,
    write_npy,
    write_parquet,
)
from tollway.errors import CheckpointError, ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    import numpy as np
    from numpy.typing import NDArray

    from tollway.batch import BatchProgress
    from tollway.embed.embedder import Embedder, Mode
    from tollway.embed.packing import Batch
    from tollway.embed.rows import Averages, Sent
    from tollway.embed.sending import Sending
    from tollway.embed.sources import Document

__all__ = ["TextDigest", "embed_job", "embed_job_async"]

T = TypeVar("T")

_PENDING = 0xFFFF_FFFF

# Seconds between two tellings while no answer comes.
_TICK = 1.0


def job_folder(output: Path) -> Path:
    """Return the job folder of an output: `vectors.npy.job` beside `vectors.npy`."""
    return output.with_name(f"{output.name}.job")


def embed_job(
    source: Source,
    output: str | Path,
    embedder: Embedder,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    chunk: int | None = None,
    overlap: int = 0,
    mode: Mode = "direct",
    batch: BatchOptions | None = None,
    **reading: Any,
) -> JobReport:
    """Run `embed_job_async` from synchronous code."""
    return run_sync(
        embed_job_async(
            source,
            output,
            embedder,
            on_progress=on_progress,
            chunk=chunk,
            overlap=overlap,
            mode=mode,
            batch=batch,
            **reading,
        )
    )


async def embed_job_async(
    source: Source,
    output: str | Path,
    embedder: Embedder,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    chunk: int | None = None,
    overlap: int = 0,
    mode: Mode = "direct",
    batch: BatchOptions | None = None,
    **reading: Any,
) -> JobReport:
    """Embed documents into a `.npy` or `.parquet`, resumably.

    Finished rows are kept in a folder beside the output (`vectors.npy.job`) as they come. Run
    again after a crash, or with documents added or moved, only texts without a row are sent. Which
    row is which document is written to `vectors.index.jsonl`; a `.parquet` holds `id`, `chunk`,
    `metadata` (JSON) and `vector` (a fixed-size list, null where there is none) side by side.

    Args:
        source: A file or folder (see `read_documents`), `-` for standard input (copied to a file
            first), an Arrow table, column or stream, or any iterable or async iterable of texts or
            documents, read as needed.
        output: Ends in `.npy` or `.parquet`. Replaced at the end, in one step.
        embedder: What embeds.
        on_progress: Called at the start, after every answer, while rows from before are counted,
            and once a second.
        chunk: Split documents into chunks of at most so many tokens.
        overlap: Tokens that a chunk repeats of the one before.
        mode: `direct` sends requests now; `batch` hands the texts over to the provider's batch API
            (OpenAI): half the price, vectors within a day. What is under way is named in the job
            folder, and the same job run again collects it.
        batch: How batches are submitted and waited for.
        reading: `split`, `text_field`, `id_field`, `format` of `read_documents`.

    Raises:
        InputError: The input cannot be read, or has no text at all; nothing was sent.
        CheckpointError: The job folder or output cannot be used; finished rows are kept.
        ConfigurationError: `mode` is none or not the provider's, or a lambda embeds, whose rows
            have no name; nothing was read.
        ContextWindowError: A text is over the model's window and too_long="error"; finished rows
            are kept.
        BudgetExceededError: The next request would cost more than the embedder's `max_cost`;
            finished rows are kept.
        ProviderError: The provider refuses every request; finished rows are kept.
        RequestTooLargeError: A text is more than the whole quota, and nothing was embedded before.
        RetriesExhaustedError: Nothing could be embedded at all. Once something was, a text whose
            attempts are used up, or that is more than the whole quota, is listed in `errors` and
            the job goes on.

    Cancellation: safe at every await; finished rows are kept, requests under way are closed.
    Batches go on at the provider, or are cancelled there, as `batch` says.
    """
    output = Path(output)
    check_output(output, source)
    folder = job_folder(output)
    batches = folder / "batches"
    check_mode(mode, embedder.provider)
    if embedder.model == "function/lambda":
        # Rows are found again by this name, and those of every lambda would be taken for its own.
        raise ConfigurationError(
            "a lambda has no name to keep rows under: say what it calls with model=, or name it"
        )
    if mode == "direct" and under_way(batches):
        raise CheckpointError(
            f'{batches} names batches under way: collect them with mode="batch", or delete it to '
            "give their vectors up"
        )
    # One thread has the job folder: a slow disk delays no answer and no permit.
    thread = ThreadPoolExecutor(1, thread_name_prefix="tollway-checkpoint")

    async def off_loop(function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *args)

    try:
        async with Input(
            source, embedder.encoding, chunk=chunk, overlap=overlap, **reading
        ) as documents:
            total = await documents.total()
            opened = contextlib.ExitStack()

            def open_folder() -> Checkpoint:
                kept = Checkpoint(folder, embedder.model, embedder.dimensions)
                return opened.enter_context(contextlib.closing(kept))

            try:
                checkpoint = await off_loop(open_folder)
                options = None if mode == "direct" else batch or BatchOptions()
                job = _Job(embedder, checkpoint, on_progress, total, off_loop, batch=options)
                await off_loop(job.load)
                # The first price loads the price list: a tenth of a second that no permit should
                # see.
                await off_loop(embedder.cost, 0)
                return await job.run(documents, output)
            finally:
                # Behind the opening, which goes to its end when this task is cancelled meanwhile.
                await _to_its_end(off_loop(opened.close))
    finally:
        thread.shutdown(wait=False)


async def _to_its_end(step: Coroutine[Any, Any, T]) -> T:
    """Await a step that goes to its end even when this task is cancelled meanwhile."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        # Looked at, for nobody else will: the reason to stop is another one.
        if not task.cancelled():
            task.exception()
        raise


class TextDigest:
    """Keys of texts: a hash of provider, model, dimensions, and of the text as it is sent."""

    def __init__(self, embedder: Embedder) -> None:
        rules = embedder.provider.rules
        identity = f"{embedder.model}\0{rules.dimensions}\0"
        if rules.input_type is not None:
            identity += f"{rules.input_type}\0"
        self._hash = hashlib.blake2b(identity.encode(), digest_size=16)
        self._averaged = self._hash.copy()
        # A vector is another one where a long text is averaged. A token is at least a byte, so that
        # shorter texts are in no doubt and keep their rows when the policy is changed.
        self._averaged.update(b"average\0")
        self._window = rules.window if embedder.too_long == "average" else None
        self._prompt = embedder.prompt.encode("utf-8", "surrogatepass")

    def __call__(self, text: str) -> bytes:
        """Return the 16 bytes that stand for a text."""
        data = self._prompt + text.encode("utf-8", "surrogatepass")
        is_long = self._window is not None and len(data) > self._window
        state = (self._averaged if is_long else self._hash).copy()
        state.update(data)
        return state.digest()


class _Job:
    """One run: what is known of every text, and where it goes."""

    def __init__(
        self,
        embedder: Embedder,
        checkpoint: Checkpoint,
        on_progress: Callable[[Progress], object] | None,
        total: int | None,
        off_loop: Callable[..., Any],
        *,
        batch: BatchOptions | None,
    ) -> None:
        self.embedder = embedder
        self.checkpoint = checkpoint
        self.on_progress = on_progress
        self.total = total
        self.off_loop = off_loop
        # Of batches; None where requests are sent now.
        self.batch = batch
        self.batches: BatchProgress | None = None
        self.tally = Tally()
        self.started = time.monotonic()
        # Digest of a text → its number among the distinct ones; its row in the spool by number.
        self.numbers = _core.RowTable()
        self.rows = array("I")
        # The number of each document's text, in input order.
        self.order = array("I")
        # Which of the rows from before this run's input has asked for, so that each counts once.
        self.seen = bytearray()
        self.distinct = 0
        self.digests: dict[int, bytes] = {}
        self.ids: dict[int, str] = {}
        self.truncated: list[str] = []
        self.errors: list[TextError] = []
        self.reused = 0
        self.stopped = False
        # Documents whose text is settled, for the progress bar.
        self.settled = 0
        self._digest = TextDigest(embedder)

    def load(self) -> None:
        """Learn which texts have a row from an earlier run."""
        for first, digests in self.checkpoint.answers():
            _, is_new = self.numbers.insert_new(digests)
            # A text that is there twice keeps its first row.
            self.rows.extend(first + i for i in is_new.nonzero()[0].tolist())
        self.seen = bytearray(len(self.rows))

    async def run(self, documents: Input, output: Path) -> JobReport:
        index = IndexWriter(output)
        ticking = asyncio.create_task(self.tick())
        try:
            self.show()
            sending = self.sending()
            await sending.run(self.packed(documents, index, sending.averages))
            if not self.order:
                raise InputError("the input holds no text; nothing was sent")
            await self.off_loop(self.finish, output, index)
        finally:
            self.stopped = True
            ticking.cancel()
            await asyncio.wait([ticking])
            if not ticking.cancelled():
                # A caller's function that fails does so after an answer, too.
                ticking.exception()
            await _to_its_end(self.off_loop(index.discard))
        return self.report(output)

    def sending(self) -> Sending | BatchSending:
        if self.batch is None:
            return self.embedder.sending(
                self.keep,
                self.tally,
                # Rows from before show that the model works.
                lenient=len(self.rows) > 0,
                budgeted=True,
            )
        return BatchSending(
            self.embedder,
            self.keep,
            self.tally,
            folder=self.checkpoint.folder / "batches",
            options=self.batch,
            told=self.show_batches,
        )

    async def packed(
        self, documents: Input, index: IndexWriter, averages: Averages
    ) -> AsyncGenerator[Batch]:
        """Draw documents and pack the texts that have no row into requests."""
        packer = self.embedder.packer() if self.batch is None else Unpacked()
        async for group in documents.groups():
            fresh = self.draw(group, index)
            numbers = [number for number, _ in fresh]
            names = [self.ids[number] for number in numbers]
            prepared = self.embedder.prepare(
                [text for _, text in fresh], names.__getitem__, lenient=self.tally.texts > 0
            )
            self.truncated.extend(names[i] for i in prepared.truncated)
            averages.expect(numbers, prepared)
            full = packer.add(numbers, prepared)
            if not full:
                # Other tasks, Ctrl-C among them, are not kept waiting for a long stretch of texts
                # that are there already.
                await asyncio.sleep(0)
                self.show()
            for batch in full:
                yield batch
        for batch in packer.flush():
            yield batch

    def draw(self, group: list[Document], index: IndexWriter) -> list[tuple[int, str]]:
        """Take in a group of documents and return the texts to send, with their numbers."""
        digests = [self._digest(document.text) for document in group]
        numbers, is_new = self.numbers.insert_new(digests)
        fresh: list[tuple[int, str]] = []
        for document, digest, number, new in zip(
            group, digests, numbers.tolist(), is_new.tolist(), strict=True
        ):
            index.add(document)
            self.order.append(number)
            if new:
                self.rows.append(_PENDING)
                self.distinct += 1
            if number < len(self.seen) and not self.seen[number]:
                self.seen[number] = 1
                self.distinct += 1
                self.reused += 1
            if self.rows[number] != _PENDING:
                self.settled += 1
            elif not document.text.strip():
                self.errors.append(TextError(document.id, "the text is empty; nothing was sent"))
                self.settled += 1
            elif new:
                self.digests[number] = digest
                self.ids[number] = document.id
                fresh.append((number, document.text))
            else:
                # The same text as one that is on its way.
                self.settled += 1
        return fresh

    async def keep(self, sent: Sent) -> None:
        """Keep the rows of one answer, and list the texts that have none."""
        numbers, vectors = sent.good()
        if vectors is not None:
            digests = [self.digests.pop(number) for number in numbers]
            # Rows that were paid for are kept even when Ctrl-C comes just now.
            first = await _to_its_end(self.off_loop(self.checkpoint.append, digests, vectors))
            for row, number in enumerate(numbers, first):
                self.rows[number] = row
                del self.ids[number]
        numbers = sent.keys
        for i in sent.failed:
            self.digests.pop(numbers[i])
            identity = self.ids.pop(numbers[i])
            self.errors.append(TextError(identity, described(sent.why(i))))
        self.settled += len(numbers)
        self.show()

    async def tick(self) -> None:
        """Tell the caller once a second: refusals and retries are seen while no answer comes."""
        while True:
            await asyncio.sleep(_TICK)
            self.show()

    def show(self) -> None:
        """Tell the caller how far the job is."""
        if self.on_progress is not None:
            self.on_progress(
                Progress(
                    self.settled,
                    self.total,
                    self.tally,
                    self.cost(),
                    time.monotonic() - self.started,
                    self.batches,
                )
            )

    def show_batches(self, progress: BatchProgress) -> None:
        """Tell the caller how far the batches are."""
        self.batches = progress
        self.show()

    def cost(self) -> float | None:
        """Return what this run has cost so far."""
        tokens = self.tally.usage.input_tokens
        return self.embedder.cost(tokens, batch=self.batch is not None)

    def finish(self, output: Path, index: IndexWriter) -> None:
        """Write the output in input order from the spool."""
        import numpy as np  # noqa: PLC0415

        # What follows takes as much memory as the table did, which is not asked any more.
        self.numbers = _core.RowTable()
        rows = np.frombuffer(self.rows, np.uint32)[np.frombuffer(self.order, np.uint32)]
        spool = rows.astype(np.int64)
        spool[rows == _PENDING] = -1
        dimensions = self.checkpoint.dimensions or self.embedder.dimensions or 0
        matrix = Matrix(spool, dimensions, self.embedder.dtype, self.read)
        if output.suffix == ".parquet":
            write_parquet(output, matrix, index)
        else:
            write_npy(output, matrix)
            index.commit()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        # In the thread, where cancelling the task is not heard.
        if self.stopped:
            raise asyncio.CancelledError
        return self.embedder.finish(self.checkpoint.read(rows))

    def report(self, output: Path) -> JobReport:
        return JobReport(
            output=output,
            texts=len(self.order),
            dimensions=self.checkpoint.dimensions or 0,
            distinct=self.distinct,
            reused=self.reused,
            usage=self.tally.usage,
            requests=self.tally.sent,
            retries=self.tally.retries,
            rate_limited=self.tally.rate_limited,
            hedges=self.tally.hedges,
            budget_wait=self.tally.budget_wait,
            cost=self.cost(),
            seconds=time.monotonic() - self.started,
            truncated=self.truncated,
            errors=self.errors,
        )
