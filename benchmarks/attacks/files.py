"""The most expensive files that the limits accept."""

import struct
import zlib
from io import BytesIO

from PIL import Image

_SIDE = 7_000  # 49 megapixels
# A lossless WebP of one colour, 8165 x 6123.
_WEBP = bytes.fromhex("524946461a000000574542505650384c0d0000002fe49ffa15071011118888fe0700")


def worst_files() -> list[bytes]:
    """Return expensive files that are within the limits, of a few hundred kilobytes at most."""
    jpeg = BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "grey").save(jpeg, "JPEG", progressive=True)
    flat = jpeg.getvalue()
    last = flat.rindex(b"\xff\xda")
    return [_WEBP, _png(_SIDE, _SIDE), flat[:-2] + 2 * flat[last:-2] + flat[-2:], _png(50_000, 1_000)]


def _png(width: int, height: int) -> bytes:
    """Return an RGBA image whose rows all need the filter that is slowest to undo."""
    packed = zlib.compress((b"\4" + bytes(4 * width)) * height, 9)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
