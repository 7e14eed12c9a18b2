"""The items of a HEIF or AVIF (ISO/IEC 23008-12): what its picture consists of, before anything is decoded."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from roadwork_serve.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia

CODED = {"image/heic": b"hvc1", "image/avif": b"av01"}  # the type of coded items
_DERIVED = frozenset((b"grid", b"iden", b"iovl"))
_METADATA = frozenset((b"Exif", b"mime", b"uri "))
_NO_METADATA = b"skip"
_MAX_BOXES = 10_000
_MAX_ITEMS = 1_000  # libheif accepts no more
_MAX_TILES = 1_000  # decoded for the picture; a phone writes about 200 for 48 megapixels
_MAX_DEPTH = 8  # of pictures derived from others
_BROKEN = "the photo is damaged or truncated; send the whole file"


@dataclass(slots=True)
class _Items:
    """The parts of a `meta` box."""

    primary: int | None = None
    #: Item -> its type.
    types: dict[int, bytes] = field(default_factory=dict[int, bytes])
    #: Item -> the items that it is made of.
    parts: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    #: Sizes in the order of the properties, None for other properties.
    sizes: list[tuple[int, int] | None] = field(default_factory=list[tuple[int, int] | None])
    #: Item -> its properties, counted from 1.
    properties: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    #: Positions of the types of items that are metadata.
    metadata: list[int] = field(default_factory=list[int])


class Heif(NamedTuple):
    """The picture of a HEIF or AVIF."""

    #: Size of the largest picture in the file, as coded.
    width: int
    height: int
    #: Pixels that are decoded for the picture, with the edges of tiles.
    coded_pixels: int
    #: The file without EXIF and XMP; the orientation is a property of the picture.
    plain: bytes


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def read_heif(data: bytes, mime: str) -> Heif:
    """Read the items that the picture consists of.

    Raises:
        BrokenMedia: The file is damaged.
        UnsupportedMedia: The picture is coded in a way that is not decoded, or there are only moving ones.
        MediaTooLarge: The picture has so many tiles, or the file so many parts, that they would take long to decode.
    """
    try:
        meta = next((box for box in _boxes(data, 0, len(data)) if box.kind == b"meta"), None)
        if meta is None:
            raise UnsupportedMedia("the file has only a sequence of pictures, or is truncated; export one as a JPEG")
        items = _items(data, meta)
        return _heif(data, items, CODED[mime])
    except (struct.error, IndexError) as error:
        raise BrokenMedia(_BROKEN) from error


def _heif(data: bytes, items: _Items, codec: bytes) -> Heif:
    if items.primary is None or items.primary not in items.types:
        raise BrokenMedia(_BROKEN)
    coded = list(_coded(items, items.primary, _MAX_DEPTH))
    if len(coded) > _MAX_TILES:
        raise MediaTooLarge(f"the photo has more than {_MAX_TILES:,} tiles; export it as a JPEG")
    kinds = {items.types.get(item, b"none") for item in coded}
    if kinds != {codec}:
        names = ", ".join(sorted(kind.decode("ascii", "replace") for kind in kinds - {codec}))
        raise UnsupportedMedia(f"the photo has the codec {names or 'none'}, which is not decoded; export it as a JPEG")
    sizes = [size for size in items.sizes if size]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    if not width * height:
        raise BrokenMedia(_BROKEN)
    pixels = sum(_pixels(items, item) for item in coded)
    plain = bytearray(data) if items.metadata else data
    for at in items.metadata:
        plain[at : at + 4] = _NO_METADATA  # pyright: ignore[reportIndexIssue]
    return Heif(width, height, pixels, bytes(plain))


def _coded(items: _Items, item: int, depth: int) -> Iterator[int]:
    """Yield the coded items that an item is made of, each as often as it is decoded; too many if they never end."""
    if items.types.get(item) not in _DERIVED:
        yield item
        return
    if depth == 0:
        raise MediaTooLarge("the photo is derived from others again and again; export it as a JPEG")
    count = 0
    for part in items.parts.get(item, ()):
        for coded in _coded(items, part, depth - 1):
            yield coded
            count += 1
            if count > _MAX_TILES:
                return


def _pixels(items: _Items, item: int) -> int:
    sizes = [items.sizes[at - 1] for at in items.properties.get(item, ()) if 0 < at <= len(items.sizes)]
    width, height = next((size for size in sizes if size), (0, 0))
    return width * height


def _items(data: bytes, meta: _Box) -> _Items:
    items = _Items()
    for box in _boxes(data, meta.start + 4, meta.end):
        match box.kind:
            case b"pitm":
                items.primary = _number(data, box.start + 4, 4 if data[box.start] else 2)
            case b"iinf":
                _read_types(data, box, items)
            case b"iref":
                _read_references(data, box, items)
            case b"iprp":
                for part in _boxes(data, box.start, box.end):
                    if part.kind == b"ipco":
                        items.sizes = [_size(data, each) for each in _boxes(data, part.start, part.end)]
                    elif part.kind == b"ipma":
                        items.properties |= _associations(data, part)
            case _:
                pass
    return items


def _read_types(data: bytes, box: _Box, items: _Items) -> None:
    start = box.start + (8 if data[box.start] else 6)  # after version, flags and count
    for count, entry in enumerate(_boxes(data, start, box.end)):
        if count >= _MAX_ITEMS:
            raise MediaTooLarge(f"the photo's file has more than {_MAX_ITEMS:,} items; export it as a JPEG")
        version = data[entry.start]
        if entry.kind != b"infe" or version < 2:
            continue
        wide = 4 if version >= 3 else 2
        at = entry.start + 4 + wide + 2
        items.types[_number(data, entry.start + 4, wide)] = data[at : at + 4]
        if data[at : at + 4] in _METADATA:
            items.metadata.append(at)


def _read_references(data: bytes, box: _Box, items: _Items) -> None:
    wide = 4 if data[box.start] else 2
    for each in _boxes(data, box.start + 4, box.end):
        count = _number(data, each.start + wide, 2)
        if each.kind == b"dimg":
            first = each.start + wide + 2
            parts = struct.unpack_from(f">{count}{'I' if wide == 4 else 'H'}", data, first)
            items.parts.setdefault(_number(data, each.start, wide), parts[: _MAX_TILES + 1])


def _associations(data: bytes, box: _Box) -> Mapping[int, list[int]]:
    version, long_index = data[box.start], data[box.start + 3] & 1
    count, at = _number(data, box.start + 4, 4), box.start + 8
    found: dict[int, list[int]] = {}
    for _ in range(min(count, _MAX_ITEMS)):
        item = _number(data, at, 4 if version else 2)
        at += 4 if version else 2
        length = 2 if long_index else 1
        at += 1
        indices = [_number(data, at + length * index, length) for index in range(data[at - 1])]
        found[item] = [index & (0x7FFF if long_index else 0x7F) for index in indices]  # without "essential"
        at += length * data[at - 1]
    return found


def _size(data: bytes, box: _Box) -> tuple[int, int] | None:
    if box.kind != b"ispe":
        return None
    width, height = struct.unpack_from(">II", data, box.start + 4)
    return width, height


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes in a part of the file."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = start + size if size else end
        if stop < content or stop > end:
            raise BrokenMedia(_BROKEN)
        yield _Box(kind, content, stop)
        start = stop
    raise MediaTooLarge(f"the photo's file has more than {_MAX_BOXES:,} boxes; export it as a JPEG")


def _number(data: bytes, at: int, length: int) -> int:
    if at + length > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + length], "big")
