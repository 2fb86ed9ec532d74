"""Anthropic's Message Batches."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from tollway.simulator.anthropic import authorize, refused
from tollway.simulator.calls import dumps
from tollway.simulator.openai import Refusal, arguments_of
from tollway.simulator.server import Response

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tollway.simulator.batches import Batch, BatchResult, BatchStore
    from tollway.simulator.server import Request

__all__ = ["AnthropicBatchFormat"]

_PATH = re.compile(r"/v1/messages/batches(?:/([^/]+))?(?:/(results|cancel))?")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_REQUESTS = 100_000
MAX_BYTES = 256_000_000


class AnthropicBatchFormat:
    """`/v1/messages/batches`.

    Args:
        store: The batches.
    """

    def __init__(self, store: BatchStore) -> None:
        self._store = store

    def owns(self, path: str) -> bool:
        """These paths."""
        return _PATH.fullmatch(path) is not None

    def answer(self, request: Request, keys: Collection[str] | None, base: str) -> Response:
        """Answer a request about batches."""
        authorize(request, keys)
        matched = _PATH.fullmatch(request.path)
        assert matched is not None
        match (request.method, *matched.groups()):
            case ("POST", None, None):
                return Response(200, dumps(self._shown(self._create(request), base)))
            case ("GET", None, None):
                return Response(200, dumps(self._list(request, base)))
            case ("GET", str(name), None):
                return Response(200, dumps(self._shown(self._find(name), base)))
            case ("GET", str(name), "results"):
                lines = map(_line, reversed(self._find(name).results or ()))
                return Response(200, b"".join(lines), {"content-type": "application/x-jsonl"})
            case ("POST", str(name), "cancel"):
                batch = self._find(name)
                if batch.is_open:
                    batch.cancel()
                return Response(200, dumps(self._shown(batch, base)))
            case _:
                raise refused(404, "not_found_error", "Not Found")

    def _create(self, request: Request) -> Batch:
        try:
            asked: dict[str, Any] = arguments_of(request.body)
        except Refusal as refusal:
            raise refused(400, "invalid_request_error", str(refusal)) from refusal
        listed: list[dict[str, Any]] = asked.get("requests") or []
        most = self._store.behaviour.max_requests or MAX_REQUESTS
        if not listed:
            raise refused(400, "invalid_request_error", "requests: at least one is required")
        if len(listed) > most or len(request.body) > MAX_BYTES:
            raise refused(413, "request_too_large", f"requests: over {most} or 256 MB")
        names = [str(each.get("custom_id")) for each in listed]
        if len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
            raise refused(400, "invalid_request_error", "requests: custom_id: not as it has to be")
        queue = self._store.behaviour.queue
        queued = sum(len(batch.requests) for batch in self._store.open_batches)
        if queue is not None and queued + len(listed) > queue:
            message = "Number of requests in the batch queue would exceed your limit"
            raise refused(429, "rate_limit_error", message)
        requests = [(str(each["custom_id"]), each["params"]) for each in listed]
        batch = self._store.create(
            "msgbatch", "/v1/messages", requests, tokens=0, details={}, problem=None
        )
        # What it calls wrong as a whole it says at once.
        if batch.problem is not None:
            raise refused(400, "invalid_request_error", batch.problem[1])
        return batch

    def _find(self, name: str) -> Batch:
        if name not in self._store.batches:
            raise refused(404, "not_found_error", f"No message batch with id {name}")
        return self._store.batches[name]

    def _list(self, request: Request, base: str) -> dict[str, Any]:
        query = dict(urllib.parse.parse_qsl(request.query))
        page, has_more = self._store.listed(query.get("after_id"), int(query.get("limit", "20")))
        return {
            "data": [self._shown(batch, base) for batch in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def _shown(self, batch: Batch, base: str) -> dict[str, Any]:
        has_ended = batch.results is not None
        status = (
            "ended" if has_ended else "canceling" if batch.cancelled is not None else "in_progress"
        )
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {
                "processing": 0 if has_ended else len(batch.requests),
                "succeeded": batch.count("answered", ok=True),
                "errored": batch.count("answered", ok=False),
                "canceled": batch.count("cancelled"),
                "expired": batch.count("expired"),
            },
            "created_at": _date(batch.created),
            "expires_at": _date(batch.created + self._store.behaviour.window),
            "ended_at": _date(time.time()) if has_ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{base}/v1/messages/batches/{batch.id}/results" if has_ended else None,
        }


def _date(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _line(result: BatchResult) -> bytes:
    body: Mapping[str, Any] = json.loads(result.body) if result.body else {}
    return dumps({"custom_id": result.custom_id, "result": dict(_result(result, body))}) + b"\n"


def _result(result: BatchResult, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if result.kind != "answered":
        yield "type", "canceled" if result.kind == "cancelled" else "expired"
    elif result.status == 200:
        yield "type", "succeeded"
        yield "message", body
    else:
        yield "type", "errored"
        yield "error", {**body, "request_id": result.request_id}
