"""Still images made by code: odd ones that are readable, and hostile ones with their error.

`tests.corpus` has all files of all formats, these among them.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO

import pillow_heif
from PIL import Image

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia

BILLION = 1_000_000_000


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Return an image whose orientation is visible: red above with a white top left corner, blue below."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 30, 200), (0, height // 2, width, height))
    image.paste((255, 255, 255), (0, 0, width // 4, height // 4))
    return image


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return the bytes of an image in a format that Pillow writes, or of a HEIC."""
    file = BytesIO()
    if kind == "HEIC":
        pillow_heif.from_pillow(image).save(file, quality=80, enc_params={"preset": "ultrafast"}, **options)
    else:
        image.save(file, kind, **options)
    return file.getvalue()


def box(kind: bytes, content: bytes) -> bytes:
    """Return a box of an MP4 or HEIF."""
    return struct.pack(">I", len(content) + 8) + kind + content


def heif(
    items: Sequence[tuple[bytes, tuple[int, int]]],
    *,
    primary: int = 1,
    parts: Mapping[int, Sequence[int]] | None = None,
    brand: bytes = b"heic",
    more: bytes = b"",
) -> bytes:
    """Return a HEIF without pixels: items of a type and a size, numbered from 1, and the items they consist of."""
    entries = b"".join(
        box(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, kind)) for number, (kind, _) in enumerate(items, 1)
    )
    sizes = b"".join(box(b"ispe", struct.pack(">III", 0, *size)) for _, size in items)
    uses = b"".join(struct.pack(">HBB", number, 1, number) for number in range(1, min(len(items), 127) + 1))
    uses = struct.pack(">II", 0, min(len(items), 127)) + uses
    references = b"".join(
        box(b"dimg", struct.pack(f">HH{len(to)}H", item, len(to), *to)) for item, to in (parts or {}).items()
    )
    content = (
        box(b"pitm", struct.pack(">IH", 0, primary))
        + box(b"iinf", struct.pack(">IH", 0, len(items) & 0xFFFF) + entries)
        + (box(b"iref", bytes(4) + references) if references else b"")
        + box(b"iprp", box(b"ipco", sizes) + box(b"ipma", uses))
        + more
    )
    return box(b"ftyp", brand + b"\0\0\0\0mif1" + brand) + box(b"meta", bytes(4) + content) + box(b"mdat", bytes(99))


def heif_with(data: bytes, name: bytes, form: str, *values: int, skip: int = 4) -> bytes:
    """Return a HEIF with numbers written into each box of that name, `skip` bytes behind the name."""
    parts, at = bytearray(data), 0
    while (at := data.find(name, at) + 1) > 0:
        struct.pack_into(form, parts, at - 1 + len(name) + skip, *values)
    return bytes(parts)


def with_xmp_and_exif(kind: str, size: int) -> bytes:
    """Return a photo with this much metadata; in a HEIC, with an orientation in EXIF, which does not count there."""
    if kind == "HEIC":
        upright, turned = (struct.pack(">HHIHHI", 0x0112, 3, 1, value, 0, 0) for value in (1, 6))
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + upright
        return encoded(picture(), kind, exif=exif, xmp=b"<x:xmpmeta>" + bytes(size)).replace(upright, turned)
    return encoded(picture(), kind, exif=b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 0) + bytes(size))


def tiff(tags: Mapping[int, tuple[int, int, int]], pixels: bytes = b"", order: str = "<", after: int = 0) -> bytes:
    """Return a TIFF of one directory: tag -> type, count, and the value or its position."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(f"{order}HHII", tag, *tags[tag]) for tag in sorted(tags))
    start = 8 + len(pixels) + len(pixels) % 2
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", after)
    return mark + struct.pack(f"{order}I", start) + pixels + bytes(len(pixels) % 2) + directory


def grey_tiff(width: int = 64, height: int = 48, **more: tuple[int, int, int]) -> bytes:
    """Return an uncompressed TIFF of zeros; `more` has further tags, written as t259=(type, count, value)."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    tags |= {277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, width * height)}
    tags |= {int(name[1:]): value for name, value in more.items()}
    return tiff(tags, bytes(min(width * height, 64 * 48)))


