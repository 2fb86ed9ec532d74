"""Batches at OpenAI, and at Azure OpenAI: a file of requests, a batch of it, files of results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, cast

from tollway.errors import BadRequestError, BadResponseError, NotFoundError, RateLimitError
from tollway.providers.batches import BatchResult, BatchRules, BatchState, cancelled, expired
from tollway.transport import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from tollway.errors import ProviderError
    from tollway.providers.base import EmbeddingAnswer
    from tollway.providers.openai import OpenAIProvider

__all__ = ["FILE", "OpenAIAccount", "OpenAIBatches", "OpenAIEmbeddingBatches", "form"]

# https://platform.openai.com/docs/api-reference/batch/create: 50,000 requests and 200 MB a file,
# and 50,000 texts where they are embedded.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000

# Bytes of a file of results that is read as a whole: less than a transport takes.
_MAX_ANSWER = 200 << 20

_RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
# As many as a page has at most.
_PAGE = 100
# The member of a batch's metadata that holds our digest.
_TAG = "tollway"


class OpenAIAccount(Protocol):
    """What sends the requests that files and batches take."""

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        file: bytes | None = None,
    ) -> Response:
        """Return the answer to a request, with the status 200.

        Args:
            method: `GET` or `POST`.
            path: After the address, with its query.
            body: JSON; with a file, the fields of a form.
            file: To upload.

        Raises:
            ProviderError: Any other answer, or none.
        """
        ...

    def download(self, file: str) -> AsyncGenerator[bytes, None]:
        """Return the content of a file in pieces of any size.

        Raises:
            ProviderError: On any step.
        """
        ...

    def refusal(self, response: Response) -> ProviderError:
        """Return what an answer other than 200 means."""
        ...


class OpenAIBatches:
    """Batches for one endpoint.

    Args:
        account: Sends.
        model: `provider/model`.
        address: Where.
        endpoint: What answers the requests, such as `/v1/chat/completions`.
        max_requests: Requests of a batch, where fewer than `MAX_REQUESTS`.
    """

    is_tagged = True

    def __init__(
        self,
        account: OpenAIAccount,
        *,
        model: str,
        address: str,
        endpoint: str,
        max_requests: int = MAX_REQUESTS,
        max_inputs: int | None = None,
    ) -> None:
        self._account = account
        self.model = model
        self.address = address
        self._endpoint = endpoint
        self.rules = BatchRules(max_requests, MAX_BYTES, max_inputs)

    async def submit(
        self, requests: Iterable[tuple[str, bytes]], digest: str, begin: Callable[[], None]
    ) -> BatchState:
        """Upload the requests and start a batch; see `BatchAPI.submit`."""
        line = b'{"custom_id":"%%b","method":"POST","url":"%b","body":%%b}\n'
        line %= self._endpoint.encode()
        content = b"".join(line % (name.encode(), body) for name, body in requests)
        answer = await self._account.exchange(
            "POST", "/files", body={"purpose": "batch"}, file=content
        )
        del content
        file = _parsed(answer).get("id")
        if not isinstance(file, str):
            raise BadResponseError(f"{self.address} took a file without naming it", status=200)
        begin()
        answer = await self._account.exchange(
            "POST",
            "/batches",
            body={
                "input_file_id": file,
                "endpoint": self._endpoint,
                "completion_window": "24h",
                "metadata": {_TAG: digest},
            },
        )
        return self._state(_parsed(answer))

    async def state(self, batch: str) -> BatchState:
        """Return where a batch stands; see `BatchAPI.state`."""
        return self._state(_parsed(await self._account.exchange("GET", f"/batches/{batch}")))

    async def recent(self) -> AsyncGenerator[BatchState, None]:
        """Return the batches of the account; see `BatchAPI.recent`."""
        after = ""
        while True:
            path = f"/batches?limit={_PAGE}{after}"
            page = _parsed(await self._account.exchange("GET", path))
            listed: list[dict[str, Any]] = page.get("data") or []
            for batch in listed:
                yield self._state(batch)
            if not listed or not page.get("has_more"):
                return
            after = f"&after={listed[-1]['id']}"

    async def results(self, state: BatchState) -> AsyncGenerator[BatchResult, None]:
        """Return the results of a batch; see `BatchAPI.results`."""
        for file in state.results:
            async for line in _lines(self._account.download(file)):
                try:
                    named: dict[str, Any] = json.loads(line)
                    result = self._result(named, state.id)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise BadResponseError(
                        f"a result of batch {state.id} is no JSON of the form that was promised"
                    ) from error
                yield result

    async def cancel(self, batch: str) -> None:
        """Ask to stop a batch; see `BatchAPI.cancel`."""
        await self._account.exchange("POST", f"/batches/{batch}/cancel", body={})

    def _state(self, named: Mapping[str, Any]) -> BatchState:
        counts: dict[str, int] = named.get("request_counts") or {}
        failed = counts.get("failed") or 0
        metadata: dict[str, str] = named.get("metadata") or {}
        files = [named.get("output_file_id"), named.get("error_file_id")]
        status = named.get("status")
        if not isinstance(named.get("id"), str):
            raise BadResponseError(f"{self.address} answered with no batch", status=200)
        name: str = named["id"]
        ends = {"expired": expired, "cancelled": cancelled}
        error = ends[status](name) if status in ends else None
        if status == "failed":
            error = self._problem(named)
        return BatchState(
            name,
            "running" if status in _RUNNING else "refused" if status == "failed" else "ended",
            float(named.get("created_at") or 0),
            counts.get("total") or 0,
            failed + (counts.get("completed") or 0),
            failed,
            metadata.get(_TAG),
            error,
            [file for file in files if file],
        )

    def _problem(self, named: Mapping[str, Any]) -> ProviderError:
        """Return why a batch was refused as a whole."""
        errors: dict[str, Any] = named.get("errors") or {}
        listed: list[dict[str, Any]] = errors.get("data") or [dict[str, Any]()]
        first = listed[0]
        code: str | None = first.get("code")
        where = "" if first.get("line") is None else f" at line {first['line']}"
        told = f"batch {named['id']} of {self.model} was refused{where}: {first.get('message')}"
        if len(listed) > 1:
            told += f" (and {len(listed) - 1} more)"
        if code == "token_limit_exceeded":
            return RateLimitError(told, code=code)
        kind = NotFoundError if code == "model_not_found" else BadRequestError
        return kind(f"{told}; nothing of it was done or charged", code=code)

    def _result(self, named: Mapping[str, Any], batch: str) -> BatchResult:
        name: str = named["custom_id"]
        failure: dict[str, Any] | None = named.get("error")
        response: dict[str, Any] | None = named.get("response")
        if response is None:
            code = (failure or {}).get("code")
            if code in {"batch_expired", "batch_cancelled"}:
                made = expired(batch) if code == "batch_expired" else cancelled(batch)
            else:
                written = json.dumps({"error": failure}).encode()
                made = self._account.refusal(Response(500, {}, written))
            return BatchResult(name, error=made)
        request_id: str | None = response.get("request_id")
        status, body = response["status_code"], response["body"]
        if status == 200:
            return BatchResult(name, body, request_id=request_id)
        written = json.dumps(body).encode()
        made = self._account.refusal(Response(status, {"x-request-id": request_id or ""}, written))
        return BatchResult(name, error=made, refused=(status, written), request_id=request_id)


class OpenAIEmbeddingBatches(OpenAIBatches):
    """Batches of one embedding model.

    Args:
        provider: What sends, writes and reads.
    """

    def __init__(self, provider: OpenAIProvider) -> None:
        # The whole answer is read into memory, base64 of float32 and some 400 bytes around it.
        row = (provider.rules.dimensions or 4096) * 16 // 3 + 400
        super().__init__(
            provider,
            model=f"{provider.name}/{provider.model}",
            address=provider.base_url,
            endpoint="/v1/embeddings",
            max_inputs=min(MAX_REQUESTS, _MAX_ANSWER // row),
        )
        self._provider = provider

    async def open(self) -> None:
        """Make the transport ready."""
        await self._provider.open()

    def write(self, texts: Sequence[str]) -> bytes:
        """Return the body of a request; see `EmbeddingBatchAPI.write`."""
        return self._provider.body(texts)

    def read(self, result: BatchResult, count: int) -> EmbeddingAnswer:
        """Return the vectors in a result; see `EmbeddingBatchAPI.read`."""
        if result.error is not None:
            raise result.error
        return self._provider.answer(json.dumps(result.body).encode(), count)


def form(body: Mapping[str, Any], file: bytes) -> tuple[str, bytes]:
    """Return a form with a file as content type and body."""
    boundary = "tollway-5c0d0f4f2e1b4a6f"
    while boundary.encode() in file:
        boundary += "-"
    head = "".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in body.items()
    )
    head += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{FILE}"\r\n'
        "content-type: application/jsonl\r\n\r\n"
    )
    return (
        f"multipart/form-data; boundary={boundary}",
        b"".join((head.encode(), file, f"\r\n--{boundary}--\r\n".encode())),
    )


FILE = "tollway.jsonl"


async def _lines(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    rest: list[bytes] = []
    try:
        async for piece in pieces:
            first, *others = piece.split(b"\n")
            rest.append(first)
            for other in others:
                if line := b"".join(rest).strip():
                    yield line
                rest = [other]
        if line := b"".join(rest).strip():
            yield line
    finally:
        await pieces.aclose()


def _parsed(response: Response) -> dict[str, Any]:
    try:
        named: Any = json.loads(response.body)
    except ValueError as error:
        raise BadResponseError("the answer is no JSON", status=response.status) from error
    if not isinstance(named, dict):
        raise BadResponseError("the answer is no JSON object", status=response.status)
    return cast("dict[str, Any]", named)
