"""The rows of one request's texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollway.errors import BadResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.embed.embedder import Batch
    from tollway.providers import EmbeddingAnswer

__all__ = ["Rows"]


class Rows:
    """The rows of a batch as they come in, over one attempt or several."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.missing: Sequence[int] = range(len(batch.texts))
        self.vectors: NDArray[np.float32] | None = None

    def pending(self) -> tuple[Sequence[int], Sequence[str], int]:
        """Return the positions that have no row yet, their texts, and their tokens."""
        missing, texts, counts = self.missing, self._batch.texts, self._batch.counts
        if len(missing) == len(texts):
            return missing, texts, int(counts.sum())
        return missing, [texts[i] for i in missing], int(counts[missing].sum())

    def place(self, asked: Sequence[int], answer: EmbeddingAnswer) -> None:
        """Take the good rows of an answer to the texts at `asked`.

        Raises:
            BadResponseError: Some rows are of no use; the good ones are taken.
        """
        import numpy as np  # noqa: PLC0415

        bad = answer.bad_rows
        if len(bad) < len(asked):
            if len(asked) == len(self._batch.texts):
                # The first answer with a good row is the array: nothing is copied.
                self.vectors = answer.vectors
            else:
                if self.vectors is None:
                    shape = (len(self._batch.texts), answer.vectors.shape[1])
                    self.vectors = np.full(shape, np.nan, np.float32)
                self.vectors[asked] = answer.vectors
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
