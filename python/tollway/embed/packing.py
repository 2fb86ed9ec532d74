"""Texts as they will be sent: counted, cut or split, and packed into requests."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tollway import _core
from tollway.errors import ConfigurationError, ContextWindowError, RequestTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.limiter import Limits
    from tollway.providers import EmbeddingRules
    from tollway.tokens import Encoding

__all__ = ["Batch", "Packer", "Packing", "Prepared", "TooLong", "prepare"]

TooLong = Literal["truncate", "error", "average"]
Packing = Literal["balanced", "fewest"]

# Requests' worth of texts that are looked at together to make the fewest of them: each may be left
# part empty at the end only, because what fills no request is packed with what follows.
_WINDOW = 8


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Texts as they will be sent.

    Attributes:
        texts: m pieces: a text each, cut where it was over the model's window, or its chunks one
            after the other.
        counts: Shape (m,), int64: tokens of each piece.
        owners: The text that each piece is of.
        split: Texts that have several pieces, and how many.
        truncated: Texts that were cut.
    """

    texts: list[str]
    counts: NDArray[np.int64]
    owners: Sequence[int]
    split: dict[int, int]
    truncated: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The texts of one request, with the caller's own number for each."""

    keys: Sequence[int]
    texts: Sequence[str]
    counts: NDArray[np.int64]

    def part(self, positions: Sequence[int]) -> Batch:
        """Return the texts at some positions."""
        keys = [self.keys[i] for i in positions]
        return Batch(keys, [self.texts[i] for i in positions], self.counts[positions])


def prepare(
    texts: list[str],
    encoding: Encoding,
    *,
    model: str,
    prompt: str,
    window: int | None,
    quota: int | None,
    too_long: TooLong,
    name: Callable[[int], str],
) -> Prepared:
    """Put the prompt before texts, count them, and cut, split or refuse what is too long.

    Args:
        texts: n strings; changed in place.
        encoding: What counts.
        model: For messages.
        prompt: Before every text and every chunk of one.
        window: Tokens that the model takes of a text, the prompt included, or None.
        quota: Tokens a minute that no text may be over, or None.
        too_long: What to do over the window.
        name: What to call text i in an error.

    Raises:
        ContextWindowError: A text is over the window and too_long="error".
        RequestTooLargeError: A text is more than the whole quota.
        ConfigurationError: The prompt alone fills the window.
    """
    sent = [prompt + text for text in texts] if prompt else texts
    counts = encoding.count_batch(sent)
    owners: Sequence[int] = range(len(sent))
    split: dict[int, int] = {}
    over = [] if window is None else [int(i) for i in (counts > window).nonzero()[0]]
    if over:
        assert window is not None
        if too_long == "error":
            i = over[0]
            raise ContextWindowError(
                f"{name(i)} has {counts[i]} tokens, and {model} takes {window}; split it, or have "
                "it cut with too_long='truncate'"
            )
        if too_long == "truncate":
            for i in over:
                sent[i] = encoding.truncate(sent[i], window)
                counts[i] = encoding.count(sent[i])
        else:
            chunks = {i: _chunks(texts[i], encoding, prompt, window) for i in over}
            split = {i: len(pieces) for i, pieces in chunks.items()}
            pieces = [(i, piece) for i, text in enumerate(sent) for piece in chunks.get(i, [text])]
            owners, sent = [i for i, _ in pieces], [piece for _, piece in pieces]
            counts = encoding.count_batch(sent)
    if quota is not None and len(counts) and counts.max() > quota:
        i = int(counts.argmax())
        raise RequestTooLargeError(
            f"{name(owners[i])} has {counts[i]} tokens, more than the whole quota of {quota} "
            "tokens a minute; split it or raise tpm"
        )
    truncated = over if too_long == "truncate" else []
    return Prepared(sent, counts, owners, split, truncated)


