"""Prices of tokens, from the `genai-prices` data; None rather than a guess where it has none."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tollway.types import Usage

__all__ = ["cost_of", "input_cost"]

# Some prices depend on the hour or change on a day: each is looked up again after so many seconds.
_FRESH = 60.0

# Kinds that are multiplied here; a model that pays for others is left to the list's calculation.
_PLAIN = frozenset(
    {
        "input_mtok",
        "output_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "cache_write_1h_mtok",
        "input_audio_mtok",
        "output_audio_mtok",
        "web_searches_kcount",
        "storage_searches_kcount",
    }
)


@dataclass(frozen=True, slots=True)
class _Rates:
    """US dollars a token, by kind; None where the list names none."""

    until: float
    input: float
    output: float
    cached: float
    written: float
    written_1h: float
    input_audio: float | None
    output_audio: float | None


# Share of the listed prices that is paid in a batch, for every kind of token alike.
# https://openai.com/api/pricing, https://docs.claude.com/en/docs/about-claude/pricing.
_BATCH = {"openai": 0.5, "azure": 0.5, "anthropic": 0.5}

_rates: dict[tuple[str, str], _Rates | None] = {}


def cost_of(provider: str, model: str, usage: Usage, *, batch: bool = False) -> float | None:
    """Return what one answer costs in US dollars by kind of token, or None where it is not known.

    Not known is also the price of audio that the list does not name: it is never paid as text.

    Args:
        provider: Such as `openai`.
        model: The model's name without the provider.
        usage: Of one request: prices may depend on its length.
        batch: Whether it was answered in a batch, at half the price.
    """
    cost = _cost_of(provider, model, usage)
    return _in_batch(provider, cost) if batch else cost


def _cost_of(provider: str, model: str, usage: Usage) -> float | None:
    rates = _rates_of(provider, model)
    if rates is None:
        return _calculated(provider, model, usage)
    if (usage.input_audio_tokens and rates.input_audio is None) or (
        usage.output_audio_tokens and rates.output_audio is None
    ):
        return None
    text = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    return (
        (text - usage.input_audio_tokens) * rates.input
        + usage.cached_tokens * rates.cached
        + (usage.cache_write_tokens - usage.cache_write_1h_tokens) * rates.written
        + usage.cache_write_1h_tokens * rates.written_1h
        + usage.input_audio_tokens * (rates.input_audio or 0.0)
        + (usage.output_tokens - usage.output_audio_tokens) * rates.output
        + usage.output_audio_tokens * (rates.output_audio or 0.0)
    )


def input_cost(provider: str, model: str, tokens: int, *, batch: bool = False) -> float | None:
    """Return what `tokens` of input cost in US dollars, or None where no price is known.

    Args:
        provider: Such as `openai`; with `litellm` the model's name begins with it.
        model: The model's name without the provider.
        tokens: Tokens of input.
        batch: As in `cost_of`.
    """
    if provider == "litellm":
        provider, _, model = model.partition("/")
    cost = _listed(provider, model, {"input_tokens": tokens})
    return _in_batch(provider, cost) if batch else cost


def _in_batch(provider: str, cost: float | None) -> float | None:
    share = _BATCH.get(provider)
    return None if cost is None or share is None else cost * share


def _rates_of(provider: str, model: str) -> _Rates | None:
    """Return the rates of a model whose prices are the same for every length of request.

    Multiplying by them takes 1 µs where the list's own calculation takes 100.
    """
    now = time.monotonic()
    rates = _rates.get((provider, model))
    if rates is None or rates.until < now:
        rates = _rates[provider, model] = _look_up(provider, model, now + _FRESH)
    return rates


def _look_up(provider: str, model: str, until: float) -> _Rates | None:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    try:
        _, found = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    prices = found.get_prices(datetime.now(UTC))
    named: dict[str, Any] = {
        name: value for name, value in vars(prices).items() if value is not None
    }
    if "input_mtok" not in named or not named.keys() <= _PLAIN:
        return None
    try:
        rate = {name: float(value) / 1e6 for name, value in named.items()}
    except TypeError:
        return None  # in tiers, by the length of the request
    # Where the list has no price of their own, cached tokens are paid as what they are part of.
    text = rate["input_mtok"]
    written = rate.get("cache_write_mtok", text)
    return _Rates(
        until,
        text,
        rate.get("output_mtok", 0.0),
        rate.get("cache_read_mtok", text),
        written,
        rate.get("cache_write_1h_mtok", written),
        rate.get("input_audio_mtok"),
        rate.get("output_audio_mtok"),
    )


def _calculated(provider: str, model: str, usage: Usage) -> float | None:
    kinds = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "input_audio_tokens": usage.input_audio_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
        "input_image_tokens": usage.input_image_tokens,
    }
    if usage.cache_write_1h_tokens:
        kinds["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    return _listed(provider, model, {kind: tokens for kind, tokens in kinds.items() if tokens})


def _listed(provider: str, model: str, kinds: dict[str, int]) -> float | None:
    from genai_prices import Usage, calc_price  # noqa: PLC0415

    try:
        price = calc_price(Usage(**kinds), model_ref=model, provider_id=provider)
    except LookupError:
        return None
    return float(price.total_price)
