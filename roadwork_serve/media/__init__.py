"""Bytes -> Photo | Clip, by looking at the bytes and with every limit checked before work is done.

Blocking: asyncio code asks `readers.Readers`. Nothing is ever written to disk.
"""

from typing import TYPE_CHECKING

from roadwork_serve.errors import MediaTooLarge
from roadwork_serve.media.clip import Clip, Frame, read_clip
from roadwork_serve.media.photo import Photo, open_rgb, read_photo, squash
from roadwork_serve.media.sniff import sniff

if TYPE_CHECKING:  # pydantic would cost each process that reads more than the rest of its own imports
    from roadwork_serve.profiles.profile import MediaLimits

__all__ = ["Clip", "Frame", "Photo", "checked", "open_rgb", "read", "sniff", "squash"]


def read(data: bytes, limits: "MediaLimits") -> Photo | Clip:
    """The photo or clip in these bytes, whatever a file name or header called them.

    Raises UnsupportedMedia for any other format, MediaTooLarge past a limit, and BrokenMedia
    for empty, truncated or damaged files.
    """
    mime = checked(data, limits)
    return read_photo(data, mime, limits) if mime.startswith("image/") else read_clip(data, mime, limits)


def checked(data: bytes, limits: "MediaLimits") -> str:
    """The media type of bytes that are neither too many nor of an unsupported format; nothing is read of them yet."""
    if len(data) > limits.max_bytes:
        raise MediaTooLarge(f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted (max_bytes)")
    return sniff(data)
