"""Readers of still images: one for each format, each given a file without what it does not need.

The class of the format is used directly, since Image.open would try other formats too and check the image against
Pillow's global limit instead of ours. Nothing is decoded until the image is loaded.
"""

import hashlib
import struct
from io import BytesIO
from typing import NamedTuple

import pillow_heif
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from pillow_heif.as_plugin import HeifImageFile

from roadwork_serve.errors import UnsupportedMedia
from roadwork_serve.media.bmp import read_bmp
from roadwork_serve.media.gif import read_gif
from roadwork_serve.media.heif import read_heif
from roadwork_serve.media.jpeg import check_jpeg, endings
from roadwork_serve.media.png import plain_png
from roadwork_serve.media.tiff import read_tiff

# One thread for each file, since several are decoded at once; and the picture itself, never a thumbnail in its place.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pillow_heif.options.DECODE_THREADS = 1
pillow_heif.options.THUMBNAILS = False
pillow_heif.options.DEPTH_IMAGES = False
pillow_heif.options.AUX_IMAGES = False

TRANSPOSE = {  # EXIF 2.32, tag Orientation -> the operation that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112


class Still(NamedTuple):
    """A still image whose header has been read."""

    image: ImageFile.ImageFile
    #: EXIF orientation from 1 to 8; 1 if the reader makes the image upright.
    orientation: int = 1


class _JpegReader(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Do nothing. Pillow would parse all of the EXIF on opening, and warn about every invalid tag."""


class _EndlessJpegReader(_JpegReader):
    """A JPEG without its end marker. It loads if its pixels at half the size are the same with two endings."""

    def __init__(self, file: bytes, other: bytes) -> None:
        self._both: tuple[bytes, bytes] | None = file, other
        super().__init__(BytesIO(file))

    def load(self) -> "Image.core.PixelAccess | None":  # pyright: ignore[reportPrivateImportUsage]
        if self._both:
            both, self._both = self._both, None
            first, second = (_digest(file) for file in both)  # one after the other, so that one is held at a time
            if first != second:
                raise OSError("pixels are missing")
        return super().load()


def _digest(jpeg: bytes) -> bytes:
    image = _JpegReader(BytesIO(jpeg))
    image.draft(None, (image.width // 2, image.height // 2))
    return hashlib.sha256(image.tobytes()).digest()


def open_still(data: bytes, mime: str) -> Still:
    """Read the header of a still image of a known type.

    Raises:
        UnsupportedMedia: It is coded in a way that is not decoded.
        MediaTooLarge: Parsing it would take long.
        BrokenMedia: The file is damaged; so are other errors.
    """
    match mime:
        case "image/jpeg":
            check_jpeg(data)
            both = endings(data)
            return _with_exif(_EndlessJpegReader(*both) if both else _JpegReader(BytesIO(data)))
        case "image/png":
            return _with_exif(PngImagePlugin.PngImageFile(BytesIO(plain_png(data))))
        case "image/webp":
            return _with_exif(WebPImagePlugin.WebPImageFile(BytesIO(data)))
        case "image/gif":
            return Still(GifImagePlugin.GifImageFile(BytesIO(read_gif(data).plain)))
        case "image/tiff":
            return _tiff(data)
        case "image/heic":
            return Still(HeifImageFile(BytesIO(read_heif(data, mime).plain)))  # it applies rotation and mirroring
        case "image/avif":
            return _with_exif(AvifImagePlugin.AvifImageFile(BytesIO(read_heif(data, mime).plain)))
        case _:
            read_bmp(data)
            return Still(BmpImagePlugin.BmpImageFile(BytesIO(data)))


def _tiff(data: bytes) -> Still:
    tiff = read_tiff(data)
    try:
        image = TiffImagePlugin.TiffImageFile(BytesIO(tiff.plain))
    except SyntaxError as error:
        raise UnsupportedMedia(
            f"the TIFF has pixels of {tiff.bits} bits of an unusual kind; export it in RGB with 8 bits per channel"
        ) from error
    return Still(image, tiff.orientation if tiff.orientation in TRANSPOSE else 1)


def _with_exif(image: ImageFile.ImageFile) -> Still:
    """Return an image with its EXIF orientation; 1 if it is missing or invalid.

    Pillow would parse all tags to find one, and warn about invalid ones.
    """
    exif = image.info.get("exif")
    tiff = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""  # a PNG may hold text of that name
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return Still(image)
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for index in range(count):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, first + 2 + 12 * index)
            if tag == _ORIENTATION_TAG:
                return Still(image, value if value in TRANSPOSE else 1)
    except struct.error:
        pass
    return Still(image)
