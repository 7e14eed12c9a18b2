"""Limits on the metadata of a JPEG or PNG, which Pillow parses piece by piece in Python."""

import re
import struct

from roadwork_serve.errors import MediaTooLarge

_MAX_SEGMENTS = 2_000  # of a JPEG; cameras write 10 to 50, a depth map in XMP about a hundred
_MAX_CHUNKS = 20_000  # of a PNG; libpng writes 8 KiB each, which is 4,000 for 32 MiB
_MAX_METADATA = 4 * 2**20  # bytes of tables, profiles and EXIF; Pillow takes milliseconds per 64 KiB of some
_MAX_FILL = 64 * 2**10  # bytes between segments
_MARKER = re.compile(rb"[^\xff]*\xff+", re.DOTALL)
_ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without a length (ITU-T T.81, B.1.1.3); 0 is an escape
_SCAN, _COMMENT, _APP1 = 0xDA, 0xFE, 0xE1


def check_jpeg(data: bytes) -> None:
    """Raise MediaTooLarge if the metadata before the image data would take long to parse."""
    at, metadata, fill = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.match(data, at)
        if found is None or found.end() >= len(data):
            return
        fill += found.end() - at - 1
        marker, at = data[found.end()], found.end() + 1
        if marker == _SCAN:
            return
        if marker not in _ALONE:
            length = int.from_bytes(data[at : at + 2], "big")
            xmp = marker == _APP1 and not data.startswith(b"Exif\0", at + 2)
            metadata += 0 if xmp or marker == _COMMENT else length
            at += max(2, length)
        if fill > _MAX_FILL or metadata > _MAX_METADATA:
            break
    raise MediaTooLarge("the JPEG has too much metadata; export it again without it")


def check_png(data: bytes) -> None:
    """Raise MediaTooLarge if there are so many chunks that they would take long to parse."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        at += 12 + struct.unpack_from(">I", data, at)[0]
    raise MediaTooLarge(f"the PNG has more than {_MAX_CHUNKS:,} chunks; export it again")
