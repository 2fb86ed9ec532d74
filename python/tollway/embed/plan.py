"""What a job would take, before anything is sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tollway import _core
from tollway.bridge import run_sync
from tollway.embed.batching import check_mode
from tollway.embed.inputs import Input, Source
from tollway.embed.job import TextDigest
from tollway.errors import InputError

if TYPE_CHECKING:
    from tollway.embed.embedder import Embedder, Mode

__all__ = ["Plan", "plan", "plan_async"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would take if nothing of it were done yet.

    Attributes:
        texts: Rows of the output.
        distinct: Different texts among them, each sent once.
        tokens: Tokens sent.
        exact: Whether the tokens are the model's own, or an estimate.
        requests: Requests sent; in batches one for each text.
        seconds: Shortest time under the limits, without the time of the answers; 0.0 for batches,
            which have a day.
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


def plan(source: Source, embedder: Embedder, *, mode: Mode = "direct", **reading: Any) -> Plan:
    """Run `plan_async` from synchronous code."""
    return run_sync(plan_async(source, embedder, mode=mode, **reading))


async def plan_async(
    source: Source, embedder: Embedder, *, mode: Mode = "direct", **reading: Any
) -> Plan:
    """Count what `embed_job` of the same arguments would send.

    Args:
        source: What `embed_job` takes; an iterator is read to its end.
        embedder: What would embed.
        mode: As in `embed_job`.
        reading: `chunk`, `overlap`, `split`, `text_field`, `id_field`, `format` of `embed_job`.

    Raises:
        InputError: The input cannot be read, or has no text at all.
        ContextWindowError: A text is over the model's window and too_long="error".
        RequestTooLargeError: A text is more than the whole quota.
        ConfigurationError: `mode` is none, or the provider has no batch API.
    """
    check_mode(mode, embedder.provider)
    texts = tokens = requests = sent = 0
    # Digests, not the texts: a plan of millions takes the memory of the job, and no more.
    distinct = _core.RowTable()
    digest = TextDigest(embedder)
    packer = embedder.packer()
    truncated: list[str] = []
    async with Input(source, embedder.encoding, **reading) as documents:
        async for group in documents.groups():
            texts += len(group)
            _, is_new = distinct.insert_new([digest(document.text) for document in group])
            fresh = [group[i] for i in is_new.nonzero()[0] if group[i].text.strip()]
            ids = [document.id for document in fresh]
            prepared = embedder.prepare([document.text for document in fresh], ids.__getitem__)
            tokens += int(prepared.counts.sum())
            sent += len(fresh)
            requests += len(packer.add(range(len(fresh)), prepared))
            truncated.extend(ids[i] for i in prepared.truncated)
            await asyncio.sleep(0)
    if texts == 0:
        raise InputError(f"{documents.name} holds no text")
    requests = sent if mode == "batch" else requests + len(packer.flush())
    return Plan(
        texts=texts,
        distinct=len(distinct),
        tokens=tokens,
        exact=embedder.provider.rules.exact,
        requests=requests,
        seconds=0.0 if mode == "batch" else _seconds(embedder, requests, tokens),
        cost=embedder.cost(tokens, batch=mode == "batch"),
        truncated=truncated,
    )


def _seconds(embedder: Embedder, requests: int, tokens: int) -> float:
    """Seconds until the last request is admitted: a whole window's quota is free at the start."""
    limits, lanes = embedder.limiter.current_limits, len(embedder.lanes)
    # All of a pool work at once.
    requests, tokens = -(-requests // lanes), -(-tokens // lanes)
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
