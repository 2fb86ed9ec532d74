"""What a provider of embeddings is, and what its answers are.

Providers know nothing of limits, retries or caches: `tollway.embed` composes them. A new provider
is a class with the members of `EmbeddingProvider`, given to `register_provider`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tollway.limiter import Limits
    from tollway.types import Usage

__all__ = ["EmbeddingAnswer", "EmbeddingProvider", "EmbeddingRules"]


@dataclass(frozen=True, slots=True)
class EmbeddingRules:
    """What one model takes.

    Attributes:
        encoding: Name of the encoding that counts its tokens.
        exact: Whether that is the model's own encoding, or an estimate.
        max_texts: Texts a request.
        max_request_tokens: Tokens a request, or None.
        max_text_tokens: Tokens a text, or None.
        dimensions: Length of its vectors, or None where the first answer tells.
        input_type: What the provider is told that texts are, or None; vectors differ by it.
        price: `listed` where the public price list applies, else `free` or `unknown`.
    """

    encoding: str = "cl100k_base"
    exact: bool = False
    max_texts: int = 2048
    max_request_tokens: int | None = None
    max_text_tokens: int | None = None
    dimensions: int | None = None
    input_type: str | None = None
    price: Literal["listed", "free", "unknown"] = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingAnswer:
    """The vectors of one request.

    Attributes:
        vectors: Shape (n, d), float32, row i for text i; NaN where a row is of no use.
        bad_rows: (i, reason) of every row of no use.
        usage: What the provider counted.
    """

    vectors: NDArray[np.float32]
    bad_rows: Sequence[tuple[int, str]]
    usage: Usage


class EmbeddingProvider(Protocol):
    """One embedding model behind one address and credential."""

    @property
    def name(self) -> str:
        """Name of the provider, as in `name/model`."""
        ...

    @property
    def model(self) -> str:
        """Name of the model, as the provider knows it."""
        ...

    @property
    def rules(self) -> EmbeddingRules:
        """What the model takes."""
        ...

    @property
    def limits(self) -> Limits:
        """Limits to begin with where the user names none; the sub-window it judges by."""
        ...

    @property
    def quota_key(self) -> Hashable:
        """What shares one quota: provider, address, credential's fingerprint, model."""
        ...

    @property
    def priced_as(self) -> str:
        """Name of the model in the price list: another than `model` where that is a deployment."""
        ...

    def for_queries(self) -> EmbeddingProvider:
        """Return what embeds queries: itself where they are embedded as documents are."""
        ...

    async def open(self) -> None:
        """Make ready for this event loop: called before the first permit is asked for."""
        ...

    async def embed(self, texts: Sequence[str]) -> EmbeddingAnswer:
        """Send one request of n texts, within the rules.

        Raises:
            ProviderError: Nothing of the request is of use.

        Cancellation closes the request.
        """
        ...

    async def aclose(self) -> None:
        """Close what the provider itself opened."""
        ...
