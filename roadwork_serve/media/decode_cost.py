"""The memory and work that decoding a file takes, estimated from its header before it gets a process."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from roadwork_serve.media.header import Header, read_header

if TYPE_CHECKING:
    from roadwork_serve.profiles.profile import MediaLimits

_MIB = 2**20
# Bytes per pixel, measured with 8 bits per channel and rounded up: WebP takes 15 lossy and 20 lossless, PNG 12 with
# transparency, H.264 with 16 reference frames 40. A JPEG is scaled while it is decoded, unless it must be held whole.
_JPEG, _JPEG_CHANNEL, _PNG, _WEBP, _CLIP = 2, 2, 16, 24, 48
_PHOTO_MIB, _CLIP_MIB = 64, 256  # regardless of pixels: the scaled image; stacks and heaps of threads
_COPIES = 4  # of the file
_LIGHT_MIB = 400  # a baseline JPEG of 50 megapixels, a PNG of 20, a WebP of 13
_LIGHT_CLIP_PIXELS = 300_000_000  # of all frames: 10 s of 720p, which take about a second of a CPU core


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """The estimated cost of decoding a file."""

    #: Memory beyond that of an idle decoding process.
    memory_mib: int
    #: True if it takes so much memory or time that few such files should be decoded at once.
    heavy: bool


def decode_cost(data: bytes, mime: str, limits: "MediaLimits") -> DecodeCost:
    """Return the cost of a file of a known type.

    Without a readable header, it is that of the largest clip; a photo cannot be decoded then and costs nothing.
    """
    clip = mime.startswith("video/")
    header = read_header(data, mime) or Header(limits.max_pixels if clip else 0, 1)
    pixels = min(header.pixels, limits.max_pixels)  # beyond, it is refused
    memory_mib = _CLIP_MIB if clip else _PHOTO_MIB
    memory_mib += (_bytes_per_pixel(header, mime) * pixels + _COPIES * len(data)) // _MIB
    return DecodeCost(memory_mib, memory_mib > _LIGHT_MIB or (clip and header.frames * pixels > _LIGHT_CLIP_PIXELS))


def largest_mib(limits: "MediaLimits") -> int:
    """Return the memory of the most expensive file within the limits, in MiB."""
    return _CLIP_MIB + (_CLIP * limits.max_pixels + _COPIES * limits.max_bytes) // _MIB


def _bytes_per_pixel(header: Header, mime: str) -> int:
    match mime:
        case "image/jpeg":
            return _JPEG + (_JPEG_CHANNEL * header.bits // 8 if header.buffered else 0)
        case "image/png":
            return _PNG
        case "image/webp":
            return _WEBP
        case _:
            return _CLIP
