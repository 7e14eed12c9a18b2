"""Media made by code: small good files, odd ones that are still readable, and hostile ones with their error.

The first bytes of a file decide its type; bytes after the end of an image or clip are ignored.
"""

import base64
import gzip
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from itertools import repeat

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from tests.still_corpus import box, encoded, hostile_stills, odd_stills, picture


def exif(orientation: int, order: str = ">") -> bytes:
    """Return the minimal EXIF with the orientation of the camera."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


@cache
def clip(
    frames: int = 20,
    *,
    size: tuple[int, int] = (64, 48),
    fps: int = 10,
    kind: str = "mp4",
    codec: str = "libx264",
    gop: int = 5,
    movflags: str = "",
    sound: bool = False,
    m2ts: bool = False,
) -> bytes:
    """Return a clip whose frame number n has the grey level 10 * n, dimmed to black and back past 250."""
    file = BytesIO()
    options = ({"movflags": movflags} if movflags else {}) | ({"mpegts_m2ts_mode": "1"} if m2ts else {})
    with _scheduling_kept(), av.open(file, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), grey_of(number), np.uint8)
            grey[: size[1] // 4, : size[0] // 4] = (255, 0, 0)  # the top left corner, to detect rotation
            frame = VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            hum(container, audio)
    return file.getvalue()


@contextmanager
def _scheduling_kept() -> Iterator[None]:
    """Restore the scheduling of this thread: SVT-AV1 makes it real-time where it may, and children inherit that."""
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def grey_of(number: int) -> int:
    """Return the grey level of a frame of `clip`."""
    return abs((10 * number + 250) % 500 - 250)


@cache
def sound() -> bytes:
    """Return an MP4 with sound and no picture."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        hum(container, container.add_stream("aac", rate=8000, layout="mono"))
    return file.getvalue()


def patched(data: bytes, box: bytes, form: str, *values: int, skip: int = 4) -> bytes:
    """Return an MP4 with numbers written into its first box of that name, `skip` bytes behind the name."""
    at = data.index(box) + len(box) + skip
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def index_first(mp4: bytes) -> bytes:
    """Return an MP4 with its index moved before its frames."""
    start = mp4.index(b"moov") - 4
    end = start + int.from_bytes(mp4[start : start + 4], "big")
    first = int.from_bytes(mp4[:4], "big")  # of ftyp
    moov, at = mp4[start:end], 0
    while (at := moov.find(b"stco", at) + 4) > 4:
        (count,) = struct.unpack_from(">I", moov, at + 4)
        offsets = struct.unpack_from(f">{count}I", moov, at + 8)
        moved = struct.pack(f">{count}I", *(each + len(moov) for each in offsets))
        moov = moov[: at + 8] + moved + moov[at + 8 + len(moved) :]
    return mp4[:first] + moov + mp4[first:start] + mp4[end:]


def edited(mp4: bytes, edits: Sequence[tuple[int, int]]) -> bytes:
    """Return an MP4 with an edit list (ISO/IEC 14496-12, 8.6.6).

    edits: duration in milliseconds, and start in the track's own time units; a start of -1 shows nothing.
    """
    entries = b"".join(struct.pack(">IiHH", duration, start, 1, 0) for duration, start in edits)
    return refilled(mp4, (b"moov", b"trak", b"edts", b"elst"), struct.pack(">II", 0, len(edits)) + entries)


def raw_png(width: int, height: int, depth: int, colour: int, rows: Iterable[bytes]) -> bytes:
    """Return a PNG from raw rows, for the kinds that Pillow does not write."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" + row) for row in rows) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a good PNG with further chunks (name, content) before its image data."""
    data = encoded(picture(), "PNG")
    return data[:33] + b"".join(_chunk(name, body) for name, body in chunks) + data[33:]


