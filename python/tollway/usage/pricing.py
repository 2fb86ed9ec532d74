"""Prices of tokens, from the `genai-prices` data; None rather than a guess where it has none."""

from __future__ import annotations

__all__ = ["input_cost"]


def input_cost(provider: str, model: str, tokens: int) -> float | None:
    """Return what `tokens` of input cost in US dollars, or None where no price is known.

    Args:
        provider: Such as `openai`.
        model: The model's name without the provider.
        tokens: Tokens of input.
    """
    from genai_prices import Usage, calc_price  # noqa: PLC0415

    try:
        price = calc_price(Usage(input_tokens=tokens), model_ref=model, provider_id=provider)
    except LookupError:
        return None
    return float(price.total_price)
