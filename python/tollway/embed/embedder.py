"""Texts to vectors through one model: counted, cut, packed, paced, sent, checked, retried."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from tollway import _core
from tollway.bridge import run_sync
from tollway.embed.rows import Rows
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    CircuitOpenError,
    ConfigurationError,
    ContextWindowError,
    InputError,
    InsufficientQuotaError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    TollwayError,
)
from tollway.limiter import AUTO_LIMITS, Limits, RateLimiter, shared_limiter
from tollway.providers import ChatProvider, EmbeddingProvider, embedding_provider
from tollway.retry import CallRecord, RetryPolicy, shared_breaker, shared_budget
from tollway.tokens import get_encoding
from tollway.types import Usage
from tollway.usage import input_cost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from tollway.providers.base import EmbeddingAnswer
    from tollway.retry import RetryBudget

__all__ = [
    "DEFAULT_MODEL",
    "Batch",
    "Embedder",
    "Prepared",
    "Sent",
    "Tally",
    "TooLong",
    "limiter_of",
]

DEFAULT_MODEL = "local/universal-sentence-encoder"

TooLong = Literal["truncate", "error"]

# Every request would fail like this one: what is wrong is not the texts.
_FATAL = (
    AuthenticationError,
    CircuitOpenError,
    InsufficientQuotaError,
    NotFoundError,
    PermissionDeniedError,
)


@dataclass(slots=True)
class Tally:
    """What a call has used so far; seen by progress displays.

    Attributes:
        usage: What the provider counted for the answers that came.
        sent: Requests sent, failed ones included.
        retries: Attempts after the first of a request.
        rate_limited: Attempts refused with 429.
        texts: Distinct texts that have their vector.
        hedges: Second attempts sent beside a slow one.
        budget_wait: Seconds that retries waited for the retry budget, all together.
    """

    usage: Usage = field(default_factory=Usage)
    sent: int = 0
    retries: int = 0
    rate_limited: int = 0
    texts: int = 0
    hedges: int = 0
    budget_wait: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Texts as they will be sent.

    Attributes:
        texts: Cut to the model's window where they were longer.
        counts: Shape (n,), int64: tokens of each.
        truncated: Which were cut.
    """

    texts: list[str]
    counts: NDArray[np.int64]
    truncated: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The texts of one request, with the caller's own number for each."""

    keys: Sequence[int]
    texts: Sequence[str]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What became of a batch.

    Attributes:
        batch: As it was given.
        vectors: Shape (n, d), NaN where a text failed; None if all did.
        failed: Positions in the batch of the texts without a vector.
        error: Why, or None.
    """

    batch: Batch
    vectors: NDArray[np.float32] | None
    failed: Sequence[int]
    error: TollwayError | None


class Embedder:
    """Embeds texts through one model.

    Embedders of the same provider, address, credential and model share one limiter in a process,
    and one circuit breaker (`breaker`): once the key is refused or the quota spent, nothing more is
    sent for a minute, or until `breaker.reset()`.

    Args:
        model: `provider/model`, such as `openai/text-embedding-3-small`, or a provider itself.
        limits: Ceilings to hold; a `RateLimiter` of your own; or `auto`: 500 requests and 100,000
            tokens a minute until the first answer states the account's own. Default: `auto` for
            hosted providers, none elsewhere. `Limits` without any of `rpm`, `tpm` and `rps` keep
            these.
        retry: When to try again. Default: `RetryPolicy()`.
        batch_size: Texts a request. Default: about 128, as the limits make it good.
        too_long: What to do with a text over the model's window: `truncate` it, or raise an
            `error` that names it.
        options: For the provider: `api_key`, `base_url`, `dimensions`, `http_client`, `errors`.

    Raises:
        ConfigurationError: A value, model or key that cannot work. Nothing was sent.
    """

    def __init__(
        self,
        model: str | EmbeddingProvider = DEFAULT_MODEL,
        *,
        limits: Limits | RateLimiter | Literal["auto"] | None = None,
        retry: RetryPolicy | None = None,
        batch_size: int | None = None,
        too_long: TooLong = "truncate",
        **options: Any,
    ) -> None:
        if isinstance(model, str):
            self.provider: EmbeddingProvider = embedding_provider(model, **options)
        elif options:
            raise ConfigurationError("options of the provider go to the provider that is given")
        else:
            self.provider = model
        if too_long not in {"truncate", "error"}:
            raise ConfigurationError(f"too_long must be truncate or error, not {too_long!r}")
        rules = self.provider.rules
        if batch_size is not None and not 1 <= batch_size <= rules.max_texts:
            raise ConfigurationError(
                f"batch_size must be 1 to {rules.max_texts} for {self.model}, not {batch_size}"
            )
        self.retry = retry or RetryPolicy()
        self.too_long = too_long
        self.limiter = limiter_of(self.provider, limits)
        self.breaker = shared_breaker(self.provider.quota_key, self.model)
        self.encoding = get_encoding(rules.encoding)
        self.max_in_flight = (
            self.limiter.limits.max_in_flight or self.provider.limits.max_in_flight or 25
        )
        self._batch_size = batch_size
        self._dimensions = rules.dimensions

    def __repr__(self) -> str:
        """Show model and limits."""
        return f"<Embedder {self.model}, {self.limiter!r}>"

    async def __aenter__(self) -> Self:
        """Return itself; `aclose` is called at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close as `aclose` does."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that were opened for this event loop."""
        await self.provider.aclose()

    def aclose_sync(self) -> None:
        """Close the connections that synchronous calls opened; later calls open others."""
        run_sync(self.aclose())

    @property
    def model(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.provider.model}"

    @property
    def dimensions(self) -> int | None:
        """Length of the vectors; None until the first answer of a model that is not known."""
        return self._dimensions

    async def embed(
        self, texts: Sequence[str], *, on_error: Literal["raise", "nan"] = "raise"
    ) -> NDArray[np.float32]:
        """Embed texts in as few requests as is good under the limits; equal texts are sent once.

        Args:
            texts: n strings; may be none, but no empty one.
            on_error: `raise` when a text has no vector in the end, or leave its row NaN.

        Returns:
            Shape (n, d), float32, C-contiguous, row i for texts[i]; (0, d) for no texts.

        Raises:
            InputError: A text is empty; nothing was sent.
            ContextWindowError: A text is over the model's window and too_long="error"; nothing
                was sent.
            RequestTooLargeError: A text is more than the whole quota; nothing was sent.
            ProviderError: The provider refused for good.
            CircuitOpenError: It did so before, to another call of this credential and model.
            RetriesExhaustedError: A request failed in every attempt. Each of these three carries
                the finished rows as `finished`, the others NaN.

        Cancellation: safe at every await; requests under way are closed.
        """
        import numpy as np  # noqa: PLC0415

        if on_error not in {"raise", "nan"}:
            raise ConfigurationError(f"on_error must be raise or nan, not {on_error!r}")
        _check_texts(texts)
        ordinals: dict[str, int] = {}
        inverse = [ordinals.setdefault(text, len(ordinals)) for text in texts]
        prepared = self.prepare(list(ordinals))
        vectors = np.empty((0, self._dimensions or 0), np.float32)
        failure: TollwayError | None = None

        async def keep(sent: Sent) -> None:
            nonlocal vectors, failure
            failure = failure or sent.error
            if sent.vectors is not None:
                if len(vectors) == 0:
                    shape = (len(ordinals), sent.vectors.shape[1])
                    vectors = np.full(shape, np.nan, np.float32)
                vectors[sent.batch.keys] = sent.vectors

        def finished() -> NDArray[np.float32]:
            if len(vectors) == 0:
                return np.full((len(texts), self._dimensions or 0), np.nan, np.float32)
            # Without equal texts the rows are in place already.
            return vectors if len(ordinals) == len(texts) else vectors[inverse]

        try:
            await self.run(
                self.batches(range(len(ordinals)), prepared),
                keep,
                Tally(),
                lenient=on_error == "nan",
            )
        except TollwayError as error:
            error.finished = finished()
            raise
        if failure is not None and on_error == "raise":
            failure.finished = finished()
            raise failure
        return finished()

    def embed_sync(
        self, texts: Sequence[str], *, on_error: Literal["raise", "nan"] = "raise"
    ) -> NDArray[np.float32]:
        """Embed as `embed` does, from synchronous code; works inside a running loop too."""
        return run_sync(self.embed(texts, on_error=on_error))

    def prepare(self, texts: list[str], name: Callable[[int], str] | None = None) -> Prepared:
        """Count texts, and cut or refuse those over the model's window or the whole quota.

        Args:
            texts: n strings.
            name: What to call text i in an error. Default: `text i`.

        Raises:
            ContextWindowError: As `embed` says.
            RequestTooLargeError: As `embed` says.
        """
        name = name or "text {}".format
        counts = self.encoding.count_batch(texts)
        window, tpm = self.provider.rules.max_text_tokens, self.limiter.current_limits.tpm
        truncated: list[int] = []
        if window is not None:
            truncated = [int(i) for i in (counts > window).nonzero()[0]]
        for i in truncated:
            assert window is not None
            if self.too_long == "error":
                raise ContextWindowError(
                    f"{name(i)} has {counts[i]} tokens, and {self.model} takes {window}; split it, "
                    "or have it cut with too_long='truncate'"
                )
            texts[i] = self.encoding.truncate(texts[i], window)
            counts[i] = self.encoding.count(texts[i])
        if tpm is not None and len(counts) and counts.max() > tpm:
            i = int(counts.argmax())
            raise RequestTooLargeError(
                f"{name(i)} has {counts[i]} tokens, more than the whole quota of {tpm} tokens a "
                "minute; split it or raise tpm"
            )
        return Prepared(texts, counts, truncated)

    def offsets(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where requests begin and end in n texts of these counts, shape (m + 1,)."""
        rules, limits = self.provider.rules, self.limiter.current_limits
        ceilings = [cap for cap in (rules.max_request_tokens, limits.tpm) if cap is not None]
        most = min(ceilings, default=None)
        if self._batch_size is not None:
            return _core.pack(counts, self._batch_size, most)
        max_texts, target = _core.request_caps(
            limits.rpm,
            limits.tpm,
            provider_texts=rules.max_texts,
            provider_tokens=most,
            mean_tokens=max(1, int(counts.mean())) if len(counts) else None,
        )
        return _core.pack(counts, max_texts, most, target_tokens=target)

    def batches(self, keys: Sequence[int], prepared: Prepared) -> Iterator[Batch]:
        """Pack prepared texts into requests, in order."""
        offsets = self.offsets(prepared.counts).tolist()
        for start, end in itertools.pairwise(offsets):
            part = slice(start, end)
            yield Batch(keys[part], prepared.texts[part], prepared.counts[part])

    async def run(
        self,
        batches: Iterable[Batch],
        deliver: Callable[[Sent], Awaitable[None]],
        tally: Tally,
        *,
        lenient: bool = False,
        budgeted: bool = False,
    ) -> None:
        """Send every batch, at most `max_in_flight` at once, and deliver what became of each.

        Batches are drawn when there is room for one, so that memory is bounded by what is in
        flight; one without texts only lets other tasks run. One that fails is delivered as failed
        and the others go on, unless nothing has succeeded yet, or nothing could: that error is
        raised.

        Args:
            batches: What to send.
            deliver: Awaited with what became of each, in order of completion.
            tally: Added to.
            lenient: Deliver as failed too what the provider answers but does not embed, though
                nothing has succeeded yet: the texts are known or allowed to be what is wrong.
            budgeted: Bound retries by the budget of this credential and model, unless the policy
                says otherwise.

        Raises:
            TollwayError: As above; requests under way are closed, what was delivered stays.
        """
        source = iter(batches)
        budget = shared_budget(self.provider.quota_key) if budgeted else None
        await self.provider.open()

        async def work() -> None:
            for batch in source:
                if not batch.texts:
                    await asyncio.sleep(0)
                    continue
                sent = await self._send(batch, tally, budget, lenient=lenient)
                tally.texts += len(batch.texts) - len(sent.failed)
                await deliver(sent)

        workers = [asyncio.create_task(work()) for _ in range(self.max_in_flight)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _send(
        self, batch: Batch, tally: Tally, budget: RetryBudget | None, *, lenient: bool
    ) -> Sent:
        """Send one batch until each of its texts has a vector or no attempt is left."""
        rows = Rows(batch)
        record = CallRecord()
        hedges = 0

        async def attempt() -> EmbeddingAnswer:
            nonlocal hedges
            asked, texts, tokens = rows.pending()
            is_hedge, hedges = record.hedges > hedges, record.hedges
            tally.sent += 1
            tally.hedges += is_hedge
            tally.retries += not is_hedge and record.sent > 1
            try:
                answer = await self.provider.embed(texts)
            except RateLimitError:
                tally.rate_limited += 1
                raise
            usage = answer.usage
            if usage.estimated:
                usage = dataclasses.replace(usage, input_tokens=tokens)
            tally.usage += usage
            if len(answer.bad_rows) < len(texts):
                self._check_dimensions(answer.vectors.shape[1])
            rows.place(asked, answer)
            return answer

        try:
            await self.retry.call(
                attempt,
                limiter=self.limiter,
                tokens=lambda: rows.pending()[2],
                breaker=self.breaker,
                budget=budget,
                record=record,
            )
        except _FATAL:
            raise
        except TollwayError as error:
            answered = isinstance(error.__cause__ or error, (BadRequestError, BadResponseError))
            if tally.texts == 0 and rows.vectors is None and not (lenient and answered):
                raise
            return Sent(batch, rows.vectors, rows.missing, error)
        finally:
            tally.budget_wait += record.budget_wait
        return Sent(batch, rows.vectors, (), None)

    def _check_dimensions(self, dimensions: int) -> None:
        if self._dimensions is None:
            self._dimensions = dimensions
        elif self._dimensions != dimensions:
            raise BadResponseError(
                f"{self.model} answered with {dimensions} dimensions, before with "
                f"{self._dimensions}"
            )

    def cost(self, tokens: int) -> float | None:
        """Return what tokens cost in US dollars; 0.0 where it is free, None where unknown."""
        price = self.provider.rules.price
        if price == "listed":
            return input_cost(self.provider.name, self.provider.model, tokens)
        return 0.0 if price == "free" else None


def limiter_of(
    provider: EmbeddingProvider | ChatProvider,
    limits: Limits | RateLimiter | Literal["auto"] | None,
) -> RateLimiter:
    """Return the limiter that calls of a provider take their permits from.

    Args:
        provider: Names its quota and the limits to begin with.
        limits: What the user gave: ceilings, which the process's calls of that quota share, a
            limiter of their own, `auto`, or nothing.

    Raises:
        ConfigurationError: `limits` is none of these, or the quota is held with others.
    """
    if isinstance(limits, RateLimiter):
        return limits
    defaults = provider.limits
    if limits is None:
        limits = defaults
    elif limits == "auto":
        limits = dataclasses.replace(
            AUTO_LIMITS,
            sub_window=defaults.sub_window,
            max_in_flight=defaults.max_in_flight or AUTO_LIMITS.max_in_flight,
        )
    elif isinstance(limits, Limits):  # pyright: ignore[reportUnnecessaryIsInstance]
        # What the user leaves open about how the provider judges, the provider fills in.
        if limits.rpm is limits.tpm is limits.rps is None:
            limits = dataclasses.replace(
                limits,
                rpm=defaults.rpm,
                tpm=defaults.tpm,
                rps=defaults.rps,
                auto=defaults.auto,
            )
        if limits.sub_window is None and limits.rpm is not None:
            limits = dataclasses.replace(limits, sub_window=defaults.sub_window)
        if limits.max_in_flight is None:
            limits = dataclasses.replace(limits, max_in_flight=defaults.max_in_flight)
    else:
        raise ConfigurationError(f"limits must be Limits, a RateLimiter or auto, not {limits!r}")
    return shared_limiter(provider.quota_key, limits)


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of strings, not one string: [text]")
    for i, text in enumerate(texts):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"text {i} must be a string, not {type(text).__name__}")
        if not text:
            raise InputError(f"text {i} is empty; leave it out")
