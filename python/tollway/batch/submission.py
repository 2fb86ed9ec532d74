"""Handing a batch over exactly once: what is not known to have arrived is looked for first."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from tollway.errors import APITimeoutError, CheckpointError, NotFoundError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tollway.batch.journal import Entry, Journal
    from tollway.batch.options import BatchOptions
    from tollway.providers.batches import BatchAPI, BatchState

__all__ = ["Submission"]

# Seconds by which the provider's clock may be behind ours when a batch is looked for. By its digest
# one is found whenever it is; without, the wider the span, the more strangers are waited for.
_LONGEST_SKEW = 86_400.0
_SKEW = 600.0
# A submission that takes longer than this has failed.
_LONGEST_SUBMISSION = 3600.0
# Between two looks for a batch that may be on its way into the provider's list.
_LOOK = 5.0


class _Uncertain:
    """That it cannot be told yet."""


class Submission:
    """Submits batches, or finds them.

    Args:
        api: Where.
        journal: Is told before and after.
        options: How long one may be on its way.
    """

    def __init__(self, api: BatchAPI, journal: Journal, options: BatchOptions) -> None:
        self._api = api
        self._journal = journal
        self._settling = options.settling

    async def attempt(self, entry: Entry, known: Collection[str | None]) -> BatchState | None:
        """Submit a batch that is not there yet, once, and return where it stands.

        Args:
            entry: The batch.
            known: Names of batches that are others.

        Returns:
            None where it cannot be told yet whether it is there: ask again later.

        Raises:
            ProviderError: As any request does. Where it may have arrived nevertheless, the next
                attempt, of this process or another, looks for it.
        """
        if entry.batch is not None:
            return await self.state(entry)
        if entry.attempted is not None:
            found = await self._find(entry, entry.attempted, known)
            if found is not None:
                return None if isinstance(found, _Uncertain) else found

        def begin() -> None:
            entry.attempted = time.time()
            self._journal.save(entry)

        try:
            return await self._api.submit(self._requests(entry), entry.digest, begin)
        except ProviderError as error:
            status = error.status or 0
            if 400 <= status < 500 and not isinstance(error, APITimeoutError):
                # Answered, and with a refusal.
                self._journal.forget(entry)
            raise

    async def state(self, entry: Entry) -> BatchState:
        """Return where a batch stands.

        Raises:
            CheckpointError: The provider does not know it.
            ProviderError: As any request does.
        """
        assert entry.batch is not None
        try:
            return await self._api.state(entry.batch)
        except NotFoundError as error:
            raise CheckpointError(
                f"{self._api.address} knows no batch {entry.batch}, which an earlier run "
                "submitted: use the key of that run, or delete the folder of batches to give its "
                f"answers up ({error})"
            ) from error

    def _requests(self, entry: Entry) -> Iterator[tuple[str, bytes]]:
        for name, _, body in self._journal.requests(entry):
            yield f"{entry.nonce}-{name}", body

    async def _find(
        self, entry: Entry, attempted: float, known: Collection[str | None]
    ) -> BatchState | _Uncertain | None:
        """Look for a batch that may have been submitted; None where it surely was not."""
        now = time.time()
        # A clock that was set back since must not have us look for it until it is as late again; by
        # how much it was wrong, it does not tell.
        skew = _LONGEST_SKEW if self._api.is_tagged or attempted > now else _SKEW
        attempted = min(attempted, now)
        while True:
            is_uncertain = False
            for state in await self._candidates(entry, attempted, skew, known):
                if self._api.is_tagged:
                    return state
                if state.status == "running":
                    # Whose it is only its results can tell.
                    is_uncertain = True
                elif await self._is_of(entry, state):
                    return state
            if is_uncertain:
                return _Uncertain()
            left = attempted + self._settling - time.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(left, _LOOK))

    async def _candidates(
        self, entry: Entry, attempted: float, skew: float, known: Collection[str | None]
    ) -> list[BatchState]:
        earliest = attempted - skew
        found: list[BatchState] = []
        async with contextlib.aclosing(self._api.recent()) as recent:
            async for state in recent:
                if state.created < earliest:
                    break
                if self._api.is_tagged:
                    is_candidate = state.digest == entry.digest
                else:
                    is_candidate = (
                        state.id not in known
                        and state.requests in {0, entry.requests}
                        and state.created < attempted + _LONGEST_SUBMISSION
                    )
                if is_candidate:
                    found.append(state)
        return found

    async def _is_of(self, entry: Entry, state: BatchState) -> bool:
        async with contextlib.aclosing(self._api.results(state)) as results:
            async for result in results:
                return result.custom_id.startswith(f"{entry.nonce}-")
        return False
