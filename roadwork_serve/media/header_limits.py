"""Limits that are checked before pixels are decoded: on metadata, shape, and work that is out of proportion."""

import struct
from typing import TYPE_CHECKING

from roadwork_serve.errors import MediaTooLarge
from roadwork_serve.media.header import ALONE, MAX_SEGMENTS, SCAN, count_scans, read_header, segments

if TYPE_CHECKING:
    from roadwork_serve.profiles.profile import MediaLimits

_MAX_CHUNKS = 20_000  # of a PNG; libpng writes 8 KiB each, which is 4,000 for 32 MiB
_MAX_METADATA = 4 * 2**20  # bytes of tables, profiles and EXIF; Pillow takes milliseconds per 64 KiB of some
_MAX_FILL = 64 * 2**10  # bytes between segments
_COMMENT, _APP1 = 0xFE, 0xE1
_MAX_SCANS = 100  # of a JPEG; cameras write 1 or about 10
_SCANS_AT_MAX_PIXELS = 12  # each is a pass over the whole image, about 50 ms for 50 megapixels
_BYTES_PER_PIXEL = 4  # of a PNG with max_pixels: 8 bits per channel, with transparency


def check_shape(size: tuple[int, int], limits: "MediaLimits", what: str = "photo") -> None:
    """Raise MediaTooLarge if there are too many pixels, or if one side is far longer than the other.

    Scaling such a strip to a thumbnail would take a multiple of its own memory.
    """
    width, height = size
    if width * height > limits.max_pixels:
        raise MediaTooLarge(
            f"the {what} has {width:,} x {height:,} = {width * height:,} pixels; "
            f"at most {limits.max_pixels:,} are accepted (max_pixels)"
        )
    if max(size) > limits.max_aspect * min(size):
        raise MediaTooLarge(
            f"the {what} has {width:,} x {height:,} pixels; its longer side may be at most {limits.max_aspect:g} "
            "times the shorter one (max_aspect)"
        )


def check_work(data: bytes, mime: str, limits: "MediaLimits") -> None:
    """Raise MediaTooLarge if decoding a photo takes far longer than its pixels suggest."""
    header = read_header(data, mime)
    if header is None:
        return
    if mime == "image/jpeg":
        most = min(_MAX_SCANS, _SCANS_AT_MAX_PIXELS * limits.max_pixels // max(1, header.pixels))
        # The first count is quick, and too high if such bytes occur elsewhere.
        if data.count(b"\xff\xda") > most and count_scans(data, most) > most:
            raise MediaTooLarge(
                f"the JPEG has more than {most} scans of {header.pixels:,} pixels, each of which is a pass over the "
                "whole image; export it again as a baseline JPEG"
            )
    elif mime == "image/png":
        most, needs = _BYTES_PER_PIXEL * limits.max_pixels, header.pixels * header.bits // 8
        if needs > most:
            raise MediaTooLarge(
                f"the PNG has {needs:,} bytes of pixels; at most {most:,} are accepted; export it with 8 bits per "
                "channel"
            )


def check_jpeg(data: bytes) -> None:
    """Raise MediaTooLarge if the metadata before the image data would take long to parse."""
    metadata, fill = 0, 0
    for count, segment in enumerate(segments(data)):
        fill += segment.fill
        if segment.marker == SCAN:
            return
        if segment.marker not in ALONE:
            xmp = segment.marker == _APP1 and not data.startswith(b"Exif\0", segment.at + 2)
            length = int.from_bytes(data[segment.at : segment.at + 2], "big")
            metadata += 0 if xmp or segment.marker == _COMMENT else length
        if fill > _MAX_FILL or metadata > _MAX_METADATA or count + 1 >= MAX_SEGMENTS:
            raise MediaTooLarge("the JPEG has too much metadata; export it again without it")


def check_png(data: bytes) -> None:
    """Raise MediaTooLarge if there are so many chunks that they would take long to parse."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        at += 12 + struct.unpack_from(">I", data, at)[0]
    raise MediaTooLarge(f"the PNG has more than {_MAX_CHUNKS:,} chunks; export it again")
