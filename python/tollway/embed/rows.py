"""Rows as answers bring them: of one request's texts, and of texts that were sent in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tollway.errors import BadResponseError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.embed.packing import Batch, Prepared
    from tollway.errors import TollwayError
    from tollway.providers import EmbeddingAnswer

__all__ = ["Averages", "Destination", "Rows", "Sent", "normalized"]


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What became of a batch.

    Attributes:
        keys: The caller's number of each text.
        vectors: Shape (n, d), float32, NaN where a text failed; None if all did.
        failed: Positions of the texts without a vector.
        error: Why, or None; of several reasons the last.
        errors: Why, by position, of texts of which more is known.
    """

    keys: Sequence[int]
    vectors: NDArray[np.float32] | None
    failed: Sequence[int]
    error: TollwayError | None
    errors: Mapping[int, TollwayError] = field(default_factory=dict["int", "TollwayError"])

    def why(self, position: int) -> TollwayError | None:
        """Return why the text at a position has no vector."""
        return self.errors.get(position, self.error)

    def good(self) -> tuple[Sequence[int], NDArray[np.float32] | None]:
        """Return the keys that have a vector, and those vectors."""
        if not self.failed or self.vectors is None:
            return (self.keys if self.vectors is not None else []), self.vectors
        failed = set(self.failed)
        there = [i for i in range(len(self.keys)) if i not in failed]
        return [self.keys[i] for i in there], self.vectors[there]


