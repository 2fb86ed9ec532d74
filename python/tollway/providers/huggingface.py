"""Embedding models of Hugging Face on this machine, through sentence-transformers."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from tollway.errors import BadRequestError, ConfigurationError, NotFoundError
from tollway.limiter import Limits
from tollway.providers.base import EmbeddingAnswer, EmbeddingRules
from tollway.providers.huggingface_models import is_out_of_memory
from tollway.providers.worker import Worker
from tollway.tokens.counts import without_surrogates
from tollway.types import Usage

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HuggingFaceProvider"]


class HuggingFaceProvider:
    """One model of sentence-transformers, in one worker thread.

    Documents and queries go through the model's own `encode_document` and `encode_query`, which put
    its prompts before them. Tokens are estimated; the model cuts texts at its own window.

    Args:
        model: Name on the hub, such as `sentence-transformers/all-MiniLM-L6-v2`, or a folder.
        dimensions: Shorter vectors: the first so many values.
        batch_size: Texts that the model computes together; halved where memory does not suffice.
        device: `cpu`, `cuda`, …; default: what the library chooses.
        options: Further arguments of `SentenceTransformer`. Code that comes with a model is not run
            unless `trust_remote_code=True` says so.

    Raises:
        ConfigurationError: The extra is not installed.
    """

    name = "huggingface"
    # One thread: a model's layers use all cores by themselves.
    limits = Limits(max_in_flight=1)

    def __init__(
        self,
        model: str,
        *,
        dimensions: int | None = None,
        batch_size: int = 32,
        device: str | None = None,
        **options: Any,
    ) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ConfigurationError(
                f"huggingface/{model} needs the extra 'huggingface': "
                "pip install 'tollway[huggingface]'"
            )
        self.model = model
        self._options = {"device": device, "truncate_dim": dimensions, **options}
        self._batch_size = batch_size
        self._loaded: Any = None
        self._worker = Worker("tollway-huggingface")
        # Small requests, so that progress shows and Ctrl-C is heard.
        self.rules = EmbeddingRules(max_texts=64, dimensions=dimensions, price="free")

    @property
    def quota_key(self) -> Hashable:
        """One for the process."""
        return (self.name, self.model)

    @property
    def priced_as(self) -> str:
        """The model's name."""
        return self.model

    def for_queries(self) -> HuggingFaceProvider:
        """Return what embeds by the model's `encode_query`, in the same thread."""
        return _Queries(self)

    async def open(self) -> None:
        """Load the model.

        Raises:
            NotFoundError: There is no such model, or it cannot be read.
        """
        await self._worker.run(self._load)

    def _load(self) -> Any:
        if self._loaded is None:
            library = importlib.import_module("sentence_transformers")
            given = {name: value for name, value in self._options.items() if value is not None}
            try:
                self._loaded = library.SentenceTransformer(self.model, **given)
            except (OSError, ValueError) as error:
                raise NotFoundError(
                    f"huggingface/{self.model} cannot be loaded: {str(error)[:300]}"
                ) from error
        return self._loaded

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Embed n texts in the worker thread; see `EmbeddingProvider.embed`.

        Cancellation abandons the result; the thread finishes the request that it has begun.
        """
        return await self.encode(texts, "encode_document")

    async def encode(self, texts: Sequence[str], method: str) -> EmbeddingAnswer:
        """Embed texts by a method of the model."""
        vectors = await self._worker.run(self._encode, list(texts), method)
        return EmbeddingAnswer(vectors, (), Usage(requests=1, estimated=True))

    def _encode(self, texts: list[str], method: str) -> NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415

        model = self._load()
        texts = [without_surrogates(text) for text in texts]
        # Releases before 5.0 have one method for both.
        encode = getattr(model, method, model.encode)
        while True:
            try:
                vectors = encode(texts, batch_size=self._batch_size, show_progress_bar=False)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self._batch_size == 1:
                    raise BadRequestError(
                        f"huggingface/{self.model}: there is not enough memory for one text"
                    ) from error
                self._batch_size //= 2
                continue
            rows: NDArray[np.float32] = np.ascontiguousarray(vectors, dtype=np.float32)
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
            if bad:
                # It would compute the same again.
                raise BadRequestError(
                    f"huggingface/{self.model} has no vector of {len(bad)} of {len(rows)} texts, "
                    f"the first number {bad[0]} of the request: a value is NaN or infinite"
                )
            return rows

    async def aclose(self) -> None:
        """End the worker thread; a later call starts another."""
        self._worker.end()


class _Queries(HuggingFaceProvider):
    """A model's queries; the thread and the model are those of its documents."""

    def __init__(self, documents: HuggingFaceProvider) -> None:
        self._documents = documents
        self.model = documents.model
        self.rules = documents.rules

    async def open(self) -> None:
        await self._documents.open()

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        return await self._documents.encode(texts, "encode_query")

    async def aclose(self) -> None:
        await self._documents.aclose()
