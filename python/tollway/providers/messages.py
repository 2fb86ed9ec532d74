"""Conversations in OpenAI's form, which most of the world speaks: to it and from it."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

from tollway.errors import ConfigurationError
from tollway.types import ImagePart, Message, Role, TextPart, ToolCall

if TYPE_CHECKING:
    from tollway.types import Part, Tool

__all__ = [
    "image_bytes",
    "image_url",
    "only_text",
    "openai_message",
    "openai_tool",
    "read_message",
    "text_in",
    "text_of",
]

_ROLES = frozenset(get_args(Role))
_OWN_MEMBERS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})


def read_message(given: Message | Mapping[str, Any]) -> Message:
    """Return a message that was given as one, or as a mapping in OpenAI's form.

    Parts without a type of their own stay mappings; further members go to `extra["openai"]`.

    Raises:
        ConfigurationError: It is no message.
    """
    if isinstance(given, Message):
        if given.role not in _ROLES:
            raise ConfigurationError(f"a message's role is one of {', '.join(sorted(_ROLES))}")
        return given
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"a message is a Message or a mapping with role and content, not {type(given).__name__}"
        )
    role = given.get("role")
    if role not in _ROLES:
        raise ConfigurationError(
            f"a message's role is one of {', '.join(sorted(_ROLES))}, not {role!r}"
        )
    further = {name: value for name, value in given.items() if name not in _OWN_MEMBERS}
    return Message(
        cast("Role", role),
        _read_content(given.get("content")),
        given.get("name"),
        tuple(_read_call(call) for call in given.get("tool_calls") or ()),
        given.get("tool_call_id"),
        {"openai": further} if further else {},
    )


def openai_message(message: Message) -> dict[str, Any]:
    """Return a message in OpenAI's form, without `extra`."""
    content = message.content
    written: dict[str, Any] = {
        "role": message.role,
        "content": content if isinstance(content, str) else [_part(part) for part in content],
    }
    if message.name is not None:
        written["name"] = message.name
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
        if not content:
            written["content"] = None
    return written


def openai_tool(tool: Tool) -> dict[str, Any]:
    """Return a tool in OpenAI's form."""
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def text_in(part: Part) -> str | None:
    """Return the text of a part, one in OpenAI's form too; None for a part of another kind."""
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, ImagePart) or part.get("type") != "text":
        return None
    return str(part.get("text") or "")


def text_of(message: Message) -> str:
    """Return a message's text, its parts joined by empty lines; other parts are left out."""
    if isinstance(message.content, str):
        return message.content
    texts = map(text_in, message.content)
    return "\n\n".join(text for text in texts if text is not None)


def only_text(message: Message, who: str, *, images: bool = False) -> str:
    """Return a message's text, of which nothing is lost.

    Args:
        message: Which.
        who: Takes it, for the error.
        images: Whether images are sent beside it.

    Raises:
        ConfigurationError: It has other parts.
    """
    for part in () if isinstance(message.content, str) else message.content:
        if text_in(part) is None and not (images and isinstance(part, ImagePart)):
            kind = part.get("type") if isinstance(part, Mapping) else "image"
            raise ConfigurationError(
                f"{who} takes {'text and images' if images else 'text alone'} in a message of "
                f"{message.role}, no part of the kind {kind}"
            )
    return text_of(message)


def image_url(part: ImagePart) -> str:
    """Return an image's address; of bytes, a `data:` URL.

    Raises:
        ConfigurationError: Neither or both are there, or bytes of no named type.
    """
    if (part.url is None) == (part.data is None):
        raise ConfigurationError("an ImagePart has either a url or data")
    if part.url is not None:
        return part.url
    if part.media_type is None:
        raise ConfigurationError("the data of an ImagePart needs its media_type, as image/png")
    return f"data:{part.media_type};base64,{base64.b64encode(part.data or b'').decode()}"


def image_bytes(part: ImagePart) -> tuple[str, bytes] | None:
    """Return an image's media type and bytes, also from a `data:` URL; None for an address.

    Raises:
        ConfigurationError: As `image_url` says, or a `data:` URL that is not in order.
    """
    url = image_url(part)
    if part.data is not None and part.media_type is not None:
        return part.media_type, part.data
    if not url.startswith("data:"):
        return None
    head, _, data = url[5:].partition(",")
    media_type, *marks = head.split(";")
    try:
        if "base64" in marks:
            return media_type, base64.b64decode(data, validate=True)
        return media_type, urllib.parse.unquote_to_bytes(data)
    except (ValueError, binascii.Error) as error:
        raise ConfigurationError(f"an image's data: URL is not in order: {error}") from error


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        image = {"url": image_url(part)}
        if part.detail is not None:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    return dict(part)


def _read_content(content: object) -> str | tuple[Part, ...]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return tuple(_read_part(part) for part in cast("Sequence[object]", content))
    raise ConfigurationError(f"a message's content is text or a list of parts, not {content!r:.80}")


def _read_part(part: object) -> Part:
    if isinstance(part, (TextPart, ImagePart)):
        return part
    if isinstance(part, str):
        return TextPart(part)
    if not isinstance(part, Mapping):
        raise ConfigurationError(f"a part of a message's content is a mapping, not {part!r:.80}")
    members = cast("Mapping[str, Any]", part)
    if set(members) == {"type", "text"} and members["type"] == "text":
        return TextPart(members["text"])
    if set(members) == {"type", "image_url"}:
        image: Any = members["image_url"]
        if isinstance(image, Mapping):
            named = cast("Mapping[str, Any]", image)
            return ImagePart(named.get("url"), detail=named.get("detail"))
        return ImagePart(image)
    return members


def _read_call(call: object) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    members: Mapping[str, Any] = (
        cast("Mapping[str, Any]", call) if isinstance(call, Mapping) else {}
    )
    function = members.get("function")
    if not isinstance(function, Mapping):
        raise ConfigurationError(f"a call of a tool has a function with a name, not {call!r:.80}")
    named = cast("Mapping[str, Any]", function)
    return ToolCall(
        str(members.get("id") or ""), str(named.get("name")), str(named.get("arguments") or "")
    )
