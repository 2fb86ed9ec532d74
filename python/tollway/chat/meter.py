"""What requests and answers of one model take: tokens, what is charged for them, and money."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from tollway.providers.messages import openai_message, openai_tool
from tollway.tokens import count_messages, tokenizer_for_model
from tollway.tokens.estimate import TokenEstimator
from tollway.types import Usage
from tollway.usage import cost_of

if TYPE_CHECKING:
    from tollway.limiter import Limits
    from tollway.providers import ChatProvider, ChatRequest
    from tollway.tokens import TokenCount
    from tollway.types import Completion

__all__ = ["Meter"]

# Tokens of an answer that are expected before the first one has come, and the weight of each
# further answer in what is expected then.
_FIRST_EXPECTED = 500
_WEIGHT = 0.1


class Meter:
    """Counts and prices what one model is asked and answers.

    Args:
        provider: Whose rules hold.
        batch: Whether it answers in batches, at their price.
    """

    def __init__(self, provider: ChatProvider, *, batch: bool = False) -> None:
        self._provider = provider
        self._batch = batch
        self._expected = float(_FIRST_EXPECTED)

    def count(self, request: ChatRequest) -> TokenCount:
        """Return the input tokens of a request by published rules, or an estimate."""
        return count_messages(
            [openai_message(message) for message in request.messages],
            self._provider.rules.token_model,
            [openai_tool(tool) for tool in request.tools] or None,
        )

    def reserve(self, request: ChatRequest, counted: int, limits: Limits) -> int:
        """Return the output tokens to reserve: what the provider charges, or what is likely.

        Args:
            request: What is to be sent.
            counted: Its input tokens.
            limits: Those that hold now.
        """
        rules, quota = self._provider.rules, limits.tpm
        # What an output token takes beyond one is charged at the end, by what was written.
        weight = limits.output_weight or 1
        most = request.max_tokens or rules.max_output_tokens
        reserved = self._likely(most)
        if most is not None:
            if rules.charges_max_tokens == "sum":
                reserved = most if weight == 1 else max(reserved, math.ceil(most / weight))
            elif rules.charges_max_tokens == "larger":
                reserved = max(reserved, most - counted)
        # An answer's share alone never makes a request too large: it is mostly air.
        return reserved if quota is None else max(0, min(reserved, (quota - counted) // weight))

    def charged(self, usage: Usage, reserved: int) -> Usage:
        """Return what an answer is charged with: what it used, as far as the rest comes back."""
        used = usage.output_tokens
        if not self._provider.rules.refunds:
            used = max(used, reserved - usage.input_tokens)
        return dataclasses.replace(usage, output_tokens=used, estimated=False)

    def priced(self, answer: Completion, counted: int) -> Completion:
        """Return an answer with its usage, counted where it was not reported, and its cost."""
        provider, usage = self._provider, answer.usage
        if usage.estimated:
            written = answer.reasoning + answer.text
            written += "".join(call.name + call.arguments for call in answer.tool_calls)
            tokenizer = tokenizer_for_model(provider.rules.token_model)
            usage = dataclasses.replace(
                usage, input_tokens=int(counted), output_tokens=int(tokenizer.count(written))
            )
        cost = answer.cost if answer.cost is not None else self.cost(usage)
        model = f"{provider.name}/{provider.model}"
        return dataclasses.replace(answer, usage=usage, cost=cost, answered_by=model)

    def learn(self, usage: Usage, counted: TokenCount) -> None:
        """Expect of further answers what this one was."""
        self._expected += (usage.output_tokens - self._expected) * _WEIGHT
        if not usage.estimated:
            self.learn_count(counted, usage.input_tokens - usage.input_image_tokens)

    def learn_count(self, counted: TokenCount, tokens: int) -> None:
        """Learn from the tokens that the provider counts how far an estimate was off."""
        tokenizer = tokenizer_for_model(self._provider.rules.token_model)
        if counted.estimated and isinstance(tokenizer, TokenEstimator):
            tokenizer.learn(counted.basis, tokens)

    def cost(self, usage: Usage) -> float | None:
        """Return what usage costs, US dollars; None where no price is known."""
        rules = self._provider.rules
        if rules.price == "listed":
            return cost_of(rules.price_provider, rules.price_model, usage, batch=self._batch)
        return 0.0 if rules.price == "free" else None

    def expected_cost(self, request: ChatRequest, counted: int) -> float | None:
        """Return what a request is likely to cost with its answer; None as `cost`."""
        output = self._likely(request.max_tokens)
        return self.cost(Usage(int(counted), 1, output_tokens=output, estimated=True))

    def _likely(self, most: int | None) -> int:
        likely = round(self._expected)
        return likely if most is None else min(most, likely)
