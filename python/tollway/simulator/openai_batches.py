"""OpenAI's files and batches."""

from __future__ import annotations

import json
import re
import secrets
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from tollway.simulator import openai as wire
from tollway.simulator.answers import ENCODING
from tollway.simulator.calls import dumps
from tollway.simulator.server import Response
from tollway.tokens import get_encoding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tollway.simulator.batches import Batch, BatchResult, BatchStore
    from tollway.simulator.server import Request

__all__ = ["OpenAIBatchFormat"]

_PATH = re.compile(r"(?:/openai)?/v1/(files|batches)(?:/([^/]+))?(?:/(content|cancel))?")
_ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings")
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000


class OpenAIBatchFormat:
    """`/v1/files` and `/v1/batches`, and Azure's at `/openai/v1`.

    Args:
        store: The batches.
    """

    def __init__(self, store: BatchStore) -> None:
        self._store = store
        self._files: dict[str, bytes] = {}

    def owns(self, path: str) -> bool:
        """These paths."""
        return _PATH.fullmatch(path) is not None

    def answer(self, request: Request, keys: Collection[str] | None, base: str) -> Response:
        """Answer a request about files or batches."""
        del base
        key = request.headers.get("api-key")
        headers = {"authorization": f"Bearer {key}"} if key else request.headers
        wire.authorize(headers, keys)
        matched = _PATH.fullmatch(request.path)
        assert matched is not None
        match (request.method, *matched.groups()):
            case ("POST", "files", None, None):
                return Response(200, dumps(self._upload(request)))
            case ("GET", "files", str(file), "content"):
                return Response(200, self._file(file), {"content-type": "application/octet-stream"})
            case ("POST", "batches", None, None):
                return Response(200, dumps(self._create(request)))
            case ("GET", "batches", None, None):
                return Response(200, dumps(self._list(request)))
            case ("GET", "batches", str(batch), None):
                return Response(200, dumps(self._shown(self._find(batch))))
            case ("POST", "batches", str(batch), "cancel"):
                return Response(200, dumps(self._cancel(self._find(batch))))
            case _:
                raise wire.Refusal(404, f"Invalid URL ({request.method} {request.path})")

    def _upload(self, request: Request) -> dict[str, Any]:
        fields = dict(_form(request))
        if fields.get("purpose") != b"batch" or "file" not in fields:
            raise wire.invalid("purpose", "expected 'batch', and a file")
        content = fields["file"]
        name = f"file-{secrets.token_hex(12)}"
        self._files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _file(self, name: str) -> bytes:
        if name not in self._files:
            raise wire.Refusal(404, f"No such File object: {name}")
        return self._files[name]

    def _create(self, request: Request) -> dict[str, Any]:
        asked: dict[str, Any] = wire.arguments_of(request.body)
        endpoint = asked.get("endpoint")
        # Azure names it without the version too.
        path = f"/v1{endpoint}" if endpoint in {"/chat/completions", "/embeddings"} else endpoint
        if path not in _ENDPOINTS:
            raise wire.invalid("endpoint", f"expected one of {', '.join(_ENDPOINTS)}")
        if asked.get("completion_window") != "24h":
            raise wire.invalid("completion_window", "expected '24h'")
        file = asked.get("input_file_id") or ""
        content = self._file(file)
        requests: list[tuple[str, Mapping[str, Any]]] = []
        problem = None
        try:
            requests = list(_requests(content, str(endpoint)))
        except _BadLineError as error:
            problem = (error.code, str(error))
        tokens = sum(_tokens(body) for _, body in requests)
        most = self._store.behaviour.max_requests or MAX_REQUESTS
        if len(requests) > most or len(content) > MAX_BYTES:
            problem = ("too_many_tasks", f"The batch has more than {most} requests or 200 MB")
        inputs = sum(len(body.get("input", ())) for _, body in requests)
        if path == "/v1/embeddings" and inputs > most:
            problem = ("too_many_inputs", f"The batch has {inputs} embedding inputs, over {most}")
        room = self._store.behaviour.enqueued_tokens
        enqueued = sum(batch.tokens for batch in self._store.open_batches)
        if problem is None and room is not None and enqueued + tokens > room:
            told = (
                "Enqueued token limit reached for this model in organization org-simulated. "
                f"Limit: {room:,} enqueued tokens. Please try again once some in_progress batches "
                "have been completed."
            )
            problem = ("token_limit_exceeded", told)
        details = {
            "endpoint": endpoint,
            "input_file_id": file,
            "metadata": asked.get("metadata"),
        }
        batch = self._store.create(
            "batch", str(path), requests, tokens=tokens, details=details, problem=problem
        )
        return {**self._shown(batch), "status": "validating", "errors": None}

    def _find(self, name: str) -> Batch:
        if name not in self._store.batches:
            raise wire.Refusal(404, f"No batch found with id '{name}'.")
        return self._store.batches[name]

    def _list(self, request: Request) -> dict[str, Any]:
        query = dict(urllib.parse.parse_qsl(request.query))
        page, has_more = self._store.listed(query.get("after"), int(query.get("limit", "20")))
        return {
            "object": "list",
            "data": [self._shown(batch) for batch in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def _cancel(self, batch: Batch) -> dict[str, Any]:
        if not batch.is_open:
            raise wire.Refusal(409, f"Batch '{batch.id}' has ended")
        batch.cancel()
        return self._shown(batch)

    def _shown(self, batch: Batch) -> dict[str, Any]:
        answered, failed = batch.count("answered", ok=True), batch.count("answered", ok=False)
        expired, cancelled = batch.count("expired"), batch.count("cancelled")
        if batch.problem is not None:
            status = "failed"
        elif batch.results is None:
            status = "in_progress" if batch.cancelled is None else "cancelling"
        else:
            status = "expired" if expired else "cancelled" if cancelled else "completed"
        files: dict[str, str | None] = {"output_file_id": None, "error_file_id": None}
        for name, is_right in (("output_file_id", True), ("error_file_id", False)):
            lines = [
                _line(batch, result)
                for result in batch.results or ()
                if (result.kind == "answered" and result.status == 200) == is_right
            ]
            if lines:
                file = files[name] = f"file-{name[:6]}-{batch.id}"
                # The order is not that of the requests.
                self._files[file] = b"".join(reversed(lines))
        problem = None
        if batch.problem is not None:
            code, message = batch.problem
            listed = [{"code": code, "message": message, "line": None, "param": None}]
            problem = {"object": "list", "data": listed}
        return {
            "id": batch.id,
            "object": "batch",
            "completion_window": "24h",
            "created_at": int(batch.created),
            "expires_at": int(batch.created + self._store.behaviour.window),
            "status": status,
            "errors": problem,
            "request_counts": {
                "total": len(batch.requests),
                "completed": answered,
                "failed": failed,
            },
            **batch.details,
            **files,
        }


class _BadLineError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _requests(content: bytes, endpoint: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    seen: set[str] = set()
    model: object = None
    for line in content.splitlines():
        try:
            named: dict[str, Any] = json.loads(line)
            name, body = named["custom_id"], named["body"]
        except (ValueError, KeyError, TypeError) as error:
            raise _BadLineError("invalid_json_line", "This line is not parseable.") from error
        if named.get("method") != "POST" or named.get("url") != endpoint:
            raise _BadLineError("invalid_url", "The URL is not the endpoint of the batch.")
        if name in seen:
            raise _BadLineError("duplicate_custom_id", f"The custom_id {name} is there twice.")
        seen.add(name)
        if model not in {None, body.get("model")}:
            raise _BadLineError("mismatched_model", "The batch has several models.")
        model = body.get("model")
        if not isinstance(model, str) or model.startswith("missing-"):
            raise _BadLineError("model_not_found", f"The model {model} does not exist.")
        yield name, body
    if not seen:
        raise _BadLineError("empty_file", "The input file is empty.")


def _tokens(body: Mapping[str, Any]) -> int:
    """Count the input roughly, as the queue does."""
    said: Any = body.get("input") or [
        message.get("content") or "" for message in body.get("messages") or ()
    ]
    texts = [text for text in ([said] if isinstance(said, str) else said) if isinstance(text, str)]
    return int(get_encoding(ENCODING).count_batch(texts).sum()) if texts else 0


def _line(batch: Batch, result: BatchResult) -> bytes:
    name = json.dumps(result.custom_id).encode()
    if result.kind != "answered":
        message = {
            "expired": "This request could not be executed before the completion window expired.",
            "cancelled": "This request could not be executed: the batch was cancelled.",
        }[result.kind]
        error = dumps({"code": f"batch_{result.kind}", "message": message})
        return b'{"id":"%b","custom_id":%b,"response":null,"error":%b}\n' % (
            batch.id.encode(),
            name,
            error,
        )
    return (
        b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":"%b","body":%b},'
        b'"error":null}\n'
    ) % (batch.id.encode(), name, result.status, result.request_id.encode(), result.body)


def _form(request: Request) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each part of a form."""
    kind = request.headers.get("content-type", "")
    boundary = re.search(r'boundary="?([^";]+)', kind)
    if not kind.startswith("multipart/form-data") or boundary is None:
        raise wire.Refusal(400, "The body is not a form")
    for part in request.body.split(b"--" + boundary[1].encode()):
        head, separator, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        if separator and name is not None:
            yield name[1].decode(), content.removesuffix(b"\r\n")
