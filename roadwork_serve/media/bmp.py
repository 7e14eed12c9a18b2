"""The header of a BMP (Windows bitmap, versions 2 to 5)."""

import struct
from typing import NamedTuple

from roadwork_serve.errors import BrokenMedia, UnsupportedMedia

_RUN_LENGTH, _PLAIN = {1, 2}, {0, 3}  # compressions; 3 has colour masks
_BROKEN = "the BMP is damaged or truncated; send the whole file"


class Bmp(NamedTuple):
    """The declarations of a BMP's header."""

    width: int
    height: int
    #: Bits of a stored pixel.
    bits: int


def read_bmp(data: bytes) -> Bmp:
    """Read the header.

    Raises:
        BrokenMedia: The file is damaged, or has fewer bytes than pixels.
        UnsupportedMedia: The pixels are compressed.
    """
    try:
        start, length = struct.unpack_from("<II", data, 10)
        if length == 12:
            width, height, bits, compression = *struct.unpack_from("<HH2xH", data, 18), 0
        else:
            width, height, bits, compression = struct.unpack_from("<ii2xHI", data, 18)
    except struct.error as error:
        raise BrokenMedia(_BROKEN) from error
    if compression not in _PLAIN:
        how = "run-length coding" if compression in _RUN_LENGTH else f"compression {compression}"
        raise UnsupportedMedia(f"the BMP has {how}; export it uncompressed, or as a PNG")
    height = abs(height)  # negative if the rows run from top to bottom
    row = (width * bits + 31) // 32 * 4
    if width <= 0 or not height or bits not in (1, 4, 8, 16, 24, 32) or start + row * height > len(data) + row:
        raise BrokenMedia(_BROKEN)
    return Bmp(width, height, bits)
