"""The memory and work that decoding a file takes, estimated from its header before it gets a process."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from roadwork_serve.media.clip_header import read_clip_header
from roadwork_serve.media.header import Header, read_header
from roadwork_serve.still_formats import STILL_BY_MIME

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_MIB = 2**20
# Bytes per pixel, measured and rounded up: H.264 with 16 reference frames takes 40. A JPEG is scaled while it is
# decoded, unless it must be held whole. Those of still images are in `still_formats`.
_JPEG_CHANNEL, _CLIP = 2, 48
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
    read = read_clip_header if clip else read_header
    header = read(data, mime) or Header(limits.max_pixels if clip else 0, 1)
    pixels = min(header.pixels, limits.max_pixels)  # beyond, it is refused
    memory_mib = _CLIP_MIB if clip else _PHOTO_MIB
    memory_mib += (_bytes_per_pixel(header, mime) * pixels + _COPIES * len(data)) // _MIB
    return DecodeCost(memory_mib, memory_mib > _LIGHT_MIB or (clip and header.frames * pixels > _LIGHT_CLIP_PIXELS))


def largest_mib(limits: "MediaLimits") -> int:
    """Return the memory of the most expensive file within the limits, in MiB."""
    return _CLIP_MIB + (_CLIP * limits.max_pixels + _COPIES * limits.max_bytes) // _MIB


def _bytes_per_pixel(header: Header, mime: str) -> int:
    still = STILL_BY_MIME.get(mime)
    if still is None:
        return _CLIP
    return still.bytes_per_pixel + (_JPEG_CHANNEL * header.bits // 8 if header.buffered else 0)
