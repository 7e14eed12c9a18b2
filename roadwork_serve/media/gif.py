"""The first frame of a GIF (GIF89a): its size, and the file with nothing but that frame."""

import struct
from typing import NamedTuple

from roadwork_serve.errors import BrokenMedia, MediaTooLarge

_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9
_HAS_TABLE, _TABLE_SIZE = 0x80, 0x07
_MAX_BLOCKS = 200_000  # of up to 255 bytes; 32 MiB have 130,000
_MAX_EXTENSIONS = 1_000  # comments, XMP, loops and the like before the first frame, which has a handful
_BROKEN = "the GIF is damaged or truncated; send the whole file"


class Gif(NamedTuple):
    """The first frame of a GIF."""

    width: int
    height: int
    #: The file with no other frame, and without comments.
    plain: bytes


def read_gif(data: bytes) -> Gif:
    """Read up to the end of the first frame.

    Raises:
        BrokenMedia: There is none.
        MediaTooLarge: So many blocks precede it that they would take long to parse.
    """
    try:
        return _read(data)
    except (struct.error, IndexError) as error:
        raise BrokenMedia(_BROKEN) from error


def _read(data: bytes) -> Gif:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = start = 13 + _table_bytes(flags)
    control = b""
    blocks = extensions = 0
    while data[at] == _EXTENSION:
        if (extensions := extensions + 1) > _MAX_EXTENSIONS:
            raise MediaTooLarge(
                f"the GIF has more than {_MAX_EXTENSIONS:,} comments or other extensions before its first frame; "
                "export it again"
            )
        end, more = _skip_blocks(data, at + 2, blocks)
        if data[at + 1] == _CONTROL:
            control = data[at:end]
        blocks, at = blocks + more + 1, end
    if data[at] != _IMAGE:
        raise BrokenMedia(_BROKEN)
    left, top, frame_width, frame_height, frame_flags = struct.unpack_from("<HHHHB", data, at + 1)
    pixels = at + 11 + _table_bytes(frame_flags)  # after the size of the LZW codes
    end, _ = _skip_blocks(data, pixels, 0)
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    if not frame_width * frame_height:
        raise BrokenMedia(_BROKEN)
    return Gif(width, height, b"".join((data[:start], control, data[at:end], b";")))


def _table_bytes(flags: int) -> int:
    return 3 << (flags & _TABLE_SIZE) + 1 if flags & _HAS_TABLE else 0


def _skip_blocks(data: bytes, at: int, before: int) -> tuple[int, int]:
    """Return the end of a row of blocks, and their number. Without an end, that of the file."""
    for count in range(_MAX_BLOCKS - before):
        if at >= len(data):
            return len(data), count
        length = data[at]
        at += 1 + length
        if not length:
            return at, count
    raise MediaTooLarge(f"the GIF has more than {_MAX_BLOCKS:,} blocks; export it again")
