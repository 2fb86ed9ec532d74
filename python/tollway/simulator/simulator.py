"""The simulator: one account of a provider, with its limits, faults and ledger."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tollway.errors import ConfigurationError
from tollway.simulator import faults as faulty
from tollway.simulator import openai as wire
from tollway.simulator.anthropic import AnthropicFormat
from tollway.simulator.anthropic_batches import AnthropicBatchFormat
from tollway.simulator.batches import BatchBehaviour, BatchFormat, BatchStore
from tollway.simulator.bedrock import BedrockFormat
from tollway.simulator.enforcement import Enforcement
from tollway.simulator.formats import Behaviour, Call, Format
from tollway.simulator.gemini import GeminiFormat
from tollway.simulator.ledger import Ledger, Record
from tollway.simulator.ollama import OllamaFormat
from tollway.simulator.openai_batches import OpenAIBatchFormat
from tollway.simulator.openai_format import OpenAIFormat
from tollway.simulator.server import HTTPServer, Request, Response
from tollway.simulator.vectors import packed_digests

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Coroutine, Generator, Mapping
    from collections.abc import Set as AbstractSet

    from tollway.simulator.enforcement import Standing
    from tollway.simulator.formats import Reasoning

__all__ = ["Simulator"]

FAULT_HEADER = "x-simulator-fault"

# The last one owns every path.
_FORMATS: tuple[Format, ...] = (
    AnthropicFormat(),
    BedrockFormat(),
    GeminiFormat(),
    OllamaFormat(),
    OpenAIFormat(),
)

_TRIPS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(slots=True)
class _Course:
    """What has become of one request so far."""

    format: Format
    arrival: float
    request_id: str
    fault: str | None = None
    admitted: bool = False
    texts: list[str] = field(default_factory=list[str])
    tokens: int = 0
    standing: dict[str, Standing] = field(default_factory=dict[str, "Standing"])
    batch: str | None = None

    def record(self, status: int | None) -> Record:
        return Record(
            self.arrival,
            status,
            self.fault,
            self.admitted,
            len(self.texts),
            self.tokens,
            packed_digests(self.texts),
            self.request_id,
            self.batch,
        )


class Simulator:
    """A provider of embeddings and completions on this machine, with limits and faults on demand.

    Use it as `async with Simulator(...) as sim` in a running event loop, or as
    `with Simulator(...) as sim` in a thread of its own; then point any client at `sim.base_url`.
    After it has stopped, `sim.ledger` still tells what arrived. It can be started again: limits,
    ledger and the numbering of requests go on.

    Args:
        rpm: Requests a minute; None for no limit. See `Enforcement` for how limits are judged.
        tpm: Tokens a minute.
        rpd: Requests a day.
        tpd: Tokens a day.
        sub_window: Seconds in which requests are judged too (ceil(rpm * sub_window / 60) of
            them); 0 switches it off.
        latency: Seconds that an admitted request takes.
        faults: How often what goes wrong. A request with the header `x-simulator-fault: NAME`
            meets that fault whatever the rates.
        credit_requests: Admitted requests after which every further one is a 429 of type
            `insufficient_quota`; None for endless credit.
        api_keys: Keys that are accepted; None for any.
        dimensions: Full size of the vectors of every model; None for the real sizes.
        refuses: As `Behaviour.refuses`.
        reasoning: As `Behaviour.reasoning`.
        context_window: As `Behaviour.context_window`.
        piece_delay: As `Behaviour.piece_delay`.
        batches: How batches go.
        host: A loopback address.
        port: 0 for any free one.
        ledger: File to which the records are also written, one JSON object a line, each before
            the answer it tells of.
        max_body: Bytes of a request's body.

    Attributes:
        ledger: Every request that was answered, or was in flight when the simulator stopped; each
            of a batch too, when it is done.

    Raises:
        ConfigurationError: An argument cannot work. On starting: the port is in use, the ledger
            cannot be written, or it runs already.
    """

    def __init__(
        self,
        *,
        rpm: int | None = None,
        tpm: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        sub_window: float = 1.0,
        latency: float = 0.0,
        faults: faulty.Faults = faulty.Faults(),  # noqa: B008 - frozen
        credit_requests: int | None = None,
        api_keys: Collection[str] | None = None,
        dimensions: int | None = None,
        refuses: AbstractSet[str] = frozenset(),
        reasoning: Reasoning = "apart",
        context_window: int | None = None,
        piece_delay: float = 0.0,
        batches: BatchBehaviour = BatchBehaviour(),  # noqa: B008 - frozen
        host: str = "127.0.0.1",
        port: int = 0,
        ledger: str | os.PathLike[str] | None = None,
        max_body: int = 32 << 20,
    ) -> None:
        if latency < 0:
            raise ConfigurationError(f"latency is {latency}: it is seconds, not negative")
        if dimensions is not None and not 1 <= dimensions <= 1_000_000:
            raise ConfigurationError(f"dimensions is {dimensions}: it lies in 1..1,000,000")
        self.ledger = Ledger()
        self._enforcement = Enforcement(rpm=rpm, tpm=tpm, rpd=rpd, tpd=tpd, sub_window=sub_window)
        self._latency = latency
        self._faults = faults
        self._credit = credit_requests
        self._keys = None if api_keys is None else frozenset(api_keys)
        self._behaviour = Behaviour(
            dimensions, frozenset(refuses), reasoning, context_window, piece_delay
        )
        self._store = BatchStore(batches, self._in_batch)
        self._batches: tuple[BatchFormat, ...] = (
            AnthropicBatchFormat(self._store),
            OpenAIBatchFormat(self._store),
        )
        self._batch_ordinals, self._line_ordinals = itertools.count(), itertools.count()
        self._path = ledger
        self._ordinals = itertools.count()
        self._server = HTTPServer(self._answer, _improper, host=host, port=port, max_body=max_body)
        self._address: str | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def base_url(self) -> str:
        """Where clients send their requests: `http://127.0.0.1:PORT/v1`.

        Raises:
            ConfigurationError: The simulator is not running.
        """
        if self._address is None:
            raise ConfigurationError("the simulator is not running: use it in a with block")
        return f"{self._address}/v1"

    @property
    def batches(self) -> int:
        """How many batches were begun, refused ones left out."""
        return sum(batch.problem is None for batch in self._store.batches.values())

    def change(self, **limits: int) -> None:
        """Give limits other quotas from now on, as providers do; see `Enforcement.change`."""
        self._enforcement.change(time.monotonic(), **limits)

    async def __aenter__(self) -> Self:
        """Listen, in the running event loop."""
        if self._address is not None:
            raise ConfigurationError("the simulator is running already")
        if self._path is not None:
            self.ledger.open(self._path)
        try:
            self._address = await self._server.start()
        except BaseException:
            self.ledger.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection; requests in flight get no answer."""
        await self._server.stop()
        # They are no client's any more: all that will be done and charged stands in the ledger.
        self._store.advance(to_the_end=True)
        self._address = None
        self.ledger.close()

    def __enter__(self) -> Self:
        """Listen, in an event loop in a thread of its own."""
        if self._address is not None:
            raise ConfigurationError("the simulator is running already")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tollway-simulator", daemon=True
        )
        self._thread.start()
        try:
            self._run(self.__aenter__())
        except BaseException:
            self._end_thread()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection and end the thread."""
        try:
            self._run(self.__aexit__())
        finally:
            self._end_thread()

    def _run(self, step: Coroutine[object, object, object]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(step, self._loop).result()

    def _end_thread(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, request: Request) -> Response | None:
        """Answer a request, and write it down before the answer goes out."""
        began = time.perf_counter()
        format_ = next(known for known in _FORMATS if known.owns(request.path))
        course = _Course(format_, request.arrival, f"req_{uuid.uuid4().hex}")
        try:
            response = await self._perform(request, course)
        except wire.Refusal as refusal:
            response = Response(refusal.status, refusal.body, refusal.headers)
        except asyncio.CancelledError:
            self.ledger.append(course.record(None))
            raise
        self.ledger.append(course.record(None if response is None else response.status))
        if response is None:
            return None
        headers = {
            "openai-processing-ms": str(round((time.perf_counter() - began) * 1000)),
            **format_.headers(course.request_id, course.standing),
            **response.headers,
        }
        return dataclasses.replace(response, headers=headers)

    async def _about_batches(self, request: Request, course: _Course) -> Response | None:
        """Answer a request about batches; a fault that breaks off comes after the deed."""
        format_ = next(known for known in self._batches if known.owns(request.path))
        self._store.advance()
        fault = self._fault(request, next(self._batch_ordinals))
        course.fault = fault if fault and faulty.applies(fault, 0) else None
        if self._latency:
            await asyncio.sleep(self._latency)
        if fault in {"500", "503", "429"}:
            raise course.format.fault(fault, "batches", self._faults.retry_after)
        with _well_formed(course.format):
            response = format_.answer(request, self._keys, str(self._address))
        if fault == "disconnect":
            return None
        cut = len(response.body) // 2 if fault == "truncated" else None
        return dataclasses.replace(response, cut=cut)

    def _in_batch(self, batch: str, path: str, body: Mapping[str, Any]) -> tuple[int, bytes, str]:
        """Answer a request of a batch, and write it down."""
        request = Request("POST", path, {}, json.dumps(body).encode(), time.monotonic())
        format_ = next(known for known in _FORMATS if known.owns(path))
        course = _Course(format_, request.arrival, f"req_{uuid.uuid4().hex}", batch=batch)
        faults, ordinal = self._store.behaviour.faults, next(self._line_ordinals)
        fault = faults.draw(ordinal)
        try:
            with _well_formed(format_):
                call = format_.read(request, self._behaviour)
                course.texts, course.tokens = call.texts, call.tokens
            course.fault = fault if fault and faulty.applies(fault, call.rows) else None
            if fault in {"500", "503", "429", "insufficient_quota"}:
                raise format_.fault(fault, call.model, faults.retry_after)
            course.admitted = True
            response = call.answer(course.fault, faults.row(ordinal, call.rows or 1))
        except wire.Refusal as refusal:
            response = Response(refusal.status, refusal.body)
        self.ledger.append(course.record(response.status))
        return response.status, response.body, course.request_id

    async def _perform(self, request: Request, course: _Course) -> Response | None:
        if any(known.owns(request.path) for known in self._batches):
            return await self._about_batches(request, course)
        with _well_formed(course.format):
            free = course.format.free(request, self._keys)
        if free is not None:
            return free
        ordinal = next(self._ordinals)
        fault = self._fault(request, ordinal)
        call = self._admit(request, course, fault)
        pause = self._latency + (self._faults.delay if course.fault == "delay" else 0.0)
        if pause:
            await asyncio.sleep(pause)
        if course.fault == "disconnect":
            return None
        if course.fault in ("500", "503"):
            raise course.format.fault(course.fault, call.model, self._faults.retry_after)
        return call.answer(course.fault, self._faults.row(ordinal, call.rows or 1))

    def _fault(self, request: Request, ordinal: int) -> str | None:
        forced = request.headers.get(FAULT_HEADER)
        if forced is None:
            return self._faults.draw(ordinal)
        try:
            faulty.check_name(forced)
        except ConfigurationError as error:
            raise wire.Refusal(400, str(error), param=FAULT_HEADER) from error
        return forced

    def _admit(self, request: Request, course: _Course, fault: str | None) -> Call:
        """Read the call and charge it; a call that is not in order is charged one request.

        There is no await between the parsing of a request and its judgement: what arrived first is
        judged first.
        """
        try:
            with _well_formed(course.format):
                call = course.format.read(request, self._behaviour)
                course.texts, course.tokens = call.texts, call.tokens
        except wire.Refusal:
            self._charge(course, 0, "this model")
            raise
        if self._credit == 0:
            fault = "insufficient_quota"
        denies = fault in ("429", "insufficient_quota")
        self._charge(course, 0 if denies else call.tokens, call.model)
        course.fault = fault if fault and faulty.applies(fault, call.rows) else None
        if fault is not None and denies:
            raise course.format.fault(fault, call.model, self._faults.retry_after)
        course.admitted = True
        if self._credit is not None:
            self._credit -= 1
        return call

    def _charge(self, course: _Course, tokens: int, model: str) -> None:
        denial = self._enforcement.admit(course.arrival, tokens)
        course.standing = self._enforcement.standing(course.arrival)
        if denial is not None:
            raise course.format.denied(model, denial)


@contextlib.contextmanager
def _well_formed(format_: Format) -> Generator[None]:
    """Refuse what a format trips over: it takes members to be of the kinds that they should be."""
    try:
        yield
    except _TRIPS as error:
        message = f"The request is not in order: {type(error).__name__}: {error}"
        raise format_.malformed(message) from error


def _improper(status: int, message: str) -> Response:
    return Response(status, wire.Refusal(status, message).body)
