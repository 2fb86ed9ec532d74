"""What a job would take, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tollway.embed.sources import read_documents
from tollway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from tollway.embed.embedder import Embedder

__all__ = ["Plan", "plan"]

# Texts counted and packed together; requests at the seams may come out smaller than in the job.
_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would take if nothing of it were done yet.

    Attributes:
        texts: Rows of the output.
        distinct: Different texts among them, each sent once.
        tokens: Tokens sent.
        exact: Whether the tokens are the model's own, or an estimate.
        requests: Requests sent.
        seconds: Shortest time under the limits, without the time of the answers.
        cost: US dollars, or None where no price is known.
        truncated: Ids of documents over the model's window.
    """

    texts: int
    distinct: int
    tokens: int
    exact: bool
    requests: int
    seconds: float
    cost: float | None
    truncated: list[str]


def plan(source: str | Path, embedder: Embedder, **reading: Any) -> Plan:
    """Count what `embed_job` of the same arguments would send.

    Args:
        source: A file or folder.
        embedder: What would embed.
        reading: `split`, `text_field`, `id_field` of `read_documents`.

    Raises:
        InputError: The input cannot be read, or has no text at all.
        ContextWindowError: A text is over the model's window and too_long="error".
        RequestTooLargeError: A text is more than the whole quota.
    """
    texts = tokens = requests = 0
    distinct: set[str] = set()
    truncated: list[str] = []
    ids: list[str] = []
    group: list[str] = []

    def close() -> None:
        nonlocal tokens, requests
        prepared = embedder.prepare(group, ids.__getitem__)
        tokens += int(prepared.counts.sum())
        requests += len(embedder.offsets(prepared.counts)) - 1
        truncated.extend(ids[i] for i in prepared.truncated)
        group.clear()
        ids.clear()

    for document in read_documents(source, **reading):
        texts += 1
        if document.text in distinct or not document.text.strip():
            continue
        distinct.add(document.text)
        group.append(document.text)
        ids.append(document.id)
        if len(group) == _GROUP:
            close()
    if texts == 0:
        raise InputError(f"{source} holds no text")
    close()
    return Plan(
        texts=texts,
        distinct=len(distinct),
        tokens=tokens,
        exact=embedder.provider.rules.exact,
        requests=requests,
        seconds=_seconds(embedder, requests, tokens),
        cost=embedder.cost(tokens),
        truncated=truncated,
    )


def _seconds(embedder: Embedder, requests: int, tokens: int) -> float:
    """Seconds until the last request is admitted: a whole window's quota is free at the start."""
    limits = embedder.limiter.current_limits
    times = [0.0]
    if limits.tpm is not None:
        times.append(60.0 * (tokens / limits.tpm - 1))
    if limits.rpm is not None:
        # Judged by the second, not even the first minute's requests may come at once.
        free = 0 if limits.sub_window else 1
        times.append(60.0 * (requests / limits.rpm - free))
    if limits.rps is not None:
        times.append(requests / limits.rps - 1)
    return max(times)
