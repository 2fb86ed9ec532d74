"""What calls use and cost."""

from tollway.usage.pricing import cost_of, input_cost

__all__ = ["cost_of", "input_cost"]
