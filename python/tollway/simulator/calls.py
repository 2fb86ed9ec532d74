"""What the formats beside OpenAI's have in common: a turn of a chat, a call for vectors, refusals.

A format reads its requests into these, and gives a `Writer` that knows how its answers look. The
faults are applied here, once for all formats.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tollway.simulator import faults as faulty
from tollway.simulator.answers import ENCODING, Answer, Conversation, answer_to, cached_of
from tollway.simulator.openai import Refusal
from tollway.simulator.server import Response
from tollway.simulator.vectors import digest, vectors
from tollway.tokens import get_encoding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from tollway.simulator.faults import Rows
    from tollway.simulator.formats import Behaviour

__all__ = [
    "Refused",
    "Turn",
    "Vectors",
    "Writer",
    "dumps",
    "image_digest",
    "is_size",
    "turn_of",
]

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


class Refused(Refusal):
    """A request that is answered with an error whose body is another than OpenAI's.

    Args:
        status: HTTP status.
        body: The error as the provider words it.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, "refused", headers=headers)
        self.body = dumps(body)


class Writer(Protocol):
    """How one format writes the answer of a `Turn`."""

    @property
    def stream_type(self) -> str:
        """Content type of an answer in pieces."""
        ...

    def whole(self, turn: Turn, *, finished: bool, counted: bool) -> bytes:
        """Return the whole answer; without finish reason or usage where these are False."""
        ...

    def empty(self, turn: Turn) -> bytes:
        """Return an answer with nothing in it."""
        ...

    def filtered(self, turn: Turn) -> Response:
        """Return what a prompt is answered with that the filter holds back, or raise it."""
        ...

    def failed(self) -> bytes:
        """Return an error that comes with the status 200."""
        ...

    def pieces(self, turn: Turn) -> list[bytes]:
        """Return the pieces of an answer up to its end."""
        ...

    def end(self, turn: Turn, *, finished: bool, counted: bool) -> list[bytes]:
        """Return the last pieces: finish reason and usage, where these are not False."""
        ...

    def broken(self) -> bytes:
        """Return an error in the middle of a stream."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """A request for an answer that is in order.

    Attributes:
        model: Name of the model.
        texts: The text of the last message.
        tokens: What the request is charged.
        prompt_tokens: Tokens of the prompt.
        said: What is answered.
        is_stream: Whether the answer comes in pieces.
        piece_delay: Seconds between two of them.
        writer: Writes it.
    """

    model: str
    texts: list[str]
    tokens: int
    prompt_tokens: int
    said: Answer
    is_stream: bool
    piece_delay: float
    writer: Writer

    @property
    def rows(self) -> int:
        """0: an answer has none."""
        return 0

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were cached."""
        return cached_of(self.prompt_tokens)

    def answer(self, fault: str | None, hit: int) -> Response:
        """Write the answer as a fault leaves it."""
        del hit
        writer = self.writer
        if fault == "content_filter":
            return writer.filtered(self)
        if fault == "error_body":
            return Response(200, writer.failed())
        if fault == "empty_answer":
            return Response(200, writer.empty(self))
        if self.is_stream:
            cut = 1 if fault == "truncated" else None
            kind = {"content-type": writer.stream_type}
            return Response(200, b"", kind, cut=cut, parts=self._parts(fault))
        body = writer.whole(self, finished=fault != "unfinished", counted=fault != "no_usage")
        return Response(200, body, cut=len(body) // 2 if fault == "truncated" else None)

    async def _parts(self, fault: str | None) -> AsyncGenerator[bytes, None]:
        parts = self.writer.pieces(self)
        if fault in {"truncated", "unfinished", "stream_error"}:
            parts = parts[: max(2, len(parts) // 2)]
        for number, part in enumerate(parts):
            if number and self.piece_delay:
                await asyncio.sleep(self.piece_delay)
            yield part
        if fault == "stream_error":
            yield self.writer.broken()
        elif fault == "unfinished":
            for part in self.writer.end(self, finished=False, counted=False):
                yield part
        elif fault != "truncated":
            for part in self.writer.end(self, finished=True, counted=fault != "no_usage"):
                yield part


@dataclass(frozen=True, slots=True)
class Vectors:
    """A request for vectors that is in order, of a format that tells rows by their order alone.

    Attributes:
        model: Name of the model.
        texts: The inputs.
        dimensions: Length of the vectors.
        write: Makes the body from the rows; None is a row without values.
        cut_only: Whether shorter vectors are the beginnings of the full ones, not scaled again.
        full: Their full length, for that.
        headers: Of the answer.
    """

    model: str
    texts: list[str]
    dimensions: int
    write: Callable[[Sequence[list[float] | None], int], Mapping[str, Any]]
    cut_only: bool = False
    full: int = 0
    headers: Callable[[int], Mapping[str, str]] = lambda _: {}

    @property
    def tokens(self) -> int:
        """Tokens of all inputs."""
        return int(get_encoding(ENCODING).count_batch(self.texts).sum())

    @property
    def rows(self) -> int:
        """One a text."""
        return len(self.texts)

    def answer(self, fault: str | None, hit: int) -> Response:
        """Write the answer as a fault leaves it; a fault of order changes nothing."""
        size = self.full if self.cut_only else self.dimensions
        values = vectors(self.texts, size)[:, : self.dimensions]
        rows: Rows = list(enumerate(values))
        if fault not in {"permuted", "duplicate_index"}:
            rows = faulty.disturb(rows, fault, hit)
        listed = [None if row is None else row.tolist() for _, row in rows]
        body = dumps(self.write(listed, self.tokens))
        cut = len(body) // 2 if fault == "truncated" else None
        return Response(200, body, dict(self.headers(self.tokens)), cut=cut)


def turn_of(
    conversation: Conversation,
    writer: Writer,
    behaviour: Behaviour,
    *,
    model: str,
    is_stream: bool,
    too_long: Callable[[int, int], Refusal],
    charges_max_tokens: bool = False,
) -> Turn:
    """Return the turn that a conversation asks for.

    Args:
        conversation: All that is said.
        writer: Writes the answer.
        behaviour: How this endpoint differs.
        model: Name of the model.
        is_stream: Whether the answer comes in pieces.
        too_long: Makes the refusal of a prompt over the window, from its tokens and the window.
        charges_max_tokens: Whether the most that may be answered is charged beside the prompt.
    """
    encoding = get_encoding(ENCODING)
    tokens = sum(encoding.count(said.text) + 3 for said in conversation.said)
    tokens += sum(
        encoding.count(name + json.dumps(schema)) for name, schema in conversation.tools.items()
    )
    window = behaviour.context_window
    if window is not None and tokens > window:
        raise too_long(tokens, window)
    charged = tokens + (conversation.max_tokens or 0 if charges_max_tokens else 0)
    return Turn(
        model,
        [conversation.said[-1].text],
        charged,
        tokens,
        answer_to(conversation),
        is_stream,
        behaviour.piece_delay,
        writer,
    )


def image_digest(data: bytes, media_type: str | None = None) -> str:
    """Return the digest of an image's `data:` URL, whose type is told by its first bytes."""
    told = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    kind = media_type or next(told, "image/webp")
    return digest(f"data:{kind};base64,{base64.b64encode(data).decode()}")


def is_size(value: object, most: int) -> bool:
    """Whether a member of a request is a whole number from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def dumps(value: Any) -> bytes:
    """Write JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()
