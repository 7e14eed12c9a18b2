"""Limits that are checked before pixels are decoded: on metadata, shape, and work that is out of proportion."""

from typing import TYPE_CHECKING

from roadwork_serve.errors import MediaTooLarge
from roadwork_serve.media.header import read_header
from roadwork_serve.media.heif import CODED, read_heif
from roadwork_serve.media.jpeg import count_scans
from roadwork_serve.media.tiff import JPEG_COMPRESSION, read_tiff
from roadwork_serve.still_formats import STILL_BY_MIME

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_MAX_SCANS = 100  # of a JPEG; cameras write 1 or about 10
_SCANS_AT_MAX_PIXELS = 12  # each is a pass over the whole image, about 50 ms for 50 megapixels
_BYTES_PER_PIXEL = 4  # of a PNG or TIFF with max_pixels: 8 bits per channel, with transparency
_CODED_SHARE = 2  # of max_pixels: the tiles of a HEIF, whose edges may exceed the picture


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
    elif mime in ("image/png", "image/tiff"):
        most, needs = _BYTES_PER_PIXEL * limits.max_pixels, header.pixels * header.bits // 8
        if needs > most:
            raise MediaTooLarge(
                f"the {STILL_BY_MIME[mime].name} has {needs:,} bytes of pixels; at most {most:,} are accepted; export "
                "it with 8 bits per channel"
            )
    if mime == "image/tiff":
        _check_tiff(data, header.pixels, limits)
    elif mime in CODED:
        coded = read_heif(data, mime).coded_pixels
        if coded > _CODED_SHARE * limits.max_pixels:
            raise MediaTooLarge(
                f"the parts of the photo have {coded:,} pixels; at most {_CODED_SHARE * limits.max_pixels:,} are "
                "decoded; export it as a JPEG"
            )


def _check_tiff(data: bytes, pixels: int, limits: "MediaLimits") -> None:
    """Check the scans of the JPEGs in a TIFF: each strip or tile is one."""
    tiff = read_tiff(data)
    if tiff.compression != JPEG_COMPRESSION:
        return
    most = min(tiff.parts + _MAX_SCANS, _SCANS_AT_MAX_PIXELS * limits.max_pixels * tiff.parts // max(1, pixels))
    scans = data.count(b"\xff\xda")
    if scans > most and tiff.ranges is not None:  # such bytes may be elsewhere, as for a JPEG
        scans = 0
        for start, end in tiff.ranges:
            scans += count_scans(data[start:end], most - scans)
            if scans > most:
                break
    if scans > most:
        raise MediaTooLarge(f"the TIFF has more than {most:,} JPEG scans; export it with LZW or Deflate")
