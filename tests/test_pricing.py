"""Prices: what is multiplied here is what the list itself calculates."""

from __future__ import annotations

import pytest
from genai_prices import Usage as Listed
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot

from tollway.types import Usage
from tollway.usage import cost_of, input_cost

PRICED = [
    (provider.id, model.id)
    for provider in get_snapshot().providers
    for model in provider.models
    if provider.id in {"openai", "anthropic", "azure", "google", "aws", "deepseek", "groq"}
]


@pytest.mark.parametrize("tokens", [1_000, 500_000])
def test_every_model_costs_what_the_list_says(tokens):
    compared = 0
    for provider, model in PRICED:
        usage = Usage(
            input_tokens=tokens,
            output_tokens=tokens // 7,
            cached_tokens=tokens // 3,
            cache_write_tokens=tokens // 5,
        )
        cost = cost_of(provider, model, usage)
        if cost is None:  # some are listed under patterns that do not match their own names
            continue
        listed = calc_price(
            Listed(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cached_tokens,
                cache_write_tokens=usage.cache_write_tokens,
            ),
            model_ref=model,
            provider_id=provider,
        )
        assert cost == pytest.approx(float(listed.total_price)), (provider, model)
        compared += 1
    assert compared > 200


def test_kinds_of_tokens_have_their_own_prices():
    def cost(**tokens):
        return cost_of("anthropic", "claude-sonnet-4-5", Usage(input_tokens=1_000_00, **tokens))

    plain = cost()
    assert cost(cached_tokens=100_000) == pytest.approx(plain * 0.1)
    assert cost(cache_write_tokens=100_000) == pytest.approx(plain * 1.25)
    assert cost(cache_write_tokens=100_000, cache_write_1h_tokens=100_000) == pytest.approx(
        plain * 2
    )


def test_audio_is_not_paid_as_text():
    assert cost_of("openai", "gpt-4o", Usage(input_tokens=10, input_audio_tokens=5)) is None
    assert cost_of("openai", "gpt-4o", Usage(output_tokens=10, output_audio_tokens=5)) is None
    audio = cost_of("openai", "gpt-audio", Usage(input_tokens=10, input_audio_tokens=10))
    text = cost_of("openai", "gpt-audio", Usage(input_tokens=10))
    assert audio > text > 0


def test_no_price_is_guessed():
    assert cost_of("openai", "gpt-99", Usage(input_tokens=10)) is None
    assert cost_of("nobody", "gpt-4o", Usage(input_tokens=10)) is None
    assert input_cost("openai", "gpt-99", 10) is None
    assert input_cost("openai", "text-embedding-3-small", 1_000_000) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("provider", "model", "input_price", "output_price"),
    # https://platform.openai.com/docs/pricing, https://docs.claude.com/en/docs/about-claude/pricing:
    # the column for batches, US dollars a million tokens.
    [
        ("openai", "gpt-4o-mini", 0.075, 0.30),
        ("openai", "gpt-4.1", 1.00, 4.00),
        ("anthropic", "claude-haiku-4-5", 0.50, 2.50),
        ("anthropic", "claude-sonnet-4-5", 1.50, 7.50),
        ("openai", "text-embedding-3-small", 0.01, 0.0),
        ("openai", "text-embedding-3-large", 0.065, 0.0),
    ],
)
def test_batches_cost_half(provider, model, input_price, output_price):
    # Few enough for every model's first tier.
    usage = Usage(input_tokens=100_000, output_tokens=100_000)
    if not output_price:
        usage = Usage(input_tokens=100_000)
        assert input_cost(provider, model, 1_000_000, batch=True) == pytest.approx(input_price)
    cost = cost_of(provider, model, usage, batch=True)
    assert cost == pytest.approx((input_price + output_price) / 10)


def test_no_price_of_a_batch_is_guessed():
    assert cost_of("groq", "llama-3.1-8b-instant", Usage(input_tokens=10)) is not None
    assert cost_of("groq", "llama-3.1-8b-instant", Usage(input_tokens=10), batch=True) is None
    assert cost_of("openai", "gpt-99", Usage(input_tokens=10), batch=True) is None
