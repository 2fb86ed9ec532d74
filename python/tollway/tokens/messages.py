"""Tokens of a conversation, and cutting one to a number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from tollway.errors import ContextWindowError
from tollway.tokens.bill import Bill, mapping_of

if TYPE_CHECKING:
    from tollway.tokens.bill import Sizes
    from tollway.tokens.counts import TokenCount, Tokenizer

__all__ = ["count_messages", "fit_messages"]

M = TypeVar("M", bound=Mapping[str, object])
_SYSTEM_ROLES = ("system", "developer")


def count_messages(
    messages: Sequence[Mapping[str, object]],
    model: str,
    tools: Sequence[Mapping[str, object]] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    image_sizes: Sizes | None = None,
) -> TokenCount:
    """Count the input tokens of a request: messages, tools, and the start of the reply.

    Args:
        messages: Messages as OpenAI or Anthropic take them: text, content parts, images, tool
            calls and their results.
        model: Any model. `gpt-3.5-turbo-0301` selects the old form of messages.
        tools: The functions that the model may call, as OpenAI or Anthropic take them.
        tokenizer: Counts the text in place of the model's own.
        image_sizes: Width and height in pixels of images by their URL; those of `data:` URLs in
            PNG, JPEG, GIF and WebP are read from them.

    Returns:
        An int. Its `estimated` is False where published rules cover every part, which are text and
        plain functions for gpt-3.5-turbo, gpt-4 and gpt-4o, and images of known size for the models
        of OpenAI's guide. Otherwise it is True: other models, tool calls, nested parameters, images
        of unknown size.
    """
    bill = Bill(model, tokenizer, image_sizes or {})
    return bill.count(sum((bill.message(message) for message in messages), bill.request(tools)))


def fit_messages(
    messages: Sequence[M],
    max_tokens: int = 4000,
    *,
    model: str = "gpt-4o",
    tools: Sequence[Mapping[str, object]] | None = None,
    tokenizer: Tokenizer | None = None,
    image_sizes: Sizes | None = None,
) -> list[M]:
    """Drop the oldest turns of a conversation until it has at most `max_tokens` tokens.

    System and developer messages are kept, wherever they stand. A turn is a message of the user
    with all that answers it: tool calls and their results are kept or dropped together. The last
    turn is always kept.

    Args:
        messages: As in `count_messages`; never changed.
        max_tokens: The most tokens by `count_messages`, with the tools and the start of the reply.
        model: As in `count_messages`.
        tools: As in `count_messages`.
        tokenizer: As in `count_messages`.
        image_sizes: As in `count_messages`.

    Returns:
        A new list of the same message objects, in order.

    Raises:
        ContextWindowError: The system messages and the last turn alone are over `max_tokens`.
    """
    bill = Bill(model, tokenizer, image_sizes or {})
    costs = [bill.message(message) for message in messages]
    total = sum(costs, bill.request(tools))
    kept = [True] * len(messages)
    for turn in _turns(messages)[:-1]:
        if bill.count(total) <= max_tokens:
            break
        for index in turn:
            kept[index] = False
            total -= costs[index]
    needed = bill.count(total)
    if needed > max_tokens:
        raise ContextWindowError(
            f"the system messages and the last turn have {needed:,} tokens"
            f"{' by estimate' if needed.estimated else ''}, over max_tokens={max_tokens:,}; "
            "the conversation is as it was: shorten the last message or raise max_tokens"
        )
    return [message for message, keep in zip(messages, kept, strict=True) if keep]


def _turns(messages: Sequence[Mapping[str, object]]) -> list[list[int]]:
    """Group the indices of all but system messages into turns, oldest first."""
    turns: list[list[int]] = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role in _SYSTEM_ROLES:
            continue
        if not turns or (role == "user" and not _is_result(message)):
            turns.append([])
        turns[-1].append(index)
    return turns


def _is_result(message: Mapping[str, object]) -> bool:
    """Tell a user's message from the results of tools, which Anthropic takes in its name."""
    content = message.get("content")
    if not isinstance(content, list) or not content:
        return False
    parts = cast("list[object]", content)
    return all(mapping_of(part).get("type") == "tool_result" for part in parts)