def tiff_of_jpeg_scans(repeats: int) -> bytes:
    """Return a TIFF whose strip is a progressive JPEG that repeats its last scan."""
    jpeg = encoded(picture(), progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    jpeg = jpeg[:last] + jpeg[last:-2] * repeats + jpeg[-2:]
    tags = {256: (4, 1, 64), 257: (4, 1, 48), 258: (3, 1, 8), 259: (3, 1, 7), 262: (3, 1, 6), 273: (4, 1, 8)}
    return tiff(tags | {277: (3, 1, 3), 278: (4, 1, 48), 279: (4, 1, len(jpeg))}, jpeg)


def raw_big_tiff(count: int) -> bytes:
    """Return a BigTIFF that claims this many tags."""
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, count) + bytes(200)


def gif(*blocks: bytes, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a GIF with these blocks before its frame, and a screen of another size."""
    data = encoded(picture(), "GIF")
    start = 13 + (3 << (data[10] & 7) + 1)
    return data[:6] + struct.pack("<HH", *size) + data[10:start] + b"".join(blocks) + data[start:]


def gif_comment(length: int) -> bytes:
    """Return a comment of many blocks of one byte."""
    return b"!\xfe" + b"\x01a" * length + b"\0"


def bmp(width: int = 64, height: int = 48, bits: int = 24, compression: int = 0, pixels: int | None = None) -> bytes:
    """Return a BMP of zeros, by default as many as its header claims."""
    pixels = (width * bits + 31) // 32 * 4 * abs(height) if pixels is None else pixels
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, pixels, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + pixels, 0, 0, 54) + header + bytes(pixels)


@cache
def odd_stills() -> dict[str, tuple[bytes, bytes]]:
    """Return name -> bytes with foreign data behind, beside or within them, and the plain file they decode as."""
    heic, avif, gif_, tiff_, bmp_ = (encoded(picture(), kind) for kind in ("HEIC", "AVIF", "GIF", "TIFF", "BMP"))
    video = b"MotionPhoto_Data" + b"\xff\xda\0\x08" * 9_000
    progressive = encoded(picture(), progressive=True)
    tagged = grey_tiff(**{f"t{40_000 + at}": (7, 3_000, 0) for at in range(3_000)})
    frames = [picture().rotate(at % 2 * 90) for at in range(2_000)]
    return {
        "jpeg-then-video": (encoded(picture()) + video, encoded(picture())),
        "jpeg-of-scans-then-video": (progressive + video, progressive),
        "heic-then-video": (heic + box(b"mpvd", video), heic),
        "heic-with-much-metadata": (with_xmp_and_exif("HEIC", 2 * 2**20), heic),
        "avif-then-zip": (avif + box(b"free", b"PK\3\4"), avif),
        "avif-with-much-metadata": (with_xmp_and_exif("AVIF", 2 * 2**20), avif),
        "gif-then-zip": (gif_ + b"PK\3\4" * 99, gif_),
        "gif-of-two-thousand-frames": (encoded(picture(), "GIF", save_all=True, append_images=frames), gif_),
        "gif-with-a-long-comment": (gif(gif_comment(100_000)), gif_),
        "tiff-then-zip": (tiff_ + b"PK\3\4" * 99, tiff_),
        "tiff-of-pages": (encoded(picture(), "TIFF", save_all=True, append_images=[picture().rotate(90)] * 300), tiff_),
        "tiff-of-tags-that-share-their-data": (tagged, grey_tiff()),
        "bmp-then-zip": (bmp_ + b"PK\3\4" * 99, bmp_),
    }


@cache
def hostile_stills() -> dict[str, tuple[bytes, type[MediaError]]]:
    """Return name -> bytes that must be rejected under the default limits, and the expected error."""
    noisy = Image.effect_noise((200, 150), 50)
    heic, avif, gif_, tiff_, bmp_ = (encoded(noisy, kind) for kind in ("HEIC", "AVIF", "GIF", "TIFF", "BMP"))
    small, side = (64, 64), (7_000, 7_000)
    tile, grid = (b"hvc1", small), (b"grid", small)
    clean = {"HEIC": encoded(picture(), "HEIC"), "AVIF": encoded(picture(), "AVIF")}
    lying = {kind: heif_with(data, b"ispe", ">II", 60_000, 50_000) for kind, data in clean.items()}
    long = {kind: heif_with(data, b"ispe", ">II", 60_000, 800) for kind, data in clean.items()}
    noise = {kind: data[: data.index(b"mdat") + 4] + b"\xa5" * 500 for kind, data in clean.items()}
    doubling = {at: [at + 1] * 2 for at in range(1, 41)}
    return {
        "heic-truncated": (heic[: len(heic) // 2], BrokenMedia),
        "heic-header-only": (heic[:32], UnsupportedMedia),
        "heic-noise-for-pixels": (noise["HEIC"], BrokenMedia),
        "heic-giant": (lying["HEIC"], MediaTooLarge),
        "heic-strip": (long["HEIC"], MediaTooLarge),
        "heic-without-pixels": (heif([tile]), BrokenMedia),
        "heic-of-nothing": (heif([]), BrokenMedia),
        "heic-of-no-size": (heif([(b"hvc1", (0, 9))]), BrokenMedia),
        "heic-of-boxes": (heif([tile], more=box(b"free", b"") * 20_000), MediaTooLarge),
        "heic-of-items": (heif([tile] * 3_000), MediaTooLarge),
        "heic-of-tiles": (heif([grid, tile], parts={1: [2] * 60_000}), MediaTooLarge),
        "heic-of-giant-tiles": (heif([(b"grid", side), (b"hvc1", side)], parts={1: [2] * 900}), MediaTooLarge),
        "heic-of-itself": (heif([grid], parts={1: [1]}), MediaTooLarge),
        "heic-doubling-itself": (heif([grid] * 40 + [tile], parts=doubling), MediaTooLarge),
        "heic-coded-as-jpeg": (heif([(b"jpeg", small)]), UnsupportedMedia),
        "heic-uncompressed": (heif([(b"unci", small)]), UnsupportedMedia),
        "heic-sequence": (box(b"ftyp", b"hevc\0\0\0\0hevc") + box(b"moov", bytes(40)), UnsupportedMedia),
        "heic-box-without-end": (heic[: heic[3]] + struct.pack(">I", 2**31) + heic[heic[3] + 4 :], BrokenMedia),
        "avif-truncated": (avif[: len(avif) // 2], BrokenMedia),
        "avif-header-only": (avif[:32], UnsupportedMedia),
        "avif-noise-for-pixels": (noise["AVIF"], BrokenMedia),
        "avif-giant": (lying["AVIF"], MediaTooLarge),
        "avif-strip": (long["AVIF"], MediaTooLarge),
        "avif-of-hevc": (heif([tile], brand=b"avif"), UnsupportedMedia),
        "avif-of-tiles": (heif([grid, (b"av01", small)], parts={1: [2] * 60_000}, brand=b"avif"), MediaTooLarge),
        "cr3": (box(b"ftyp", b"crx \0\0\0\1crx isom") + bytes(99), UnsupportedMedia),
        "tiff-truncated": (tiff_[: len(tiff_) // 2], BrokenMedia),
        "tiff-header-only": (tiff_[:8], BrokenMedia),
        "tiff-directory-behind-the-end": (b"II*\0\xff\xff\xff\x7f" + bytes(99), BrokenMedia),
        "tiff-of-no-size": (grey_tiff(0, 48), BrokenMedia),
        "tiff-giant": (grey_tiff(60_000, 60_000), MediaTooLarge),
        "tiff-strip": (grey_tiff(60_000, 800), MediaTooLarge),
        "tiff-of-tags": (tiff({at: (7, 30_000, 0) for at in range(256, 60_000)}), MediaTooLarge),
        "tiff-of-strips": (grey_tiff(t273=(4, 2_000_000, 8)), MediaTooLarge),
        "tiff-of-a-billion-strips": (grey_tiff(t273=(4, BILLION, 8)), MediaTooLarge),
        "tiff-of-a-large-palette": (grey_tiff(t320=(3, BILLION, 8)), MediaTooLarge),
        "tiff-of-long-pixels": (grey_tiff(7_000, 7_000, t258=(3, 1, 16), t277=(3, 1, 5)), MediaTooLarge),
        "tiff-of-jpeg-scans": (tiff_of_jpeg_scans(2_000), MediaTooLarge),
        "tiff-of-floats": (grey_tiff(t258=(3, 1, 32), t339=(3, 1, 3)), UnsupportedMedia),
        "tiff-of-channels": (grey_tiff(t277=(3, 1, 4_000)), UnsupportedMedia),
        "tiff-fax": (encoded(picture().convert("1"), "TIFF", compression="group4"), UnsupportedMedia),
        "tiff-lzma": (grey_tiff(t259=(3, 1, 34925)), UnsupportedMedia),
        "tiff-dng": (grey_tiff(t50706=(1, 4, 0x00000401)), UnsupportedMedia),
        "tiff-raw-colours": (grey_tiff(t262=(3, 1, 32803)), UnsupportedMedia),
        "tiff-raw-preview": (grey_tiff(t254=(4, 1, 1), t330=(4, 1, 8)), UnsupportedMedia),
        "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + grey_tiff()[-110:] + bytes(999), UnsupportedMedia),
        "bigtiff-of-tags": (raw_big_tiff(2**60), MediaTooLarge),
        "gif-truncated": (gif_[: len(gif_) // 2], BrokenMedia),
        "gif-header-only": (gif_[:13], BrokenMedia),
        "gif-without-a-frame": (gif_[:13] + bytes(768) + b";", BrokenMedia),
        "gif-giant-screen": (gif(size=(65_000, 65_000)), MediaTooLarge),
        "gif-giant-frame": (gif().replace(b",\0\0\0\0\x40\0\x30\0", b",\0\0\0\0\xf0\xf0\xf0\xf0"), MediaTooLarge),
        "gif-strip": (gif(size=(65_000, 100)), MediaTooLarge),
        "gif-of-comments": (gif(gif_comment(2_000_000)), MediaTooLarge),
        "gif-of-empty-comments": (gif(b"!\xfe\0" * 2_000_000), MediaTooLarge),
        "bmp-truncated": (bmp_[: len(bmp_) // 2], BrokenMedia),
        "bmp-header-only": (bmp_[:30], BrokenMedia),
        "bmp-giant": (bmp(60_000, 60_000, pixels=1_000), BrokenMedia),
        "bmp-strip": (bmp(60_000, 20), MediaTooLarge),
        "bmp-of-many-pixels": (bmp(8_000, 8_000, 1), MediaTooLarge),
        "bmp-run-length": (bmp(64, 48, 8, 1), UnsupportedMedia),
        "bmp-of-a-jpeg": (bmp(64, 48, 24, 4), UnsupportedMedia),
        "bmp-of-no-size": (bmp(0, 48), BrokenMedia),
        "jxl": (b"\xff\x0a" + bytes(99), UnsupportedMedia),
        "jxl-in-a-container": (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl " + bytes(99), UnsupportedMedia),
        "jpeg-arithmetic": (sof(0xC9), UnsupportedMedia),
        "jpeg-arithmetic-progressive": (sof(0xCA), UnsupportedMedia),
        "jpeg-lossless": (sof(0xC3), UnsupportedMedia),
        "jpeg-hierarchical": (sof(0xC5), UnsupportedMedia),
        "jpeg-ls": (sof(0xF7), UnsupportedMedia),
        "jpeg-of-12-bits": (sof(0xC1, 12), UnsupportedMedia),
        "jpeg-progressive-of-12-bits": (sof(0xC2, 12), UnsupportedMedia),
    }


def sof(marker: int, bits: int = 8) -> bytes:
    """Return a JPEG whose header claims another coding (ITU-T T.81, table B.1)."""
    data = encoded(picture())
    at = data.index(b"\xff\xc0") + 1
    return data[:at] + bytes((marker,)) + data[at + 1 : at + 3] + bytes((bits,)) + data[at + 4 :]
