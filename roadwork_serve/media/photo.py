"""Photos: limits from the header, the thumbnail for stage 1, and the page for the later stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media.header import read_header
from roadwork_serve.media.header_limits import check_shape, check_work
from roadwork_serve.media.sniff import sniff
from roadwork_serve.media.still_reader import TRANSPOSE, Still, open_still

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_PAGE_QUALITY = 90
_BROKEN = "the photo is damaged or truncated; send the whole file"
_OUT_OF_MEMORY = "decoding the photo takes too much memory; send it at a smaller size"


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded photo."""

    mime: str
    #: Width of the upright image in pixels.
    width: int
    #: Height of the upright image in pixels.
    height: int
    #: uint8 RGB [side, side, 3].
    thumb: NDArray[np.uint8]

    @property
    def kind(self) -> Literal["photo"]:
        """The media type."""
        return "photo"

    @property
    def incomplete(self) -> Literal[False]:
        """False: a truncated photo is refused."""
        return False

    @property
    def images(self) -> tuple[bytes, ...]:
        """JPEGs of the sampled frames of a clip. None of a photo: `read_page` makes its page when a stage needs it."""
        return ()

    @property
    def thumbs(self) -> NDArray[np.uint8]:
        """uint8 RGB of shape [1, side, side, 3]."""
        return self.thumb[None]

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Time of each image from the start of the clip, in seconds; 0 for a photo."""
        return (0.0,)


def read_photo(data: bytes, mime: str, limits: "MediaLimits") -> Photo:
    """Decode a photo of a known type once, at about the size stage 1 needs.

    Raises:
        MediaTooLarge: A limit is exceeded; raised before anything is decoded.
        BrokenMedia: The file is damaged.
    """
    with _errors():
        still = _open_checked(data, mime, limits)
        width, height = still.image.size
        if still.orientation >= 5:
            width, height = height, width
        side = limits.thumb_side
        thumb = np.asarray(_decoded(still, (side, side), Image.Resampling.BILINEAR))
    return Photo(mime, width, height, thumb)


def read_page(data: bytes, mime: str, limits: "MediaLimits") -> bytes:
    """Return a photo of a known type as the later stages see it: a new JPEG, upright, at most `limits.page_side` wide.

    Raises the errors of `read_photo`.
    """
    with _errors():
        still = _open_checked(data, mime, limits)
        page = _decoded(still, fit(still.image.size, limits.page_side), Image.Resampling.BICUBIC)
        return encode_jpeg(page, _PAGE_QUALITY)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Return an RGB image as a JPEG. Colour keeps the full resolution, since signs are read by it."""
    into = BytesIO()
    image.save(into, "JPEG", quality=quality, subsampling=0)
    return into.getvalue()


def open_rgb(encoded: bytes, max_side: int | None = None) -> Image.Image:
    """Decode a photo or frame that `read` has accepted to an upright RGB image; transparency becomes white.

    Args:
        encoded: The file of a photo.
        max_side: Scale down until the longer side is at most this, in pixels. Large JPEGs are decoded directly to
            about that size.

    Raises:
        BrokenMedia: The file is damaged.
        UnsupportedMedia: The bytes are not a photo.
    """
    mime = sniff(encoded)
    if not mime.startswith("image/"):
        raise UnsupportedMedia(f"the bytes are {mime}; a photo is needed here")
    try:
        still = open_still(encoded, mime)
        size = still.image.size
        return _decoded(still, fit(size, max_side or max(size)), Image.Resampling.BICUBIC)
    except Exception as error:
        raise BrokenMedia(_BROKEN) from error


def squash(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return the thumbnail for stage 1: uint8 [side, side, 3], squashed to a square, antialiased."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def fit(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return the size scaled down in proportion until its longer side is at most max_side."""
    share = min(1.0, max_side / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


@contextmanager
def _errors() -> Iterator[None]:
    """Convert what decoders raise to errors for the client."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError:
        raise MediaTooLarge(_OUT_OF_MEMORY) from None
    except Exception as error:
        raise BrokenMedia(_BROKEN) from error


def _open_checked(data: bytes, mime: str, limits: "MediaLimits") -> Still:
    """Read the header and check it against the limits, before any pixel is decoded."""
    header = read_header(data, mime)
    if header and header.pixels:
        check_shape((header.width, header.height), limits)  # some decoders allocate the image when they open the file
    check_work(data, mime, limits)
    still = open_still(data, mime)
    check_shape(still.image.size, limits)
    return still


def _decoded(still: Still, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Decode to upright RGB of a size, which is given in the stored orientation."""
    image = still.image
    image.draft(None, size)  # a JPEG is scaled by 2, 4 or 8 while decoding, to no less than size; others ignore it
    image.load()
    if image.mode.startswith("I;16"):  # 16-bit grey, which `convert` would clip
        rgb: Image.Image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    else:
        rgb = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if rgb.size != size:
        rgb = rgb.resize(size, resampling)
    if rgb.mode == "RGBA":
        white = Image.new("RGBA", rgb.size, "white")
        white.alpha_composite(rgb)
        rgb = white.convert("RGB")
    if still.orientation in TRANSPOSE:
        rgb = rgb.transpose(TRANSPOSE[still.orientation])
    rgb.info = {}  # else its EXIF orientation would be applied twice
    return rgb
