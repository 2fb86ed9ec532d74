"""What is asked, whoever is to answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from tollway.chat.request import DEFAULTS, CallOptions, build_request, conversation
from tollway.chat.structured import instructed, mentions_json
from tollway.chat.tools import read_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollway.chat.request import Prompt
    from tollway.chat.structured import Wanted
    from tollway.providers import ChatProvider, ChatRequest
    from tollway.types import Message

__all__ = ["Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its options, in the terms of no model.

    Attributes:
        prompt: What to answer.
        named: What the user named, for this call or for all.
        wanted: The JSON that the answer is to be, or None.
        turns: What was said since: answers that were of no use, results of tools.
    """

    prompt: Prompt
    named: CallOptions
    wanted: Wanted | None = None
    turns: Sequence[Message] = ()

    def build(self, provider: ChatProvider) -> ChatRequest:
        """Return the request as a provider takes it now.

        Raises:
            ConfigurationError: There is nothing to answer, or the model does not take what the user
                named.
        """
        named, wanted, held_to = self.named, self.wanted, None
        messages = conversation(self.prompt, named)
        if wanted is not None:
            held_to = wanted.native(provider.capabilities)
            if held_to != wanted.format or not mentions_json(messages):
                messages = instructed(messages, wanted.format)
        given = named.get("tools")
        return build_request(
            [*messages, *self.turns] if self.turns else messages,
            cast("CallOptions", {**DEFAULTS, **named}),
            named,
            tools=[read_tool(tool).tool for tool in given] if given else (),
            response_format=held_to,
            capabilities=provider.capabilities,
            model=f"{provider.name}/{provider.model}",
        )
