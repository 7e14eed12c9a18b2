"""Responses of decoding processes, checked as if an attacker had taken the process over."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media import Clip, Frame, Photo, sniff
from roadwork_serve.profiles.media_limits import MediaLimits

_ERRORS: Mapping[str, type[MediaError]] = {
    kind.__name__: kind for kind in (BrokenMedia, MediaTooLarge, UnsupportedMedia)
}
_MAX_MESSAGE = 2000  # characters


def max_bytes(limits: MediaLimits) -> int:
    """Return the largest size of a decoded file in bytes."""
    frames = limits.frames * (3 * limits.thumb_side**2 + 3 * limits.frame_side**2 + 2**16)
    return max(frames, 3 * limits.page_side**2 + 2**16)


def parse_error(header: Any) -> MediaError | None:
    """Return the error in a response. Raise KeyError or TypeError if it is invalid."""
    return _ERRORS[header["error"]](str(header["message"])[:_MAX_MESSAGE]) if header["kind"] == "error" else None


def parse_page(header: Any, body: bytearray) -> bytes:
    """Return the page in a response. Raise ValueError, KeyError or TypeError if it is invalid."""
    if header["kind"] != "page" or sniff(bytes(body[:16])) != "image/jpeg":
        raise ValueError(f"its kind is {header['kind']!r}, or its page is no JPEG")
    return bytes(body)


def parse_media(header: Any, body: bytearray, mime: str, limits: MediaLimits) -> Photo | Clip:
    """Return the media in a response. Raise ValueError, KeyError or TypeError if it is invalid."""
    match header["kind"]:
        case "photo":
            (thumb,) = _thumbs(body, 0, 1, limits.thumb_side)
            return Photo(mime, int(header["width"]), int(header["height"]), thumb)
        case "clip":
            sizes = [(float(at_s), int(size)) for at_s, size in header["frames"]]
            if not 1 <= len(sizes) <= limits.frames or any(size < 1 for _, size in sizes):
                raise ValueError("its frames are invalid")
            ends = np.cumsum([size for _, size in sizes]).tolist()
            thumbs = _thumbs(body, ends[-1], len(sizes), limits.thumb_side)
            frames = tuple(
                Frame(at_s, bytes(body[end - size : end]), thumb)
                for (at_s, size), end, thumb in zip(sizes, ends, thumbs, strict=True)
            )
            size, seconds = (int(header["width"]), int(header["height"])), float(header["seconds"])
            return Clip(mime, *size, seconds, frames, incomplete=bool(header["incomplete"]))
        case other:
            raise ValueError(f"its kind is {other!r}")


def parse_seconds(header: Any, limits: MediaLimits) -> float:
    """Return the reported decoding time in seconds. Raise ValueError, KeyError or TypeError if it is invalid."""
    decode_s = float(header["took_s"])
    if not 0 <= decode_s <= limits.max_decode_s:
        raise ValueError(f"it reports a decoding time of {decode_s} s")
    return decode_s


def _thumbs(body: bytearray, start: int, count: int, side: int) -> NDArray[np.uint8]:
    """Return the thumbnails, uint8 [count, side, side, 3], from `start` to the end of the body."""
    return np.frombuffer(body, np.uint8, offset=start).reshape(count, side, side, 3)
