"""What a provider's wire format is to the simulator.

The simulator holds limits, faults and the ledger; a format reads requests and writes answers. It
knows of no other format, and a request belongs to the first that owns its path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from collections.abc import Set as AbstractSet

    from tollway.simulator.enforcement import Denial, Standing
    from tollway.simulator.server import Request, Response

__all__ = ["Behaviour", "Call", "Format", "Reasoning"]

Reasoning: TypeAlias = Literal["apart", "tags", "headless"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the simulated models and endpoints differ.

    Attributes:
        dimensions: Full size of every embedding model's vectors; None for the real sizes.
        refuses: What chat requests may not have: names of their members, `developer` for the role,
            `json_schema` for that response format.
        reasoning: Where the reasoning of an answer stands: in a member of its own, in the text
            between `<think>` and `</think>`, or there without the tag that opens.
        context_window: Tokens of a prompt; None for any number.
        piece_delay: Seconds between two pieces of a stream.
    """

    dimensions: int | None = None
    refuses: AbstractSet[str] = frozenset()
    reasoning: Reasoning = "apart"
    context_window: int | None = None
    piece_delay: float = 0.0


class Call(Protocol):
    """A request that is in order, and its answer."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...

    @property
    def texts(self) -> list[str]:
        """What the ledger keeps digests of: inputs, or the last message of a conversation."""
        ...

    @property
    def tokens(self) -> int:
        """What the request is charged."""
        ...

    @property
    def rows(self) -> int:
        """Rows of the answer, of which a fault may hit one; 0 for a completion."""
        ...

    def answer(self, fault: str | None, hit: int) -> Response:
        """Write the answer as a fault leaves it; `hit` is the row that it hits."""
        ...


class Format(Protocol):
    """One provider's wire format."""

    def owns(self, path: str) -> bool:
        """Whether requests to a path are in this format."""
        ...

    def free(self, request: Request, keys: Collection[str] | None) -> Response | None:
        """Answer what costs nothing, such as the list of models; None for all else.

        Raises:
            Refusal: An unknown path, a wrong method, or no key of `keys` (None for any).
        """
        ...

    def read(self, request: Request, behaviour: Behaviour) -> Call:
        """Read and check a request that costs something.

        Raises:
            Refusal: It is not in order.
        """
        ...

    def malformed(self, message: str) -> Exception:
        """Return the `Refusal` of a request with members of kinds that nothing can be made of."""
        ...

    def denied(self, model: str, denial: Denial) -> Exception:
        """Return the `Refusal` of a request that a limit holds back."""
        ...

    def fault(self, name: str, model: str, retry_after: float) -> Exception:
        """Return the `Refusal` that the fault of that name is answered with."""
        ...

    def headers(self, request_id: str, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Return the headers of every answer: the request's id, and what is left of the limits."""
        ...
