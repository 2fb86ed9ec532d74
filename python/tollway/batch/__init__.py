"""The providers' batch APIs: many requests handed over at once, answered within a day."""

from tollway.batch.cutting import Item
from tollway.batch.journal import under_way
from tollway.batch.options import BatchOptions, BatchProgress
from tollway.batch.run import BatchRun

__all__ = ["BatchOptions", "BatchProgress", "BatchRun", "Item", "under_way"]
