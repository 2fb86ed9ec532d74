"""Requests cut into batches within every cap of the provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tollway.errors import RequestTooLargeError

if TYPE_CHECKING:
    from tollway.batch.journal import Entry, Journal, Writing
    from tollway.batch.options import BatchOptions
    from tollway.providers.batches import BatchAPI

__all__ = ["Cutter", "Item"]


@dataclass(frozen=True, slots=True)
class Item:
    """One request.

    Attributes:
        name: Of letters, digits, `-` and `_`, at most 55; equal requests of a later run have it.
        body: JSON.
        tokens: Of its input.
        inputs: Texts in it.
    """

    name: str
    body: bytes
    tokens: int
    inputs: int = 1


class Cutter:
    """Writes requests into batches, one after the other.

    Args:
        api: Whose caps.
        journal: Where to.
        options: The caller's own caps.

    Attributes:
        limit: Tokens of input in all batches under way, as far as is known; else None.
    """

    def __init__(self, api: BatchAPI, journal: Journal, options: BatchOptions) -> None:
        self._model = api.model
        self._rules = api.rules
        self._journal = journal
        self._most = min(api.rules.max_requests, options.max_requests or api.rules.max_requests)
        self._writing: Writing | None = None
        self.limit = options.max_enqueued_tokens

    def add(self, item: Item) -> Entry | None:
        """Add a request; return the batch that was full without it, if one was.

        Raises:
            RequestTooLargeError: No batch takes it.
            CheckpointError: It cannot be written.
        """
        most = self._rules.max_bytes
        if len(item.body) + self._rules.line_bytes > most:
            raise RequestTooLargeError(
                f"a request of {len(item.body):,} bytes is more than the {most:,} that a batch of "
                f"{self._model} takes"
            )
        full = None
        if self._writing is not None and self._is_full(self._writing, item):
            full = self.end()
        if self._writing is None:
            self._writing = self._journal.begin()
        self._writing.add(item.name, item.body, item.tokens, item.inputs)
        return full

    def _is_full(self, writing: Writing, item: Item) -> bool:
        rules, entry = self._rules, writing.entry
        size = writing.size + len(item.body) + (entry.requests + 1) * rules.line_bytes
        return (
            entry.requests >= self._most
            or size > rules.max_bytes
            or (rules.max_inputs is not None and writing.inputs + item.inputs > rules.max_inputs)
            or (self.limit is not None and entry.tokens + item.tokens > self.limit)
        )

    def end(self) -> Entry | None:
        """Return the batch that was begun, or None."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.end()

    def drop(self) -> None:
        """Give up the batch that was begun."""
        if self._writing is not None:
            self._writing.drop()
            self._writing = None

    def cut_again(self, entry: Entry) -> list[Entry]:
        """Cut a batch, which is over the limit, into such as fit into it.

        A request that is over it alone gets a batch of its own.
        """
        assert self.limit is not None
        parts: list[Entry] = []
        writing: Writing | None = None
        for name, tokens, body in self._journal.requests(entry):
            if writing is not None and writing.entry.tokens + tokens > self.limit:
                parts.append(writing.end())
                writing = None
            writing = writing or self._journal.begin()
            writing.add(name, body, tokens)
        if writing is not None:
            parts.append(writing.end())
        self._journal.remove(entry)
        return parts
