"""One call as LightRAG makes it: its keyword arguments, and what it wants back."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from tollway.chat import CallOptions
from tollway.errors import (
    BadResponseError,
    ConfigurationError,
    ContentFilterError,
    StructuredOutputError,
)
from tollway.integrations.lightrag.keywords import KEYWORDS
from tollway.types import ImagePart, Message, Part, TextPart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tollway.chat import LLM, ChatStream
    from tollway.types import Completion, Usage

__all__ = ["Answer", "History", "answer", "count"]

Answer: TypeAlias = "str | AsyncIterator[str]"
History: TypeAlias = Sequence[Mapping[str, Any]] | None

# LightRAG keeps its own cache.
_IGNORED = ("hashing_kv",)
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


async def answer(
    llm: LLM,
    prompt: str,
    system_prompt: str | None,
    history_messages: History,
    given: Mapping[str, Any],
) -> Answer:
    """Answer as LightRAG wants its `llm_model_func` to; see `llm_model_func`."""
    arguments = {name: value for name, value in given.items() if name not in _IGNORED}
    is_stream = bool(arguments.pop("stream", False))
    shows_thoughts = bool(arguments.pop("enable_cot", False))
    tracker = arguments.pop("token_tracker", None)
    images = arguments.pop("image_inputs", None)
    messages: Any = arguments.pop("messages", None)
    options = _options(arguments)
    if system_prompt:
        options["system_prompt"] = system_prompt
    if history_messages:
        options["history_messages"] = history_messages
    if images:
        parts: list[Part] = [TextPart(prompt), *map(_image, images)]
        asked: Any = Message("user", tuple(parts))
    else:
        asked = prompt
    if messages is not None:
        asked = messages
        options.pop("system_prompt", None)
        options.pop("history_messages", None)
    if is_stream:
        stream = llm.stream(asked, **options)
        return _pieces(stream, tracker, shows_thoughts=shows_thoughts)
    try:
        completion = await llm.complete(asked, **options)
    except StructuredOutputError as error:
        completion = error.completion
        count(tracker, completion.usage)
        # LightRAG reads what it can of an answer that is cut short.
        if completion.finish_reason == "length" and completion.text.strip():
            return _cut(completion.text)
        # It makes a copy of an error from its message alone.
        raise BadResponseError(str(error)) from error
    count(tracker, completion.usage)
    return _text(completion, shows_thoughts=shows_thoughts)


def count(tracker: Any, usage: Usage) -> None:
    """Tell LightRAG's `TokenTracker`, or whatever has an `add_usage` like it."""
    if tracker is not None:
        tracker.add_usage(
            {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
            }
        )


def _options(arguments: dict[str, Any]) -> CallOptions:
    """Return keyword arguments as a call takes them; what it has no name for is the provider's."""
    wanted = _format(
        arguments.pop("response_format", None),
        keywords=arguments.pop("keyword_extraction", False),
        entities=arguments.pop("entity_extraction", False),
    )
    # With LightRAG a lower number goes first.
    first = arguments.pop("_priority", None)
    if "max_completion_tokens" in arguments:
        arguments["max_tokens"] = arguments.pop("max_completion_tokens")
    options: dict[str, Any] = {}
    for name in [name for name in arguments if name in CallOptions.__annotations__]:
        options[name] = arguments.pop(name)
    if not options.get("timeout"):  # 0 and None are none
        options.pop("timeout", None)
    if first is not None:
        options["priority"] = -first
    if wanted is not None:
        options["response_format"] = wanted
    if arguments:
        options["extra_body"] = {**arguments, **options.get("extra_body", {})}
    return cast("CallOptions", options)


def _format(given: Any, *, keywords: bool, entities: bool) -> Any:
    """Return a `response_format`, or one of LightRAG's flags, as a call's."""
    if given is None:
        return KEYWORDS if keywords else "json" if entities else None
    return given


def _text(completion: Completion, *, shows_thoughts: bool) -> str:
    """Return what LightRAG takes for the answer.

    Raises:
        ContentFilterError: There is none, because the provider or model declined.
        BadResponseError: There is none.
    """
    text, finish = completion.text, completion.finish_reason
    if completion.parsed is not None:
        dump = getattr(completion.parsed, "model_dump_json", None)
        return dump() if dump else json.dumps(completion.parsed, ensure_ascii=False)
    if not text.strip():
        if shows_thoughts and completion.reasoning and finish == "stop":
            return f"<think>{completion.reasoning}</think>"
        refused = finish in {"content_filter", "refusal"}
        usage = completion.usage
        raise (ContentFilterError if refused else BadResponseError)(
            f"{completion.provider}/{completion.model} said nothing: it ended with {finish} after "
            f"{usage.output_tokens} tokens, {usage.reasoning_tokens} of them thoughts"
            + ("; raise max_tokens" if finish == "length" else "")
        )
    return _cut(text) if finish == "length" else text


def _cut(text: str) -> str:
    """Mark an answer that is cut short, so that LightRAG does not keep it in its cache."""
    mark = getattr(sys.modules.get("lightrag.utils"), "TruncatedResponse", str)
    return cast("str", mark(text))


async def _pieces(stream: ChatStream, tracker: Any, *, shows_thoughts: bool) -> AsyncIterator[str]:
    is_thinking = False
    async with stream:
        async for chunk in stream:
            if chunk.reasoning and shows_thoughts:
                yield chunk.reasoning if is_thinking else f"<think>{chunk.reasoning}"
                is_thinking = True
            if chunk.text:
                yield f"</think>{chunk.text}" if is_thinking else chunk.text
                is_thinking = False
        if is_thinking:
            yield "</think>"
    if stream.completion is not None:
        count(tracker, stream.completion.usage)


def _image(given: Any) -> ImagePart:
    """Return one of `image_inputs`: an address, a `data:` URL, base64, or a mapping with it."""
    media_type = None
    if isinstance(given, Mapping):
        members = cast("Mapping[str, Any]", given)
        given, media_type = members.get("base64"), members.get("mime_type")
    if not isinstance(given, str):
        raise ConfigurationError("an image is an address, a data: URL, base64, or a mapping")
    given = given.strip()
    if given.startswith(("https://", "http://", "data:")):
        return ImagePart(given)
    try:
        data = base64.b64decode("".join(given.split()), validate=True)
    except binascii.Error as error:
        raise ConfigurationError(f"an image is not base64: {error}") from error
    seen = (kind for signature, kind in _SIGNATURES.items() if data.startswith(signature))
    return ImagePart(data=data, media_type=media_type or next(seen, "image/png"))
