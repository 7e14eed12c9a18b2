"""The chunks of a PNG: their number, and the file without its texts and profiles."""

import struct

from roadwork_serve.errors import MediaTooLarge

_MAX_CHUNKS = 20_000  # libpng writes 8 KiB each, which is 4,000 for 32 MiB
_UNWANTED = frozenset((b"tEXt", b"zTXt", b"iTXt", b"iCCP"))  # Pillow unpacks them, and refuses files with much text


def plain_png(data: bytes) -> bytes:
    """Return a PNG without its texts and colour profile; EXIF stays.

    Raises:
        MediaTooLarge: There are so many chunks that they would take long to parse.
    """
    kept, start, at = list[memoryview](), 0, 8
    view = memoryview(data)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return b"".join((*kept, view[start:])) if start else data
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        if data[at + 4 : at + 8] in _UNWANTED:
            kept.append(view[start:at])
            start = end
        at = end
    raise MediaTooLarge(f"the PNG has more than {_MAX_CHUNKS:,} chunks; export it again")
