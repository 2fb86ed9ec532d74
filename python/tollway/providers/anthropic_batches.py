"""Message Batches at Anthropic, which keeps no tag of ours with a batch."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import BadResponseError
from tollway.providers.anthropic_wire import completion_of
from tollway.providers.batches import BatchResult, BatchRules, BatchState, cancelled, expired
from tollway.providers.frame import Reading

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from tollway.providers.anthropic import AnthropicProvider
    from tollway.providers.base import ChatRequest
    from tollway.types import Completion

__all__ = ["AnthropicBatches"]

# https://docs.claude.com/en/docs/build-with-claude/batch-processing: 100,000 requests or 256 MB.
_RULES = BatchRules(100_000, 256_000_000)
_PATH = "/v1/messages/batches"
_PAGE = 100


class AnthropicBatches:
    """Batches of one model.

    Args:
        provider: What sends.
    """

    is_tagged = False
    rules = _RULES

    def __init__(self, provider: AnthropicProvider) -> None:
        self._provider = provider
        self.model = f"{provider.name}/{provider.model}"
        self.address = provider.base_url

    async def open(self) -> None:
        """Make this loop's client."""
        await self._provider.open()

    async def submit(
        self, requests: Iterable[tuple[str, bytes]], digest: str, begin: Callable[[], None]
    ) -> BatchState:
        """Start a batch; see `BatchAPI.submit`."""
        del digest
        written = b",".join(
            b'{"custom_id":"%b","params":%b}' % (name.encode(), body) for name, body in requests
        )
        begin()
        return _state(await self._provider.exchange("POST", _PATH, b'{"requests":[%b]}' % written))

    async def state(self, batch: str) -> BatchState:
        """Return where a batch stands; see `BatchAPI.state`."""
        return _state(await self._provider.exchange("GET", f"{_PATH}/{batch}"))

    async def recent(self) -> AsyncGenerator[BatchState, None]:
        """Return the batches of the workspace; see `BatchAPI.recent`."""
        after = ""
        while True:
            page = await self._provider.exchange("GET", f"{_PATH}?limit={_PAGE}{after}")
            listed: list[dict[str, Any]] = page.get("data") or []
            for batch in listed:
                yield _state(batch)
            if not listed or not page.get("has_more"):
                return
            after = f"&after_id={listed[-1]['id']}"

    async def results(self, state: BatchState) -> AsyncGenerator[BatchResult, None]:
        """Return the results of a batch; see `BatchAPI.results`."""
        async for name, result in self._provider.batch_results(state.id):
            match result.type:
                case "succeeded":
                    yield BatchResult(name, result.message)
                case "expired":
                    yield BatchResult(name, error=expired(state.id))
                case "canceled":
                    yield BatchResult(name, error=cancelled(state.id))
                case _:
                    body: Mapping[str, Any] = result.error.to_dict(mode="json")
                    written = json.dumps(body).encode()
                    # As inside a stream: the status is 200, and the type all there is.
                    error = self._provider.refusal(200, written, None)
                    yield BatchResult(name, error=error, refused=(200, written))

    async def cancel(self, batch: str) -> None:
        """Ask to stop a batch; see `BatchAPI.cancel`."""
        await self._provider.exchange("POST", f"{_PATH}/{batch}/cancel", b"")

    def write(self, request: ChatRequest) -> bytes:
        """Return the parameters of a request; see `ChatBatchAPI.write`."""
        body = self._provider.request_body(request)
        further = body.pop("extra_body", {})
        for name in ("timeout", "extra_headers"):
            body.pop(name, None)
        return json.dumps({**body, **further}, separators=(",", ":")).encode()

    def read(self, result: BatchResult, request: ChatRequest | None) -> Completion:
        """Return the answer in a result; see `ChatBatchAPI.read`."""
        if result.refused is not None and request is not None:
            raise self._provider.refusal(*result.refused, request)
        if result.error is not None:
            raise result.error
        with Reading(self.model):
            return completion_of(result.body, {}, self._provider.model)


def _state(named: Mapping[str, Any]) -> BatchState:
    try:
        counts = cast("dict[str, int]", named["request_counts"])
        failed = sum(counts.get(name, 0) for name in ("errored", "canceled", "expired"))
        return BatchState(
            named["id"],
            "ended" if named["processing_status"] == "ended" else "running",
            dt.datetime.fromisoformat(named["created_at"]).timestamp(),
            sum(counts.values()),
            failed + counts.get("succeeded", 0),
            failed,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadResponseError("the answer is no batch of messages", status=200) from error
