"""Texts to vectors through one model: counted, cut, packed, paced, sent, checked, retried."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from tollway import _core
from tollway.bridge import Closing, run_sync
from tollway.embed.batching import BatchSending, Unpacked, check_mode
from tollway.embed.limits import limiter_of
from tollway.embed.packing import Packer, Packing, Prepared, TooLong, prepare
from tollway.embed.pool import Lane, providers_of
from tollway.embed.rows import Destination, normalized
from tollway.embed.sending import Sending, Tally
from tollway.errors import (
    BadResponseError,
    BudgetExceededError,
    ConfigurationError,
    InputError,
    TollwayError,
)
from tollway.limiter import RateLimiter
from tollway.providers import embedding_function
from tollway.retry import RetryPolicy, shared_breaker
from tollway.tokens import get_encoding
from tollway.usage import input_cost

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.batch import BatchOptions
    from tollway.embed.packing import Batch
    from tollway.embed.rows import Sent
    from tollway.limiter import Limits
    from tollway.providers import EmbeddingProvider

__all__ = ["DEFAULT_MODEL", "Dtype", "Embedder", "Mode"]

DEFAULT_MODEL = "local/universal-sentence-encoder"

Dtype = Literal["float32", "float16"]
Mode = Literal["direct", "batch"]


class Embedder(Closing):
    """Embeds texts through one model.

    Embedders of the same provider, address, credential and model share one limiter in a process,
    and one circuit breaker (`breaker`): once the key is refused or the quota spent, nothing more is
    sent for a minute, or until `breaker.reset()`.

    Args:
        model: `provider/model`, such as `openai/text-embedding-3-small`, or a provider itself; or
            several of one model, such as deployments in several regions, as a pool. Default: the
            embedded `local/universal-sentence-encoder`.
        embedding_func: A function of yours that embeds a list of texts instead, async or not
            (`tollway.providers.functions`); `model` then names what it calls.
        keys: Several keys of the provider, as a pool: each has limits of its own, requests go where
            there is room, and one that is refused leaves its work to the others. A job keeps its
            rows under the first of a pool.
        max_cost: US dollars that a call, or a run of a job, may cost: the request that would exceed
            them is not sent.
        limits: Ceilings to hold; a `RateLimiter` of your own; or `auto`: 500 requests and 100,000
            tokens a minute until the first answer states the account's own. Default: `auto` for
            hosted providers, none elsewhere. `Limits` without any of `rpm`, `tpm` and `rps` keep
            these.
        retry: When to try again. Default: `RetryPolicy()`.
        batch_size: Texts a request. Default: about 128, as the limits make it good.
        packing: `balanced` requests, or the `fewest`: each as full as the model takes, texts in any
            order. Fewer requests take less CPU, and lose more when one fails.
        too_long: What to do with a text over the model's window: `truncate` it; raise an `error`
            that names it; or `average` the vectors of its chunks, weighted by tokens and scaled to
            unit length.
        normalize: Scale every vector to unit length; most models do so themselves.
        dtype: `float32` or `float16` vectors; computed in float32 either way.
        prompt: Put before every text, such as `passage: ` for the models of the E5 family.
        query_prompt: Put before queries instead. Default: `prompt`.
        options: For the provider: `api_key`, `base_url`, `dimensions`, `errors`; and for how it
            connects: `ca_bundle`, `client_cert`, `proxy`, `headers`, `timeout`, `http2`, or an
            `http_client` of your own (see `tollway.transport`).

    Raises:
        ConfigurationError: A value, model or key that cannot work. Nothing was sent.
    """

    def __init__(
        self,
        model: str | EmbeddingProvider | Sequence[str | EmbeddingProvider] | None = None,
        *,
        embedding_func: Callable[..., Any] | None = None,
        keys: Sequence[str] | None = None,
        max_cost: float | None = None,
        limits: Limits | RateLimiter | Literal["auto"] | None = None,
        retry: RetryPolicy | None = None,
        batch_size: int | None = None,
        packing: Packing = "balanced",
        too_long: TooLong = "truncate",
        normalize: bool = False,
        dtype: Dtype = "float32",
        prompt: str = "",
        query_prompt: str | None = None,
        **options: Any,
    ) -> None:
        dimensions = options.get("dimensions")
        if dimensions is not None and dimensions < 1:
            raise ConfigurationError(f"dimensions must be at least 1, not {dimensions!r}")
        if embedding_func is not None:
            model, options = embedding_function(embedding_func, model, **options), {}
        providers = providers_of(DEFAULT_MODEL if model is None else model, keys, options)
        self.provider = providers[0]
        _check_choice("too_long", too_long, ("truncate", "error", "average"))
        _check_choice("packing", packing, ("balanced", "fewest"))
        _check_choice("dtype", dtype, ("float32", "float16"))
        rules = self.provider.rules
        if batch_size is not None and not 1 <= batch_size <= rules.max_texts:
            raise ConfigurationError(
                f"batch_size must be 1 to {rules.max_texts} for {self.model}, not {batch_size}"
            )
        self.retry = retry or RetryPolicy()
        self.packing: Packing = packing
        self.too_long: TooLong = too_long
        self.normalize = normalize
        self.dtype: Dtype = dtype
        self.prompt = prompt
        self.query_prompt = prompt if query_prompt is None else query_prompt
        if len(providers) > 1 and isinstance(limits, RateLimiter):
            raise ConfigurationError("each of a pool has a limiter of its own: give Limits")
        self.lanes = [
            Lane(each, limiter_of(each, limits), shared_breaker(each.quota_key, self.model))
            for each in providers
        ]
        self.limiter, self.breaker = self.lanes[0].limiter, self.lanes[0].breaker
        self.max_cost = max_cost
        if max_cost is not None and not max_cost >= 0:
            raise ConfigurationError(f"max_cost must be 0 US dollars or more, not {max_cost!r}")
        if max_cost is not None and self.cost(0) is None:
            raise ConfigurationError(f"max_cost cannot be held: no price of {self.model} is known")
        self.encoding = get_encoding(rules.encoding)
        self._batch_size = batch_size
        self._dimensions = rules.dimensions

    def __repr__(self) -> str:
        """Show model and limits."""
        return f"<Embedder {self.model}, {self.limiter!r}>"

    async def aclose(self) -> None:
        """Close the connections that were opened for this event loop."""
        for lane in self.lanes:
            await lane.provider.aclose()

    @property
    def model(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.provider.model}"

    @property
    def dimensions(self) -> int | None:
        """Length of the vectors; None until the first answer of a model that is not known."""
        return self._dimensions

    async def embed(
        self,
        texts: Sequence[str],
        *,
        on_error: Literal["raise", "nan"] = "raise",
        out: NDArray[Any] | None = None,
        mode: Mode = "direct",
        batch: BatchOptions | None = None,
    ) -> NDArray[Any]:
        """Embed texts in as few requests as is good under the limits; equal texts are sent once.

        Args:
            texts: n strings; may be none, but no empty one.
            on_error: `raise` when a text has no vector in the end, or leave its row NaN.
            out: Where to put the vectors: shape (n, d), of any float dtype, such as a memory-mapped
                `.npy`. Not to be used until the call has ended; rows without a vector are NaN then,
                and after a cancellation anything.
            mode: `batch` hands the texts over to the provider's batch API (OpenAI): half the price,
                vectors within a day. Nothing is kept when this process ends: a job is resumable.
            batch: How batches are submitted and waited for.

        Returns:
            `out`, or a new array, of shape (n, d) and `dtype`, C-contiguous, row i for texts[i];
            (0, d) for no texts.

        Raises:
            InputError: A text is empty; nothing was sent.
            ContextWindowError: A text is over the model's window and too_long="error"; nothing
                was sent.
            RequestTooLargeError: A text is more than the whole quota; nothing was sent, unless an
                answer told the quota.
            ProviderError: The provider refused for good.
            CircuitOpenError: It did so before, to another call of this credential and model.
            BudgetExceededError: The next request would cost more than `max_cost`.
            RetriesExhaustedError: A request failed in every attempt. Each of these five carries
                the finished rows as `finished`, the others NaN.

        A text that the provider refuses (400, 422) is found by halving its request, and the others
        of the request are embedded: the error names the first text without a vector, and is its.
        Requests on the wire are finished before an error is raised.

        Cancellation: safe at every await; requests under way are closed.
        """
        import numpy as np  # noqa: PLC0415

        _check_choice("on_error", on_error, ("raise", "nan"))
        check_mode(mode, self.provider)
        distinct, repeats = _core.distinct(texts)

        def named(i: int) -> str:
            return f"text {i if repeats is None else repeats[0][i]}"

        if "" in distinct:
            raise InputError(f"{named(distinct.index(''))} is empty; leave it out")
        count, keys = len(distinct) if repeats is None else len(repeats[1]), range(len(distinct))
        rows = Destination(count, repeats, out, np.dtype(self.dtype), self._dimensions)
        is_direct = rows.is_direct and not self.normalize
        failed: dict[int, TollwayError | None] = {}

        async def keep(sent: Sent) -> None:
            failed.update((sent.keys[i], sent.why(i)) for i in sent.failed)
            good, vectors = sent.good()
            if vectors is not None:
                rows.put(good, self.finish(vectors))

        sending: Sending | BatchSending
        packer: Packer | Unpacked
        if mode == "batch":
            sending, packer = BatchSending(self, keep, Tally(), options=batch), Unpacked()
        else:
            place = rows.place if is_direct else None
            sending = self.sending(keep, Tally(), place=place, lenient=on_error == "nan")
            packer = self.packer()

        async def batches() -> AsyncGenerator[Batch]:
            prepared = self.prepare(distinct, named)
            sending.averages.expect(keys, prepared)
            for part in packer.add(keys, prepared) + packer.flush():
                yield part

        try:
            await sending.run(batches())
        except TollwayError as error:
            error.finished = rows.all(self._dimensions or 0)
            raise
        vectors = rows.all(self._dimensions or 0)
        if failed and on_error == "raise":
            first = min(failed)
            failure = failed[first]
            assert failure is not None
            others = f" (and {len(failed) - 1:,} more)" if len(failed) > 1 else ""
            failure.args = (f"{named(first)}{others} has no vector: {failure}", *failure.args[1:])
            failure.finished = vectors
            raise failure
        return vectors

    def embed_sync(
        self,
        texts: Sequence[str],
        *,
        on_error: Literal["raise", "nan"] = "raise",
        out: NDArray[Any] | None = None,
        mode: Mode = "direct",
        batch: BatchOptions | None = None,
    ) -> NDArray[Any]:
        """Embed as `embed` does, from synchronous code; works inside a running loop too."""
        embedding = self.embed(texts, on_error=on_error, out=out, mode=mode, batch=batch)
        return run_sync(embedding)

    async def embed_query(self, query: str) -> NDArray[Any]:
        """Embed one query, where the model takes queries differently from documents.

        `query_prompt` is put before it instead of `prompt`, and the provider is told that it is a
        query where it asks (Voyage, Upstage).

        Returns:
            Shape (d,), of `dtype`.

        Raises:
            TollwayError: As `embed` does.
        """
        asking = copy.copy(self)
        asking.prompt = self.query_prompt
        # All of a pool: whichever key still works embeds it.
        asking.lanes = [
            dataclasses.replace(lane, provider=lane.provider.for_queries()) for lane in self.lanes
        ]
        asking.provider = asking.lanes[0].provider
        row: NDArray[Any] = (await asking.embed([query]))[0]
        self._dimensions = self._dimensions or len(row)
        return row

    def embed_query_sync(self, query: str) -> NDArray[Any]:
        """Embed as `embed_query` does, from synchronous code."""
        return run_sync(self.embed_query(query))

    # For jobs and plans

    def prepare(
        self,
        texts: list[str],
        name: Callable[[int], str] = "text {}".format,
        *,
        lenient: bool = False,
    ) -> Prepared:
        """Count texts, and cut, split or refuse those over the model's window or the whole quota.

        Args:
            texts: n strings; changed in place.
            name: What to call text i in an error.
            lenient: Leave a text over the quota to fail by itself when it is sent.

        Raises:
            ContextWindowError: As `embed` says.
            RequestTooLargeError: As `embed` says.
        """
        limits = self.limiter.current_limits
        return prepare(
            texts,
            self.encoding,
            model=self.model,
            prompt=self.prompt,
            window=self.provider.rules.window,
            quota=None if lenient or limits.admit_oversized else limits.tpm,
            too_long=self.too_long,
            name=name,
        )

    def packer(self) -> Packer:
        """Return what packs prepared texts into requests."""
        return Packer(
            lambda: self.provider.rules,
            lambda: self.limiter.current_limits,
            self._batch_size,
            self.packing,
        )

    def sending(
        self,
        deliver: Callable[[Sent], Awaitable[None]],
        tally: Tally,
        *,
        place: Callable[[Batch], NDArray[np.float32] | None] | None = None,
        lenient: bool = False,
        budgeted: bool = False,
    ) -> Sending:
        """Return what sends batches; see `Sending`."""
        return Sending(
            self.lanes,
            self.retry,
            deliver,
            tally,
            allow=self.allow,
            check=self.check_dimensions,
            place=place,
            lenient=lenient,
            budgeted=budgeted,
        )

    def finish(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        """Return vectors as they are to come out: normalized, and of `dtype`."""
        import numpy as np  # noqa: PLC0415

        done: NDArray[Any] = normalized(vectors) if self.normalize else vectors
        return np.ascontiguousarray(done, np.dtype(self.dtype))

    def allow(self, tokens: int, *, batch: bool = False) -> None:
        """Raise `BudgetExceededError` where tokens, in a batch or not, cost over `max_cost`."""
        cost = None if self.max_cost is None else self.cost(tokens, batch=batch)
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            raise BudgetExceededError(
                f"the next request would bring the cost to ${cost:,.6f}, over the "
                f"${self.max_cost:g} allowed, and was not sent; what is done is kept: raise "
                "max_cost to go on"
            )

    def check_dimensions(self, dimensions: int) -> None:
        """Raise `BadResponseError` where the length of vectors is not the one before."""
        if self._dimensions is None:
            self._dimensions = dimensions
        elif self._dimensions != dimensions:
            raise BadResponseError(
                f"{self.model} answered with {dimensions} dimensions, before with "
                f"{self._dimensions}"
            )

    def cost(self, tokens: int, *, batch: bool = False) -> float | None:
        """Return what tokens cost in US dollars, in a batch or not; None where it is unknown."""
        price = self.provider.rules.price
        if price == "listed":
            return input_cost(self.provider.name, self.provider.priced_as, tokens, batch=batch)
        return 0.0 if price == "free" else None


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choices = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise ConfigurationError(f"{name} must be {choices}, not {value!r}")
