"""How much a JPEG or PNG may say beside its picture. Pillow reads all of it, piece by piece, in Python."""

import re
import struct

from roadwork_serve.errors import MediaTooLarge

_MAX_PARTS = 2_000  # segments of a JPEG; cameras write 10 to 50, a depth map in XMP some hundred
_MAX_CHUNKS = 20_000  # of a PNG: 32 MiB in the 8 KiB that libpng writes at once are 4,000
_MAX_BESIDE = 4 * 2**20  # bytes of tables, profiles and EXIF: Pillow takes milliseconds for each 64 KiB of some
_MAX_FILL = 64 * 2**10  # bytes between segments
_MARKER = re.compile(rb"[^\xff]*\xff+", re.DOTALL)
_ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without a length (ITU-T T.81, B.1.1.3); 0 is an escape
_PICTURE, _COMMENT, _APP1 = 0xDA, 0xFE, 0xE1


def check_jpeg(data: bytes) -> None:
    """Raises MediaTooLarge when what stands before the picture would take long to read."""
    at, beside, fill = 2, 0, 0
    for _ in range(_MAX_PARTS):
        found = _MARKER.match(data, at)
        if found is None or found.end() >= len(data):
            return
        fill += found.end() - at - 1
        marker, at = data[found.end()], found.end() + 1
        if marker == _PICTURE:
            return
        if marker not in _ALONE:
            length = int.from_bytes(data[at : at + 2], "big")
            xmp = marker == _APP1 and not data.startswith(b"Exif\0", at + 2)
            beside += 0 if xmp or marker == _COMMENT else length
            at += max(2, length)
        if fill > _MAX_FILL or beside > _MAX_BESIDE:
            break
    raise MediaTooLarge("the JPEG holds far more than its picture; export it again without metadata")


def check_png(data: bytes) -> None:
    """Raises MediaTooLarge when it comes in so many chunks that they take long to read."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        at += 12 + struct.unpack_from(">I", data, at)[0]
    raise MediaTooLarge(f"the PNG comes in more than {_MAX_CHUNKS:,} chunks; export it again")
