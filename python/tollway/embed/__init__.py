"""Embeddings: the main job."""

from tollway.embed.embedder import DEFAULT_MODEL, Embedder
from tollway.embed.job import JobReport, Progress, TextError, embed_job, embed_job_async
from tollway.embed.plan import Plan, plan
from tollway.embed.sources import Document, read_documents

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
    "plan",
    "read_documents",
]
