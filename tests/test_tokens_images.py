"""Tokens of images in messages, by the published rule."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from tollway.tokens import count_messages

Message = dict[str, Any]


def _png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"


def _gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0" * 20


def _jpeg(width: int, height: int, preview: int = 16) -> bytes:
    exif = b"\xff\xe1" + struct.pack(">H", preview + 2) + b"\xff\xc0" * (preview // 2)
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\0" * 9
    return b"\xff\xd8" + exif + b"\xff\xff\xdb" + struct.pack(">H", 4) + b"\0\0" + frame


def _lossy(width: int, height: int) -> bytes:
    frame = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF\0\0\0\0WEBPVP8 " + struct.pack("<I", len(frame)) + frame


def _lossless(width: int, height: int) -> bytes:
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + bits


def _extended(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + size


def _url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _image_tokens(part: Message, model: str = "gpt-4o", **options: Any) -> tuple[int, bool]:
    without = count_messages([{"role": "user", "content": []}], model)
    count = count_messages([{"role": "user", "content": [part]}], model, **options)
    return count - without, count.estimated


@pytest.mark.parametrize("make", [_png, _gif, _jpeg, _lossy, _lossless, _extended])
@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    # The guide's two examples; one tile; one beyond it; a panorama; a size that is rounded.
    [
        (1024, 1024, 765),
        (2048, 4096, 1105),
        (512, 512, 255),
        (513, 512, 425),
        (4096, 400, 765),
        (1920, 1080, 1105),
    ],
)
def test_images_cost_their_tiles(make: Any, width: int, height: int, tokens: int) -> None:
    url = _url(make(width, height))
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    assert _image_tokens(part) == (tokens, False)
    low = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    assert _image_tokens(low) == (85, False)


def test_images_come_in_every_form() -> None:
    data = _png(1024, 1024)
    url = _url(data)
    encoded = base64.b64encode(data).decode()
    source = {"type": "base64", "media_type": "image/png", "data": encoded}
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "image", "source": source},
    ):
        assert _image_tokens(part) == (765, False)
    assert _image_tokens({"type": "image_url", "image_url": url}, "o3")[0] == 75 + 4 * 150
    assert _image_tokens({"type": "image_url", "image_url": url}, "gpt-4o-mini")[0] == 25501


def test_the_size_of_a_remote_image_is_given_or_assumed() -> None:
    url = "https://example.com/a.png"
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    assert _image_tokens(part, image_sizes={url: (512, 512)}) == (255, False)
    assert _image_tokens(part) == (765, True)
    assert _image_tokens({"type": "image_url"}) == (765, True)
    low = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    assert _image_tokens(low) == (85, False)


@pytest.mark.parametrize("make", [_png, _gif, _jpeg, _lossy, _lossless, _extended])
def test_damaged_images_are_of_unknown_size(make: Any) -> None:
    data = make(512, 512)
    for end in range(12, len(data) - 22):
        tokens, _ = _image_tokens({"type": "image_url", "image_url": _url(data[:end])})
        assert tokens in {255, 765}
    for url in (
        "data:image/png;base64,%%%",
        "data:image/png,abc",
        "data:,",
        "",
        "data:;base64,/9j/",
    ):
        assert _image_tokens({"type": "image_url", "image_url": url}) == (765, True)


def test_the_size_of_a_jpeg_is_found_behind_a_large_preview() -> None:
    inner = _jpeg(512, 512, preview=60_000)
    twice = inner[:60_006] + inner[2:60_006] + inner[2:]
    for data in (inner, twice, twice[:60_006] + twice[2:]):
        assert _image_tokens({"type": "image_url", "image_url": _url(data)}) == (255, False)
