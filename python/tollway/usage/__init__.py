"""What calls use and cost."""

from tollway.usage.pricing import input_cost

__all__ = ["input_cost"]
