"""Embeddings: the main job."""

from tollway.embed.arrow import to_arrow
from tollway.embed.embedder import DEFAULT_MODEL, Embedder
from tollway.embed.job import embed_job, embed_job_async
from tollway.embed.plan import Plan, plan, plan_async
from tollway.embed.report import JobReport, Progress, TextError
from tollway.embed.sources import Document, read_documents
from tollway.embed.stream import embed_stream, embed_stream_sync

__all__ = [
    "DEFAULT_MODEL",
    "Document",
    "Embedder",
    "JobReport",
    "Plan",
    "Progress",
    "TextError",
    "embed_job",
    "embed_job_async",
    "embed_stream",
    "embed_stream_sync",
    "plan",
    "plan_async",
    "read_documents",
    "to_arrow",
]
