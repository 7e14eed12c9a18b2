"""Decoding of photos and clips. The type is detected from the bytes, and limits are checked before any work is done.

The functions block; asyncio code uses `decode_pool.DecodePool`. Nothing is ever written to disk.
"""

from typing import TYPE_CHECKING

from roadwork_serve.errors import MediaTooLarge, UnsupportedMedia
from roadwork_serve.media.clip import Clip, Frame, read_clip
from roadwork_serve.media.photo import Photo, open_rgb, read_page, read_photo, squash
from roadwork_serve.media.sniff import sniff

if TYPE_CHECKING:  # pydantic would take longer to import than everything else in a decoding process
    from roadwork_serve.profiles.media_limits import MediaLimits

__all__ = ["Clip", "Frame", "Photo", "checked", "open_rgb", "page", "read", "sniff", "squash"]


def read(data: bytes, limits: "MediaLimits") -> Photo | Clip:
    """Decode a photo or clip. File names and headers play no role.

    Raises:
        UnsupportedMedia: The format is not supported.
        MediaTooLarge: A limit is exceeded.
        BrokenMedia: The file is empty, truncated or damaged.
    """
    mime = checked(data, limits)
    return read_photo(data, mime, limits) if mime.startswith("image/") else read_clip(data, mime, limits)


def page(data: bytes, limits: "MediaLimits") -> bytes:
    """Return a photo as a new JPEG of at most `limits.page_side` pixels a side, for the stages after the first.

    Raises the errors of `read`.
    """
    mime = checked(data, limits)
    if not mime.startswith("image/"):
        raise UnsupportedMedia(f"the bytes are {mime}; a photo is needed here")
    return read_page(data, mime, limits)


def checked(data: bytes, limits: "MediaLimits") -> str:
    """Check the size and format without decoding, and return the media type.

    Raises:
        UnsupportedMedia: The format is not supported.
        MediaTooLarge: The file is too large.
        BrokenMedia: The file is empty.
    """
    if len(data) > limits.max_bytes:
        raise MediaTooLarge(f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted (max_bytes)")
    return sniff(data)
