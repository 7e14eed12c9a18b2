"""The first image of a TIFF (TIFF 6.0, and BigTIFF): what it declares, and the file with nothing but that image."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from roadwork_serve.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia

_COMPRESSIONS = frozenset((1, 5, 7, 8, 32946, 32773))  # none, LZW, JPEG, Deflate, Deflate, PackBits
JPEG_COMPRESSION = 7
_COLOURS = {0, 1, 2, 3, 5, 6}  # PhotometricInterpretation: grey, RGB, palette, CMYK, YCbCr
_RAW_COLOURS = {32803, 34892}  # colour filter array, linear raw
_RAW_TAGS = {50706, 50708}  # DNGVersion, UniqueCameraModel
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOUR, _STRIPS, _ORIENTATION = 254, 256, 257, 258, 259, 262, 273, 274
_SAMPLES, _TILES, _SUB_IFDS, _SAMPLE_FORMAT = 277, 324, 330, 339
_STRIP_SIZES, _TILE_SIZES = 279, 325
# What decoding needs: the above, sizes and positions of strips and tiles, predictor, palette, tables, subsampling.
_WANTED = frozenset(
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 529, 530, 532)
)
_SIZES = {1: 1, 3: 2, 4: 4, 5: 8, 16: 8}  # of the types of those tags: BYTE, SHORT, LONG, RATIONAL, LONG8
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_UNDEFINED = 7  # the type of JPEGTables
_MAX_TAGS = 4_000
_MAX_PARTS = 100_000  # strips or tiles; Pillow makes an object of each
_MAX_TABLES = 2**20  # bytes


class Tiff(NamedTuple):
    """The first image of a TIFF."""

    width: int
    height: int
    #: Bits of a stored pixel.
    bits: int
    #: Number of strips or tiles.
    parts: int
    #: As in EXIF.
    orientation: int
    compression: int
    #: Start and end of each strip or tile of a JPEG TIFF; None if they overlap or have no size.
    ranges: Sequence[tuple[int, int]] | None
    #: The file with no other image, and without metadata.
    plain: bytes


class _Entry(NamedTuple):
    kind: int
    count: int
    #: Position of its value, which may be elsewhere.
    at: int
    stored: bytes


def read_tiff(data: bytes) -> Tiff:
    """Read the first directory.

    Raises:
        BrokenMedia: It is damaged.
        UnsupportedMedia: The image is raw, or is coded in a way that is not decoded.
        MediaTooLarge: It has so many tags, strips or tiles that they would take long to parse.
    """
    try:
        return _read(data)
    except (struct.error, KeyError) as error:
        raise BrokenMedia("the TIFF is damaged or truncated; send the whole file") from error


def _read(data: bytes) -> Tiff:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    entries = _entries(data, order, big)

    def numbers(tag: int, default: int | None = None, most: int = 8) -> tuple[int, ...]:
        if tag not in entries and default is not None:
            return (default,)
        entry = entries[tag]
        return struct.unpack_from(f"{order}{min(entry.count, most)}{_NUMBERS[entry.kind]}", data, entry.at)

    _check_raw(data, entries, numbers(_COLOUR, 1)[0], numbers(_SUBFILE, 0)[0])
    compression, colour = numbers(_COMPRESSION, 1)[0], numbers(_COLOUR, 1)[0]
    if compression not in _COMPRESSIONS:
        raise UnsupportedMedia(f"the TIFF has compression {compression}; export it with LZW or Deflate")
    if colour not in _COLOURS:
        raise UnsupportedMedia(f"the TIFF has colors of kind {colour} (PhotometricInterpretation); export it in RGB")
    if set(numbers(_SAMPLE_FORMAT, 1)) - {1}:
        raise UnsupportedMedia("the TIFF has signed or floating-point pixels; export it in RGB with 8 bits per channel")
    samples, bits = numbers(_SAMPLES, 1)[0], numbers(_BITS, 1)
    if not 1 <= samples <= 5 or max(bits) > 16:
        raise UnsupportedMedia(
            f"the TIFF has {samples} channels of {max(bits)} bits; export it in RGB with 8 bits per channel"
        )
    parts = entries[_TILES if _TILES in entries else _STRIPS].count
    tables = sum(entry.count * _SIZES.get(entry.kind, 1) for tag, entry in entries.items() if tag in _WANTED)
    if parts > _MAX_PARTS or tables > _MAX_TABLES + 16 * parts:
        raise MediaTooLarge(f"the TIFF has {parts:,} strips or tiles, or large tables; export it with fewer")
    width, height = numbers(_WIDTH)[0], numbers(_HEIGHT)[0]
    if not width * height:
        raise BrokenMedia("the TIFF has no pixels; send the whole file")
    orientation = numbers(_ORIENTATION, 1)[0]
    ranges = None
    if compression == JPEG_COMPRESSION:
        starts_in, sizes_in = (_TILES, _TILE_SIZES) if _TILES in entries else (_STRIPS, _STRIP_SIZES)
        starts, sizes = numbers(starts_in, most=_MAX_PARTS), numbers(sizes_in, most=_MAX_PARTS)
        if len(starts) == len(sizes) and all(sizes) and sum(sizes) <= len(data):
            ranges = [(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    plain = _plain(data, order, big, entries)
    return Tiff(width, height, samples * max(bits), parts, orientation, compression, ranges, plain)


def _entries(data: bytes, order: str, big: bool) -> dict[int, _Entry]:
    """Return the tags of the first directory."""
    first = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, first)[0]
    if count > _MAX_TAGS:
        raise MediaTooLarge(f"the TIFF has {count:,} tags; export it again without metadata")
    length, room, at = (20, 8, first + 8) if big else (12, 4, first + 2)
    entries: dict[int, _Entry] = {}
    for _ in range(count):
        tag, kind, values = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, at)
        value = at + length - room
        if values * _SIZES.get(kind, 1) > room:
            (value,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, value)
        entries.setdefault(tag, _Entry(kind, values, value, data[at : at + length]))
        at += length
    return entries


def _check_raw(data: bytes, entries: dict[int, _Entry], colour: int, subfile: int) -> None:
    preview = subfile & 1 and _SUB_IFDS in entries  # the first image of a raw photo is a small preview
    if preview or colour in _RAW_COLOURS or _RAW_TAGS & entries.keys() or data[8:10] == b"CR":
        raise UnsupportedMedia("the bytes are a raw photo of a camera; export it as a JPEG")


def _plain(data: bytes, order: str, big: bool, entries: dict[int, _Entry]) -> bytes:
    """Return the file with a new directory at its end: of wanted tags only, and the only one."""
    kept = [entry.stored for tag, entry in sorted(entries.items()) if tag in _WANTED and _is_typed(entry)]
    start = len(data) + len(data) % 2
    count, position = ("Q", "Q") if big else ("H", "I")
    directory = struct.pack(f"{order}{count}", len(kept)) + b"".join(kept) + struct.pack(f"{order}{position}", 0)
    at = 8 if big else 4
    pointer = struct.pack(f"{order}{position}", start)
    return b"".join((data[:at], pointer, memoryview(data)[at + len(pointer) :], bytes(len(data) % 2), directory))


def _is_typed(entry: _Entry) -> bool:
    return entry.kind in _SIZES or entry.kind == _UNDEFINED