def jpeg_resized(width: int, height: int) -> bytes:
    """Return a JPEG whose header claims another size."""
    data = encoded(picture())
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def jpeg_of_scans(repeats: int, image: Image.Image | None = None) -> bytes:
    """Return a progressive JPEG that repeats its last scan, which refines the same coefficients again and again."""
    data = encoded(image or picture(), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * repeats + data[-2:]


def webp_canvas(side: int) -> bytes:
    """Return an extended WebP whose canvas claims a size its picture does not have."""
    image = encoded(picture(), "WEBP")[12:]
    coded = (side - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + coded + coded + image
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mp4_reading_itself() -> bytes:
    """Return an MP4 in which every frame refers to all of the image data."""
    frames = 40
    data = clip(frames, gop=1)
    pictures = data.index(b"mdat") + 4
    size = int.from_bytes(data[pictures - 8 : pictures - 4], "big") - 8
    data = patched(patched(data, b"stsz", ">II", size, frames), b"stsc", ">IIII", 1, 1, 1, 1)
    chunks = struct.pack(">III", 0, frames, pictures) + struct.pack(">I", pictures) * (frames - 1)
    return refilled(data, (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco"), chunks)


def mp4_of_edits(samples: int = 30_000, edits: int = 600) -> bytes:
    """Return an MP4 of 30 kB whose edit list shows all its samples again and again."""
    data = edited(_of_tiny_samples(samples), [(2_000, 0)] * edits)
    return data + box(b"free", bytes(max(0, samples - len(data))))


def mp4_of_a_compressed_header(samples: int = 16_000_000) -> bytes:
    """Return an MP4 whose table of samples is in a compressed header (QuickTime file format)."""
    data = _of_tiny_samples(samples)
    start = data.index(b"moov") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    packed = box(b"cmvd", struct.pack(">I", end - start) + zlib.compress(data[start:end]))
    return data[:start] + box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + packed)) + data[end:]


def exif_bomb(entries: int = 2_000, size: int = 300_000) -> bytes:
    """Return a good JPEG whose EXIF has thousands of tags that all refer to the same long data."""
    tiff = tags_of_the_same(entries, size)
    room = 65_535 - 2 - 6
    parts = [b"Exif\0\0" + tiff[at : at + room] for at in range(0, len(tiff), room)]
    data = jpeg_with(0xE1, *parts)
    jfif = data.index(b"JFIF") - 4  # removed, because otherwise Pillow would not read the EXIF
    return data[:jfif] + data[jfif + 18 :]


def tags_of_the_same(entries: int = 2_000, size: int = 300_000) -> bytes:
    """Return TIFF tags, as in EXIF, that all refer to the same long data."""
    tags = b"".join(struct.pack(">HHII", 0xA000 + at % 0x5000, 7, size, 8) for at in range(entries))
    tiff = b"MM\0*" + struct.pack(">IH", 8, entries) + tags
    return tiff + bytes(size + 64 - len(tiff))


def jpeg_with(marker: int, *segments: bytes) -> bytes:
    """Return a good JPEG with further segments of a marker, 0xE0 to 0xEF or 0xFE, before its image data."""
    data = encoded(picture())
    more = (bytes((0xFF, marker)) + struct.pack(">H", len(each) + 2) + each for each in segments)
    return data[:2] + b"".join(more) + data[2:]


def mp4_pointing_at(url: str, form: bytes = b"url ") -> bytes:
    """Return an MP4 that refers to external media data (ISO/IEC 14496-12, 8.7.2) but contains them."""
    entry = box(form, b"\0\0\0\0" + (b"pictures\0" if form == b"urn " else b"") + url.encode() + b"\0")
    path = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    return refilled(clip(), path, struct.pack(">II", 0, 1) + entry)


def mov_of_references(url: str) -> bytes:
    """Return a QuickTime movie that contains only the address of another (QuickTime file format, reference movies)."""
    data = b"\0\0\0\0url " + struct.pack(">I", len(url) + 1) + url.encode() + b"\0"
    reference = box(b"rmra", box(b"rmda", box(b"rdrf", data)))
    return box(b"ftyp", b"qt  \0\0\2\0qt  ") + box(b"moov", reference)


def addressed_files(url: str) -> dict[str, tuple[bytes, type[MediaError] | None]]:
    """Return name -> bytes that contain a forbidden address, and the error; None where there is an image too."""
    return {
        "svg-of-a-url": (
            f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}" width="9" height="9"/></svg>'.encode(),
            UnsupportedMedia,
        ),
        "xml-of-an-entity": (
            f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "{url}">]><a>&b;</a>'.encode(),
            UnsupportedMedia,
        ),
        "hls-playlist": (f"#EXTM3U\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n".encode(), UnsupportedMedia),
        "dash-manifest": (f"<MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>".encode(), UnsupportedMedia),
        "concat-script": (f"ffconcat version 1.0\nfile {url}\n".encode(), UnsupportedMedia),
        "sdp": (f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\na=control:{url}\n".encode(), UnsupportedMedia),
        "mvg-script": (f"push graphic-context\nimage over 0,0 9,9 '{url}'\n".encode(), UnsupportedMedia),
        "bare-url": (url.encode(), UnsupportedMedia),
        "mov-of-references": (mov_of_references(url), BrokenMedia),
        "mp4-pointing-at-a-url": (mp4_pointing_at(url), None),
        "mp4-pointing-at-a-urn": (mp4_pointing_at(url, b"urn "), None),
        "mp4-pointing-at-a-file": (mp4_pointing_at("file:///etc/passwd"), None),
    }


@cache
def odd_files() -> dict[str, tuple[bytes, bytes]]:
    """Return name -> bytes with foreign data behind, beside or within them, and the plain file they decode as."""
    jpeg, png, webp, mp4 = encoded(picture()), encoded(picture(), "PNG"), encoded(picture(), "WEBP"), clip()
    webm = clip(kind="webm", codec="libvpx")
    page = b"<!doctype html><script>alert(1)</script><?php system('id'); ?>"
    profile = [b"ICC_PROFILE\0" + bytes((at, 60)) + bytes(65_000) for at in range(1, 61)]
    packed = zlib.compress(bytes(900_000), 9)
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    texts = [(b"zTXt", b"%d\0\0" % at + zlib.compress(bytes(2**20 - 16), 9)) for at in range(80)]
    return {
        "jpeg-then-zip": (jpeg + _zip(), jpeg),
        "jpeg-then-html": (jpeg + page, jpeg),
        "jpeg-then-pdf": (jpeg + b"%PDF-1.7\n%%EOF", jpeg),
        "jpeg-then-mp4": (jpeg + mp4, jpeg),
        "jpeg-then-jpeg": (jpeg + encoded(Image.new("RGB", (9, 9))), jpeg),
        "jpeg-with-html-in-a-comment": (jpeg_with(0xFE, page), jpeg),
        "jpeg-with-pdf-in-a-comment": (jpeg_with(0xFE, b"%PDF-1.7\n1 0 obj"), jpeg),
        "jpeg-exif-bomb": (exif_bomb(), jpeg),
        "jpeg-huge-icc": (jpeg_with(0xE2, *profile), jpeg),
        "png-then-zip": (png + _zip(), png),
        "png-exif-bomb": (png_with((b"eXIf", tags_of_the_same())), png),
        "png-packed-text": (png_with((b"zTXt", b"Comment\0\0" + packed)), png),
        "png-ztxt-bomb": (png_with((b"zTXt", b"Comment\0\0" + bomb)), png),
        "png-itxt-bomb": (png_with((b"iTXt", b"Comment\0\1\0\0\0" + bomb)), png),
        "png-iccp-bomb": (png_with((b"iCCP", b"profile\0\0" + bomb)), png),
        "png-of-many-texts": (png_with(*texts), png),
        "png-text-behind-its-pixels": (png[:-12] + _chunk(b"zTXt", b"a\0\0" + bomb) + png[-12:], png),
        "png-huge-chunk": (png_with((b"prVt", bytes(16 * 2**20))), png),
        "webp-then-zip": (webp + _zip(), webp),
        "webp-exif-bomb": (encoded(picture(), "WEBP", exif=b"Exif\0\0" + tags_of_the_same()), webp),
        "mp4-then-zip": (mp4 + _zip(), mp4),
        "mp4-then-html": (mp4 + page, mp4),
        "webm-then-zip": (webm + _zip(), webm),
        "mp4-of-table-names": (mp4 + box(b"free", b"stsz" * 500_000), mp4),
    } | odd_stills()


@cache
def hostile_files() -> dict[str, tuple[bytes, type[MediaError]]]:
    """Return name -> bytes that must be rejected under the default limits, and the expected error."""
    jpeg = encoded(picture(640, 480))
    png = encoded(Image.effect_noise((200, 150), 50), "PNG")
    webp = encoded(picture(640, 480), "WEBP")
    mp4 = clip()
    fragmented = clip(movflags="frag_keyframe+empty_moov+default_base_moof")
    billion = 1_000_000_000
    liar = patched(patched(mp4, b"stsz", ">II", 1, billion), b"stts", ">III", 1, billion, 1)
    page = b"<!doctype html><!-- "
    day = patched(patched(mp4, b"elst", ">I", 86_400_000, skip=8), b"stts", ">III", 1, 20, 4_320 * 10_240)
    from tests.clip_corpus import hostile_clips  # which is built from this module

    hostile: dict[str, tuple[bytes, type[MediaError]]] = {
        "empty": (b"", BrokenMedia),
        "one-byte": (b"\xff", UnsupportedMedia),
        "text": (b"not a picture, whatever the header says\n" * 20, UnsupportedMedia),
        "html": (b"<!doctype html><title>404</title>", UnsupportedMedia),
        "json": (json.dumps({"image": "none"}).encode(), UnsupportedMedia),
        "zeros": (bytes(4096), UnsupportedMedia),
        "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", UnsupportedMedia),
        "pdf-and-jpeg": (b"%PDF-1.7\n1 0 obj\nstream\n" + jpeg + b"\nendstream\n%%EOF", UnsupportedMedia),
        "gif-and-jpeg": (b"GIF89a" + jpeg, BrokenMedia),
        "html-and-jpeg": (page + jpeg + b" -->", UnsupportedMedia),
        "zip-and-jpeg": (_zip() + jpeg, UnsupportedMedia),
        "script-and-jpeg": (b"#!/bin/sh\n" + jpeg, UnsupportedMedia),
        "space-and-jpeg": (b"\n" + jpeg, UnsupportedMedia),
        "jpeg-as-base64": (base64.b64encode(jpeg), UnsupportedMedia),
        "jpeg-as-a-form": (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + jpeg, UnsupportedMedia),
        "zip": (_zip(), UnsupportedMedia),
        "gzip": (gzip.compress(jpeg, mtime=0), UnsupportedMedia),
        "jpeg-truncated": (jpeg[: len(jpeg) // 2], BrokenMedia),
        "jpeg-header-only": (jpeg[:20], BrokenMedia),
        "jpeg-garbage": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8, BrokenMedia),
        "jpeg-giant": (jpeg_resized(60_000, 60_000), MediaTooLarge),
        "jpeg-scan-bomb": (jpeg_of_scans(2_000), MediaTooLarge),
        "jpeg-of-large-scans": (jpeg_of_scans(89, Image.new("RGB", (7_000, 7_000))), MediaTooLarge),
        "jpeg-strip": (jpeg_resized(60_000, 800), MediaTooLarge),
        "png-tower": (raw_png(1, 400_000, 8, 2, repeat(bytes(3), 400_000)), MediaTooLarge),
        "png-strip": (raw_png(4_000_000, 1, 8, 2, [bytes(12_000_000)]), MediaTooLarge),
        "png-of-long-pixels": (raw_png(7_000, 7_000, 16, 6, repeat(bytes(56_000), 7_000)), MediaTooLarge),
        "png-truncated": (png[: len(png) // 2], BrokenMedia),
        "png-signature-only": (png[:8], BrokenMedia),
        "png-giant": (raw_png(20_000, 20_000, 4, 0, repeat(bytes(10_000), 20_000)), MediaTooLarge),
        "png-chunk-without-end": (png[:33] + struct.pack(">I", 2**31 - 1) + b"prVt" + png[33:], BrokenMedia),
        "webp-truncated": (webp[: len(webp) // 2], BrokenMedia),
        "webp-header-only": (webp[:16], BrokenMedia),
        "webp-giant": (webp_canvas(16_000), MediaTooLarge),
        "mp4-truncated": (mp4[: len(mp4) // 2], BrokenMedia),
        "mp4-without-index": (mp4[: mp4.index(b"moov") - 4], BrokenMedia),
        "mp4-without-data": (mp4[: mp4.index(b"mdat") - 4] + mp4[mp4.index(b"moov") - 4 :], BrokenMedia),
        "mp4-header-only": (mp4[:32], BrokenMedia),
        "mp4-without-frames": (patched(patched(mp4, b"stsz", ">II", 0, 0), b"stts", ">I", 0), BrokenMedia),
        "mp4-noise-for-pictures": (_noise(mp4), BrokenMedia),
        "mp4-sound-only": (sound(), BrokenMedia),
        "mp4-declares-a-billion-frames": (liar, MediaTooLarge),
        "mp4-fragment-of-a-billion-frames": (
            patched(fragmented, b"trun", ">II", 0, billion, skip=0),
            MediaTooLarge,
        ),
        "mp4-fragment-with-a-long-size": (patched(fragmented, b"trun", ">I", 1, skip=-8), MediaTooLarge),
        "mp4-of-many-edits": (mp4_of_edits(), MediaTooLarge),
        "jpeg-of-segments": (jpeg_with(0xFE, *[b""] * 500_000), MediaTooLarge),
        "jpeg-of-fill": (jpeg[:2] + b"\xff" * 2_000_000 + jpeg[2:], MediaTooLarge),
        "jpeg-of-junk": (jpeg[:20] + b"a" * 2_000_000 + jpeg[20:], MediaTooLarge),
        "jpeg-of-profiles": (
            jpeg_with(0xE2, *[b"ICC_PROFILE\0" + bytes((at, 255)) + bytes(65_000) for at in range(1, 256)]),
            MediaTooLarge,
        ),
        "jpeg-of-tables": (jpeg_with(0xDB, *[(b"\0" + bytes(range(1, 65))) * 1_000] * 100), MediaTooLarge),
        "png-of-chunks": (png_with(*[(b"prVt", b"")] * 200_000), MediaTooLarge),
        "mp4-of-boxes": (mp4 + box(b"free", b"") * 500_000, MediaTooLarge),
        "mp4-of-a-compressed-header": (mp4_of_a_compressed_header(), UnsupportedMedia),
        "mp4-too-long": (clip(fps=1, frames=130, gop=10), MediaTooLarge),
        "mp4-spread-over-a-day": (day, MediaTooLarge),
        "mp4-reading-itself": (mp4_reading_itself(), BrokenMedia),
        "mov-truncated": (clip(kind="mov")[:-40], BrokenMedia),
        "webm-header-only": (clip(kind="webm", codec="libvpx")[:44], BrokenMedia),
        "mp4-brand-and-zip": (box(b"ftyp", b"isom\0\0\2\0isom") + _zip(), BrokenMedia),
    }
    addressed = {name: (data, error) for name, (data, error) in addressed_files("http://127.0.0.1:9/").items() if error}
    return hostile | hostile_stills() | addressed | hostile_clips()


def _of_tiny_samples(count: int) -> bytes:
    """Return an MP4 that declares this many samples of one byte, all in one chunk."""
    data = patched(patched(clip(), b"stsz", ">II", 1, count), b"stts", ">III", 1, count, 1)
    return patched(data, b"stsc", ">IIII", 1, 1, count, 1)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def refilled(mp4: bytes, path: tuple[bytes, ...], content: bytes) -> bytes:
    """Return an MP4 with other content in the box at the end of the path, each the first of its name."""
    at = mp4.index(path[-1])
    end = at - 4 + int.from_bytes(mp4[at - 4 : at], "big")
    more = at + 4 + len(content) - end
    mp4 = mp4[: at + 4] + content + mp4[end:]
    for name in path:
        (old,) = struct.unpack_from(">I", mp4, mp4.index(name) - 4)
        mp4 = patched(mp4, name, ">I", old + more, skip=-8)
    return mp4


def _zip() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.jpg", encoded(picture()))
    return file.getvalue()


def _noise(mp4: bytes) -> bytes:
    """Return an MP4 with an intact index of invalid frames."""
    at = mp4.index(b"mdat")
    size = int.from_bytes(mp4[at - 4 : at], "big") - 8
    return mp4[: at + 4] + np.random.default_rng(0).bytes(size) + mp4[at + 4 + size :]


def hum(container: "av.container.OutputContainer", stream: "av.AudioStream") -> None:
    """Write a second of silence."""
    for _ in range(8):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = stream.rate
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