def _chunks(text: str, encoding: Encoding, prompt: str, window: int) -> list[str]:
    room = window - encoding.count(prompt)
    while room >= 4:
        chunks = [prompt + chunk for chunk in encoding.chunk(text, room)]
        # Where prompt and chunk meet there may be a token or two more than in both.
        most = int(encoding.count_batch(chunks).max())
        if most <= window:
            return chunks
        room -= most - window
    raise ConfigurationError(
        f"the prompt has {encoding.count(prompt)} tokens, and the model takes {window} with a text"
    )


class Packer:
    """Packs texts into requests as they come; what fills no request yet waits for more.

    Args:
        rules: What the model takes; asked anew for every request, for it may be learned.
        limits: What is held; asked anew for every request too.
        batch_size: Texts a request, or None for what is good under the limits.
        packing: `balanced` requests, in order; or the `fewest` in any order.
    """

    def __init__(
        self,
        rules: Callable[[], EmbeddingRules],
        limits: Callable[[], Limits],
        batch_size: int | None,
        packing: Packing,
    ) -> None:
        self._rules = rules
        self._limits = limits
        self._batch_size = batch_size
        self._packing = packing
        self._rest: Batch | None = None

    def add(self, keys: Sequence[int], prepared: Prepared) -> list[Batch]:
        """Return the requests that are full with these texts and those that waited."""
        if prepared.split:
            keys = [keys[owner] for owner in prepared.owners]
        added = Batch(keys, prepared.texts, prepared.counts)
        batches = list(self._pack(self._joined(added), whole=False))
        self._rest = batches.pop()
        return batches

    def flush(self) -> list[Batch]:
        """Return requests of all that is left."""
        rest, self._rest = self._rest, None
        return [] if rest is None or not rest.texts else list(self._pack(rest, whole=True))

    def _joined(self, added: Batch) -> Batch:
        import numpy as np  # noqa: PLC0415

        rest = self._rest
        if rest is None or not rest.texts:
            return added
        counts = np.concatenate([rest.counts, added.counts])
        return Batch([*rest.keys, *added.keys], [*rest.texts, *added.texts], counts)

    def _pack(self, batch: Batch, *, whole: bool) -> Iterator[Batch]:
        """Yield requests and, unless `whole`, at last what is left, though it be nothing.

        What is over the whole quota goes alone: it is admitted so, or has come to be over it since
        it was prepared, and fails by itself.
        """
        rules, limits = self._rules(), self._limits()
        if limits.tpm is not None:
            is_over = batch.counts > limits.tpm
            for i in is_over.nonzero()[0].tolist():
                yield batch.part([i])
            if is_over.any():
                batch = batch.part((~is_over).nonzero()[0].tolist())
        ceilings = [cap for cap in (rules.max_request_tokens, limits.tpm) if cap is not None]
        most = min(ceilings, default=None)
        if self._packing == "fewest":
            yield from self._fewest(batch, self._batch_size or rules.max_texts, most, whole=whole)
            return
        counts = batch.counts
        if self._batch_size is not None:
            max_texts, target = min(self._batch_size, rules.max_texts), None
        else:
            max_texts, target = _core.request_caps(
                limits.rpm,
                limits.tpm,
                provider_texts=rules.max_texts,
                provider_tokens=most,
                mean_tokens=max(1, int(counts.mean())) if len(counts) else None,
            )
        offsets = _core.pack(counts, max_texts, most, target_tokens=target).tolist()
        for start, end in itertools.pairwise(offsets):
            part = slice(start, end)
            yield Batch(batch.keys[part], batch.texts[part], counts[part])
        if len(offsets) == 1 and not whole:
            yield batch

    def _fewest(
        self, batch: Batch, max_texts: int, most: int | None, *, whole: bool
    ) -> Iterator[Batch]:
        count, tokens = len(batch.texts), int(batch.counts.sum())
        is_enough = count >= _WINDOW * max_texts or (most and tokens >= _WINDOW * most)
        if not (whole or is_enough):
            yield batch
            return
        requests = _core.pack_fewest(batch.counts, max_texts, most, whole=whole)
        for texts in requests:
            yield batch.part(texts.tolist())
        if not whole:
            sent = {text for texts in requests for text in texts.tolist()}
            yield batch.part([i for i in range(count) if i not in sent])