class Rows:
    """The rows of a batch as they come in, over one request or several.

    Attributes:
        missing: Positions that have no row yet.
        vectors: The rows, NaN where there is none yet; None before the first.
        into: Where they may be decoded: `vectors` is that array then.
    """

    def __init__(self, batch: Batch, into: NDArray[np.float32] | None = None) -> None:
        self._batch = batch
        self.into = into
        self.missing: Sequence[int] = range(len(batch.texts))
        self.vectors: NDArray[np.float32] | None = None
        self._tokens = int(batch.counts.sum())

    def pending(self) -> tuple[Sequence[int], Sequence[str], int]:
        """Return the positions that have no row yet, their texts, and their tokens."""
        missing, texts, counts = self.missing, self._batch.texts, self._batch.counts
        if len(missing) == len(texts):
            return missing, texts, self._tokens
        return missing, [texts[i] for i in missing], int(counts[missing].sum())

    def place(self, asked: Sequence[int], answer: EmbeddingAnswer) -> None:
        """Take the good rows of an answer to the texts at `asked`.

        Raises:
            BadResponseError: Some rows are of no use; the good ones are taken.
        """
        bad = answer.bad_rows
        if len(bad) < len(asked):
            self.fill(asked, answer.vectors)
        self.missing = [asked[row] for row, _ in bad]
        if bad:
            row, reason = bad[0]
            error = BadResponseError(
                f"{len(bad)} of {len(asked)} rows of an answer are of no use, the first for text "
                f"{row} of the request: {reason}",
                status=200,
            )
            error.feedback = answer.feedback
            raise error

    def fill(self, positions: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Put vectors at positions."""
        import numpy as np  # noqa: PLC0415

        if len(positions) == len(self._batch.texts):
            # The first answer with a good row is the array: nothing is copied.
            self.vectors = vectors
            return
        if self.vectors is None:
            shape = (len(self._batch.texts), vectors.shape[1])
            self.vectors = np.full(shape, np.nan, np.float32)
        self.vectors[positions] = vectors

    def take(self, positions: Sequence[int], sent: Sent) -> list[int]:
        """Take the good rows of what was sent for positions; return those that have none."""
        if sent.vectors is not None:
            failed = set(sent.failed)
            there = [i for i in range(len(positions)) if i not in failed]
            self.fill([positions[i] for i in there], sent.vectors[there])
        return [positions[i] for i in sent.failed]

    def sent(
        self,
        error: TollwayError | None = None,
        errors: Mapping[int, TollwayError] | None = None,
    ) -> Sent:
        """Return what has become of the batch."""
        return Sent(self._batch.keys, self.vectors, self.missing, error, errors or {})


class Destination:
    """The array that the rows of n texts end in.

    Args:
        count: n.
        repeats: Which texts are equal; see `_core.distinct`.
        out: The array, or None for one of our own, made as soon as the length of a row is known.
        dtype: Of our own.
        width: Length of a row, if known.

    Raises:
        ConfigurationError: The array is of another shape or kind. Nothing was written to it.
    """

    def __init__(
        self,
        count: int,
        repeats: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
        out: NDArray[Any] | None,
        dtype: np.dtype[Any],
        width: int | None,
    ) -> None:
        import numpy as np  # noqa: PLC0415

        if out is not None:
            _check(out, count, width)
        self._count = count
        self._width = width
        self._dtype = dtype
        self._array = out
        # Without equal texts the numbers of the distinct ones are the places.
        self._firsts = None if repeats is None else repeats[0]
        self._kinds = None if repeats is None else repeats[1]
        self._is_done = np.zeros(count if repeats is None else len(repeats[0]), np.bool_)
        self.is_direct = dtype == np.float32 if out is None else _is_direct(out)

    def place(self, batch: Batch) -> NDArray[np.float32] | None:
        """Return the rows of a batch's texts, if they are side by side and their length known."""
        keys, firsts = batch.keys, self._firsts
        if self._width is None or not isinstance(keys, range) or not keys:
            return None
        start, stop = keys[0], keys[-1] + 1
        if firsts is not None:
            start, stop = int(firsts[start]), int(firsts[stop - 1]) + 1
        if stop - start != len(keys):
            return None
        return self._made(self._width)[start:stop]

    def put(self, keys: Sequence[int], vectors: NDArray[Any]) -> None:
        """Put the vectors of distinct texts where each is first, unless they are there already."""
        import numpy as np  # noqa: PLC0415

        array = self._made(vectors.shape[1])
        if array.shape[1] != vectors.shape[1]:
            raise ConfigurationError(
                f"out must be of shape ({self._count}, {vectors.shape[1]}), not {array.shape}"
            )
        places = slice(keys[0], keys[-1] + 1) if isinstance(keys, range) else np.asarray(keys)
        self._is_done[places] = True
        if not (self.is_direct and np.may_share_memory(array, vectors)):
            array[places if self._firsts is None else self._firsts[places]] = vectors

    def _made(self, width: int) -> NDArray[Any]:
        import numpy as np  # noqa: PLC0415

        if self._array is None:
            self._array = np.empty((self._count, width), self._dtype)
        return self._array

    def all(self, width: int) -> NDArray[Any]:
        """Return a row for each text, equal ones as the first of them, NaN where there is none."""
        import numpy as np  # noqa: PLC0415

        array, firsts = self._made(width), self._firsts
        missing = (~self._is_done).nonzero()[0]
        array[missing if firsts is None else firsts[missing]] = np.nan
        if firsts is not None and self._kinds is not None:
            origins = firsts[self._kinds]
            others = (origins != np.arange(self._count)).nonzero()[0]
            array[others] = array[origins[others]]
        return array


def _check(out: NDArray[Any], count: int, width: int | None) -> None:
    import numpy as np  # noqa: PLC0415

    if not isinstance(out, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"out must be an array, not {type(out).__name__}")
    if out.ndim != 2 or out.shape != (count, width or out.shape[1]):
        raise ConfigurationError(
            f"out must be of shape ({count}, {width or 'd'}) for {count} texts, not {out.shape}"
        )
    if out.dtype.kind != "f" or not out.flags.writeable:
        held = out.dtype if out.dtype.kind != "f" else "read-only"
        raise ConfigurationError(f"out must hold floats that can be written, and is {held}")


def _is_direct(array: NDArray[Any]) -> bool:
    """Whether rows may be decoded into an array as it is."""
    import numpy as np  # noqa: PLC0415

    flags = array.flags
    return bool(array.dtype == np.float32 and flags.c_contiguous and flags.aligned)


class Averages:
    """Texts that are sent in pieces: mean vectors, weighted by tokens, scaled to unit length.

    A text's vector is Σ tokens · vector of its pieces, divided by its length: as if the model had
    read the pieces one after the other and averaged over all tokens.
    """

    def __init__(self) -> None:
        # By the caller's number: pieces that are still to come, the sum so far, the first failure.
        self._pieces: dict[int, int] = {}
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._errors: dict[int, TollwayError] = {}

    def expect(self, keys: Sequence[int], prepared: Prepared) -> None:
        """Learn which texts come in pieces."""
        for owner, pieces in prepared.split.items():
            self._pieces[keys[owner]] = pieces

    def join(self, batch: Batch, sent: Sent) -> Sent:
        """Return what is known of whole texts; pieces are held back until their text is complete.

        Args:
            batch: What was sent.
            sent: What became of it.
        """
        if not self._pieces or self._pieces.keys().isdisjoint(batch.keys):
            return sent
        import numpy as np  # noqa: PLC0415

        failed = set(range(len(batch.keys)) if sent.vectors is None else sent.failed)
        keys: list[int] = []
        rows: dict[int, NDArray[np.float32]] = {}
        errors: dict[int, TollwayError] = {}
        error = sent.error
        for i, key in enumerate(batch.keys):
            row = None if i in failed or sent.vectors is None else sent.vectors[i]
            why = sent.why(i)
            if key in self._pieces:
                self._add(key, row, int(batch.counts[i]), why)
                if key in self._pieces:
                    continue
                why = self._errors.get(key)
                error = error or why
                row = self._mean(key)
            if row is not None:
                rows[len(keys)] = row
            elif why is not None:
                errors[len(keys)] = why
            keys.append(key)
        vectors = None
        if rows:
            width = next(iter(rows.values())).shape[0]
            vectors = np.full((len(keys), width), np.nan, np.float32)
            vectors[list(rows)] = list(rows.values())
        missing = [i for i in range(len(keys)) if i not in rows]
        return Sent(keys, vectors, missing, error if missing else None, errors)

    def _add(
        self, key: int, row: NDArray[np.float32] | None, tokens: int, error: TollwayError | None
    ) -> None:
        import numpy as np  # noqa: PLC0415

        if row is not None:
            weighted = row.astype(np.float64) * tokens
            self._sums[key] = self._sums[key] + weighted if key in self._sums else weighted
        elif error is not None:
            self._errors.setdefault(key, error)
        self._pieces[key] -= 1
        if not self._pieces[key]:
            del self._pieces[key]

    def _mean(self, key: int) -> NDArray[np.float32] | None:
        import numpy as np  # noqa: PLC0415

        total = self._sums.pop(key, None)
        if self._errors.pop(key, None) is not None or total is None:
            return None
        row: NDArray[np.float32] = normalized(total[None])[0].astype(np.float32)
        return row


def normalized(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows scaled to unit length, computed in float64; rows of zeros stay, NaN too."""
    import numpy as np  # noqa: PLC0415

    wide = vectors.astype(np.float64, copy=False)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    unit: NDArray[np.float64] = wide / np.where(lengths == 0, 1.0, lengths)[:, None]
    return unit
