"""What OpenAI's chat models take, and what an endpoint's refusals teach about its own."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tollway.providers.base import (
    ALL_FEATURES,
    ALL_PARAMETERS,
    ChatCapabilities,
    ChatRules,
)
from tollway.tokens.models import family_of

if TYPE_CHECKING:
    from collections.abc import Hashable
    from collections.abc import Set as AbstractSet

    from tollway.limiter.feedback import FeedbackTable
    from tollway.providers.base import ChatFeature, ChatParameter, ChatRequest
    from tollway.providers.compatible import ChatEndpoint

__all__ = ["THOUGHTS", "Learned", "Model", "elsewhere", "learned_of", "model_of"]

# The chat completions of OpenAI itself keep their reasoning to themselves.
_FEATURES: frozenset[ChatFeature] = ALL_FEATURES - {"reasoning"}
_NO_SCHEMA: frozenset[ChatFeature] = _FEATURES - {"json_schema"}
_TEXT: frozenset[ChatFeature] = _NO_SCHEMA - {"images"}
_CHAT: frozenset[ChatParameter] = ALL_PARAMETERS - {"reasoning_effort"}
# https://platform.openai.com/docs/guides/reasoning: these sample as they like.
_REASONING: frozenset[ChatParameter] = frozenset(
    {"max_tokens", "seed", "reasoning_effort", "parallel_tool_calls"}
)


@dataclass(frozen=True, slots=True)
class Model:
    """What one family of models takes."""

    context_window: int | None = None
    max_output_tokens: int | None = None
    features: AbstractSet[ChatFeature] = _FEATURES
    parameters: AbstractSet[ChatParameter] = ALL_PARAMETERS
    thoughts_back: bool = False


# https://platform.openai.com/docs/models, each model's page; the first that fits counts.
_MODELS = {
    "gpt-5.6": Model(1_050_000, 128_000, _FEATURES, _REASONING),
    "gpt-5.5": Model(1_050_000, 128_000, _FEATURES, _REASONING),
    "gpt-5.4-mini": Model(400_000, 128_000, _FEATURES, _REASONING),
    "gpt-5.4-nano": Model(400_000, 128_000, _FEATURES, _REASONING),
    "gpt-5.4": Model(1_050_000, 128_000, _FEATURES, _REASONING),
    "gpt-5.3-chat": Model(128_000, 16_384, _FEATURES, _CHAT),
    "gpt-5.2-chat": Model(128_000, 16_384, _FEATURES, _CHAT),
    "gpt-5.1-chat": Model(128_000, 16_384, _FEATURES, _CHAT),
    "gpt-5.2": Model(400_000, 128_000, _FEATURES, _REASONING),
    "gpt-5.1": Model(400_000, 128_000, _FEATURES, _REASONING),
    "gpt-5-chat": Model(128_000, 16_384, _FEATURES, _CHAT),
    "gpt-5": Model(400_000, 128_000, _FEATURES, _REASONING),
    "o3-mini": Model(200_000, 100_000, _FEATURES - {"images"}, _REASONING),
    "o1": Model(200_000, 100_000, _FEATURES, _REASONING),
    "o3": Model(200_000, 100_000, _FEATURES, _REASONING),
    "o4": Model(200_000, 100_000, _FEATURES, _REASONING),
    "gpt-4.1": Model(1_047_576, 32_768, _FEATURES, _CHAT),
    "gpt-4o-2024-05-13": Model(128_000, 4_096, _NO_SCHEMA, _CHAT),
    "gpt-4o": Model(128_000, 16_384, _FEATURES, _CHAT),
    "chatgpt-4o": Model(128_000, 16_384, _FEATURES, _CHAT),
    "gpt-4-turbo": Model(128_000, 4_096, _NO_SCHEMA, _CHAT),
    "gpt-4-32k": Model(32_768, None, _TEXT, _CHAT),
    "gpt-4": Model(8_192, None, _TEXT, _CHAT),
    "gpt-3.5-turbo": Model(16_385, 4_096, _TEXT, _CHAT),
}
_UNKNOWN = Model()


def model_of(name: str) -> Model:
    """Return what a model at OpenAI takes; of one that is not known, that it takes everything."""
    family = family_of(name.removeprefix("ft:"), _MODELS)
    return _UNKNOWN if family is None else _MODELS[family]


def elsewhere(endpoint: ChatEndpoint) -> Model:
    """Return what a model elsewhere takes: all that it is not known to refuse."""
    return Model(
        features=ALL_FEATURES - endpoint.no_features,
        parameters=ALL_PARAMETERS - endpoint.no_parameters,
        thoughts_back=endpoint.thoughts_back,
    )


# Of an answer's `extra`: what a server may want back; see `Learned.thoughts_back`.
THOUGHTS = "openai_compatible"

# An endpoint words it in its own way, but that something is not taken is one of these.
_REFUSED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra "
    r"(fields|inputs)|extra_forbidden|does not exist|not available|invalid.*(role|type)|only the "
    r"default|deprecated|incompatible",
    re.IGNORECASE,
)


class Learned:
    """What one model at one address takes; shrinks as it refuses.

    Attributes:
        capabilities: As they are known by now.
        max_tokens: How it names the most tokens of an answer.
        developer: How it names the role `developer`.
        thoughts_back: Whether an answer that calls tools goes back with what was thought for it.
    """

    def __init__(self, model: Model, *, max_tokens: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._renamed = False
        self.capabilities = ChatCapabilities(model.features, model.parameters)
        self.max_tokens = max_tokens
        self.developer = "developer"
        self.thoughts_back = model.thoughts_back

    def rules(
        self,
        *,
        token_model: str,
        charges_max_tokens: Literal["larger", "sum", "no"],
        feedback: FeedbackTable | None,
        price_provider: str | None,
        price_model: str,
    ) -> ChatRules:
        """Return the rules of the model where it is served and paid in this way."""
        return ChatRules(
            token_model,
            self._model.context_window,
            self._model.max_output_tokens,
            charges_max_tokens,
            # What these two charge in advance they do not give back.
            charges_max_tokens == "no",
            feedback,
            "unknown" if price_provider is None else "listed",
            price_provider or "",
            price_model,
        )

    @property
    def form(self) -> Hashable:
        """How a request is written: another value once that is different."""
        # One that asks for JSON is built anew, not written anew.
        features = self.capabilities.features - {"json_mode", "json_schema"}
        named = (self.max_tokens, self.developer, self.thoughts_back)
        return (features, self.capabilities.parameters, *named)

    def learn(self, message: str, request: ChatRequest) -> str | None:
        """Learn from a refused request, where it was refused for what nobody asked for.

        Args:
            message: The refusal.
            request: What was refused.

        Returns:
            What is different from now on, or None where the request is to blame.
        """
        is_held = any(THOUGHTS in said.extra for said in request.messages)
        if "reasoning_content" in message and is_held and not self.thoughts_back:
            self.thoughts_back = True
            return "wants thoughts back with the calls of tools"
        # A schema with a mistake says nothing of whether schemas are taken.
        if not _REFUSED.search(message) or "invalid schema" in message.lower():
            return None
        with self._lock:
            return self._learn(message, request)

    def _learn(self, message: str, request: ChatRequest) -> str | None:
        if "stream_options" in message or "include_usage" in message:
            return self.forget("stream_usage", "takes no stream_options")
        if request.max_tokens is not None and not self._renamed and self._is_misnamed(message):
            self._renamed = True
            names = {"max_tokens", "max_completion_tokens"} - {self.max_tokens}
            self.max_tokens = names.pop()
            return f"wants {self.max_tokens} by that name"
        if self._renamed and f"Use '{self.max_tokens}'" in message:
            # Sent before that was known, as one of a batch of many.
            return f"wants {self.max_tokens} by that name"
        roles = {message.role for message in request.messages}
        if "developer" in roles and self.developer != "system" and "developer" in message:
            self.developer = "system"
            return "has no role developer"
        for name in sorted(request.defaults):
            if name in message or (name == "max_tokens" and self.max_tokens in message):
                parameters = self.capabilities.parameters - {name}
                self.capabilities = ChatCapabilities(self.capabilities.features, parameters)
                return f"takes no {name}"
        if request.response_format is not None and (
            "response_format" in message or "json_schema" in message
        ):
            # The request is to blame; the next one is built without.
            has_schema = request.response_format.schema is not None
            self.forget("json_schema" if has_schema else "json_mode", "")
        return None

    def _is_misnamed(self, message: str) -> bool:
        if self.max_tokens == "max_tokens":
            return "max_completion_tokens" in message
        return "max_completion_tokens" in message and "Use '" not in message

    def forget(self, feature: ChatFeature, change: str) -> str | None:
        """Take a feature away; return the change, or None where it was not there."""
        if feature not in self.capabilities.features:
            return None
        features = self.capabilities.features - {feature}
        self.capabilities = ChatCapabilities(features, self.capabilities.parameters)
        return change


_all: dict[tuple[str, str], Learned] = {}


def learned_of(
    base_url: str, name: str, known: Model, *, max_tokens: str = "max_completion_tokens"
) -> Learned:
    """Return what a model at an address takes: the same object for all who ask.

    Args:
        base_url: The address.
        name: The model, as the address knows it.
        known: What is known of it beforehand.
        max_tokens: How it likely names the most tokens of an answer.
    """
    learned = _all.get((base_url, name))
    if learned is None:
        learned = _all.setdefault((base_url, name), Learned(known, max_tokens=max_tokens))
    return learned
