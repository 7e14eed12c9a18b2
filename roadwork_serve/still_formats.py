"""Photo formats: names, media types, file suffixes, codings and limits, and how they are told by their first bytes.

The documentation and error messages are made from this list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StillFormat:
    """A format of still images."""

    name: str
    mime: str
    #: Suffixes of file names, the usual one first.
    suffixes: tuple[str, ...]
    #: Codings that are read.
    codecs: str
    #: The part that is read, and what is ignored.
    read: str
    #: Limits besides those of all formats, and what is refused.
    limits: str
    #: Memory that decoding takes, in bytes per pixel; measured, and rounded up.
    bytes_per_pixel: int


JPEG = StillFormat(
    "JPEG",
    "image/jpeg",
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "baseline and progressive, 8 bits",
    "the first picture; EXIF orientation. Also without its end marker, if all pixels are there. "
    "A video or further pictures behind it are ignored",
    "scans: 12 passes over `media.max_pixels`, and 100; 4 MiB of metadata. Refused: arithmetic, lossless and "
    "hierarchical coding, 12 bits",
    2,
)
PNG = StillFormat(
    "PNG",
    "image/png",
    (".png", ".apng"),
    "all; 16 bits are reduced to 8",
    "the first frame; EXIF orientation. Texts and color profiles are ignored",
    "4 bytes per pixel of `media.max_pixels`; 20,000 chunks",
    16,
)
WEBP = StillFormat(
    "WebP", "image/webp", (".webp",), "lossy and lossless", "the first frame; EXIF orientation", "none", 24
)
HEIC = StillFormat(
    "HEIC",
    "image/heic",
    (".heic", ".heif", ".hif"),
    "HEVC, 8 to 12 bits, in one piece or in tiles",
    "the primary picture; its rotation and mirroring. Thumbnails, depth maps, gain maps and EXIF are ignored",
    "1,000 tiles, twice `media.max_pixels` in all tiles; 1,000 items. Refused: other codecs, sequences without a still",
    24,
)
AVIF = StillFormat(
    "AVIF",
    "image/avif",
    (".avif",),
    "AV1, 8 to 12 bits, in one piece or in tiles",
    "the primary picture, or the first frame; its rotation and mirroring. EXIF is ignored",
    "as for HEIC",
    24,
)
TIFF = StillFormat(
    "TIFF",
    "image/tiff",
    (".tif", ".tiff"),
    "uncompressed, LZW, Deflate, PackBits, JPEG; 1 to 16 bits; also BigTIFF",
    "the first page; orientation. Metadata is ignored",
    "4 bytes per pixel of `media.max_pixels`; 100,000 strips or tiles. Refused: raw photos (DNG, NEF, CR2, ARW), "
    "floating point, other compressions",
    16,
)
BMP = StillFormat(
    "BMP",
    "image/bmp",
    (".bmp", ".dib"),
    "uncompressed, 1 to 32 bits",
    "all of it",
    "refused: run-length coding",
    16,
)
GIF = StillFormat(
    "GIF",
    "image/gif",
    (".gif",),
    "LZW",
    "the first frame. Comments are ignored",
    "1,000 extensions and 200,000 blocks up to the end of the first frame",
    16,
)
#: All formats that are read, in the order of their names in messages.
STILL_FORMATS = (JPEG, PNG, WEBP, HEIC, AVIF, TIFF, BMP, GIF)
STILL_BY_MIME: Mapping[str, StillFormat] = {each.mime: each for each in STILL_FORMATS}
STILL_SUFFIXES = frozenset(suffix for each in STILL_FORMATS for suffix in each.suffixes)
STILL_NAMES = ", ".join(each.name for each in STILL_FORMATS[:-1]) + f" or {STILL_FORMATS[-1].name}"

_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_NEUTRAL_BRANDS = frozenset((b"mif1", b"msf1"))  # they do not name the codec
_BMP_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))  # bytes, of versions 2 to 5


def still_format(data: bytes) -> StillFormat | None:
    """Return the format of a still image by its first bytes; None if it is none of `STILL_FORMATS`."""
    return next((each for magic, tell in _MAGIC.items() if data.startswith(magic) and (each := tell(data))), None)


def _heif(data: bytes) -> StillFormat | None:
    if data[4:8] != b"ftyp":
        return None
    brand = data[8:12]
    end = min(int.from_bytes(data[:4], "big"), 256)
    others = {data[at : at + 4] for at in range(16, end, 4)} if brand in _NEUTRAL_BRANDS else set[bytes]()
    if brand in _AVIF_BRANDS or others & _AVIF_BRANDS:
        return AVIF
    return HEIC if brand in _HEIF_BRANDS | _NEUTRAL_BRANDS else None


_MAGIC: Mapping[bytes, Callable[[bytes], StillFormat | None]] = {
    b"\xff\xd8\xff": lambda _: JPEG,
    b"\x89PNG\r\n\x1a\n": lambda _: PNG,
    b"RIFF": lambda data: WEBP if data[8:12] == b"WEBP" else None,
    b"GIF87a": lambda _: GIF,
    b"GIF89a": lambda _: GIF,
    b"II*\0": lambda _: TIFF,
    b"MM\0*": lambda _: TIFF,
    b"II+\0": lambda _: TIFF,  # BigTIFF
    b"MM\0+": lambda _: TIFF,
    b"BM": lambda data: BMP if int.from_bytes(data[14:18], "little") in _BMP_HEADERS else None,
    b"": _heif,
}
