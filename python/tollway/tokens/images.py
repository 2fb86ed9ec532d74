"""Tokens of images, by the rules that providers publish."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import NamedTuple

from tollway.tokens.models import family_of

__all__ = ["Image", "image_tokens", "size_of"]

# Source: OpenAI's guide "Images and vision", section "Calculating costs": what an image of low
# detail costs, and each tile of one of high detail on top.
_TILES = {
    "gpt-4o-mini": (2833, 5667),
    "gpt-4o": (85, 170),
    "chatgpt-4o": (85, 170),
    "gpt-4.1": (85, 170),
    "gpt-4.5": (85, 170),
    "gpt-4-turbo": (85, 170),
    "gpt-4-vision": (85, 170),
    "o1": (75, 150),
    "o3": (75, 150),
    "gpt-5": (70, 140),
}
# These are of the families above by name, but are charged by patches, at rates that providers
# change: the rule for tiles is only near.
_PATCHES = ("gpt-4.1-mini", "gpt-4.1-nano", "gpt-5-mini", "gpt-5-nano", "o3-mini", "o1-mini")
_FALLBACK = (85, 170)
_AFTER_FAMILY = "-.:@"
_TILE = 512
_LONGEST = 2048
_SHORTEST = 768
# An image of unknown size is taken for one of 1,024 pixels square, the guide's first example.
_UNKNOWN = (1024, 1024)
# So much of an image's base64 is looked at first: a JPEG's size can stand behind a preview of up to
# 64 KB; most stand in the first hundred bytes.
_HEADER_CHARACTERS = 128 * 1024


class Image(NamedTuple):
    """An image of a message.

    Attributes:
        size: Width and height in pixels, or None where it is not known.
        detail: `low`; anything else is high, as `auto` is for all but small images, where both
            rules give nearly the same.
    """

    size: tuple[int, int] | None
    detail: str


def image_tokens(image: Image, model: str) -> tuple[int, bool]:
    """Return the tokens of an image, and whether they are by a published rule for the model."""
    family = family_of(model, _TILES, _AFTER_FAMILY)
    base, tile = _TILES[family] if family else _FALLBACK
    exact = family is not None and family_of(model, _PATCHES, _AFTER_FAMILY) is None
    if image.detail == "low":
        return base, exact
    return base + tile * _tiles(*(image.size or _UNKNOWN)), exact and image.size is not None


def _tiles(width: int, height: int) -> int:
    """Count the tiles after scaling down to 2,048 pixels square and to a short side of 768."""
    for side, limit in ((max, _LONGEST), (min, _SHORTEST)):
        length = side(width, height)
        if length > limit:
            width, height = width * limit // length, height * limit // length
    return math.ceil(max(width, 1) / _TILE) * math.ceil(max(height, 1) / _TILE)


def size_of(url: str) -> tuple[int, int] | None:
    """Return width and height in pixels of the image in a `data:` URL, or None.

    Reads the headers of PNG, JPEG, GIF and WebP; None for any other, and for one that is damaged.
    """
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        return None
    for part in (data[:_HEADER_CHARACTERS], data):
        try:
            size = _size(base64.b64decode(part[: len(part) // 4 * 4]))
        except (binascii.Error, struct.error, ValueError):
            return None
        if size is not None:
            return size
    return None


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack(">II", data[16:24])
    if data.startswith((b"GIF87a", b"GIF89a")):
        return struct.unpack("<HH", data[6:10])
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Read the three forms of RFC 9649: lossy, lossless and extended."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(data) >= 30:
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the frame header (ITU T.81, B.1.1)."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # no length follows
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
