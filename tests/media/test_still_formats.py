"""Still images of every format, as cameras, phones and editors write them."""

import random
import re
import struct
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.journal.media_files import media_suffix
from roadwork_serve.media import Photo, open_rgb, page, read, sniff, squash
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.media.header import read_header
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.still_formats import STILL_FORMATS, STILL_NAMES, still_format
from tests import corpus, still_corpus
from tests.media.test_media import difference, middle

LIMITS = MediaLimits()
CONSOLE = Path(__file__).parents[2] / "roadwork_serve/console"
KINDS = {"HEIC": "image/heic", "AVIF": "image/avif", "TIFF": "image/tiff", "BMP": "image/bmp", "GIF": "image/gif"}
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def read_photo(data: bytes, limits: MediaLimits = LIMITS) -> Photo:
    media = read(data, limits)
    assert isinstance(media, Photo)
    return media


def noisy(width: int = 320, height: int = 240) -> Image.Image:
    return Image.effect_noise((width, height), 60).convert("RGB")


@pytest.mark.parametrize("kind", KINDS)
class TestEveryFormat:
    def test_has_a_thumbnail_and_a_page(self, kind: str) -> None:
        image = corpus.picture(320, 200)
        data = corpus.encoded(image, kind)
        photo = read_photo(data)
        assert (photo.mime, photo.width, photo.height) == (KINDS[kind], 320, 200)
        assert difference(photo.thumb, squash(image, 224)) < 3
        made = page(data, MediaLimits(page_side=240))
        assert sniff(made) == "image/jpeg" and open_rgb(made).size == (240, 150)
        assert difference(open_rgb(data), image) < 3

    def test_is_limited_by_the_pixels_of_its_header(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = corpus.encoded(corpus.picture(300, 200), kind)
        header = read_header(data, KINDS[kind])
        assert header is not None and (header.width, header.height) == (300, 200)
        assert read_photo(data, MediaLimits(max_pixels=60_000)).width == 300
        monkeypatch.setattr("roadwork_serve.media.photo.open_still", lambda *a: pytest.fail("it was opened"))
        with pytest.raises(MediaTooLarge, match=r"300 x 200 = 60,000 pixels; at most 59,999 .*max_pixels"):
            read(data, MediaLimits(max_pixels=59_999))
        with pytest.raises(MediaTooLarge, match="max_aspect"):
            read(data, MediaLimits(max_aspect=1.4))

    def test_that_is_truncated_is_refused(self, kind: str) -> None:
        data = corpus.encoded(noisy(), kind)
        for share in (0.02, 0.1, 0.3, 0.6, 0.9):
            with pytest.raises((BrokenMedia, UnsupportedMedia)):
                read(data[: int(len(data) * share)], LIMITS)

    def test_that_is_damaged_raises_media_errors_only(self, kind: str) -> None:
        data = corpus.encoded(corpus.picture(), kind)
        draw = random.Random(3)
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(min(len(data), 400))
                damaged[at : at + draw.randint(0, 4)] = draw.choice([draw.randbytes(4), b"\xff" * 4, b"\0" * 4])
            try:
                media = read(bytes(damaged), MediaLimits(max_pixels=1_000_000))
            except MediaError:
                continue
            assert media.thumbs.shape == (1, 224, 224, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
class TestOrientation:
    @pytest.mark.parametrize("order", "<>")
    def test_of_a_tiff(self, orientation: int, order: str) -> None:
        grey = corpus.picture(96, 64).convert("L")
        mark = b"II*\0" if order == "<" else b"MM\0*"
        tags = {256: (4, 1, 96), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
        tags |= {274: (3, 1, orientation), 277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, 96 * 64)}
        if order == ">":  # a short value comes first in its field
            tags = {tag: (kind, 1, value << 16 if kind == 3 else value) for tag, (kind, _, value) in tags.items()}
        data = still_corpus.tiff(tags, grey.tobytes(), order)
        assert data.startswith(mark)
        upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
        photo = read_photo(data)
        assert (photo.width, photo.height) == upright.size == ((64, 96) if orientation > 4 else (96, 64))
        assert difference(photo.thumb, squash(upright, 224)) < 2
        assert difference(open_rgb(page(data, LIMITS)), upright) < 3

    @pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
    def test_of_a_phone_is_a_property_of_the_picture(self, orientation: int, kind: str) -> None:
        upright = corpus.picture(96, 64)
        stored = upright.transpose(TRANSPOSED[orientation]) if orientation > 1 else upright
        data = corpus.encoded(stored, kind, exif=corpus.exif(orientation))
        assert (b"irot" in data or b"imir" in data) == (orientation > 1)
        photo = read_photo(data)
        assert (photo.width, photo.height) == (96, 64)
        assert difference(photo.thumb, squash(upright, 224)) < 4
        assert difference(open_rgb(page(data, LIMITS)), upright) < 5


class TestHeic:
    def test_is_told_by_any_of_its_brands(self) -> None:
        data = corpus.encoded(corpus.picture(), "HEIC")
        for brand in (b"heic", b"heix", b"mif1", b"msf1"):
            assert read_photo(data[:8] + brand + data[12:]).mime == "image/heic"
        avif = corpus.encoded(corpus.picture(), "AVIF")
        assert read_photo(avif[:8] + b"mif1" + avif[12:]).mime == "image/avif"

    def test_in_tiles(self) -> None:
        image = corpus.picture(300, 200)
        data = corpus.encoded(image, "HEIC", tile_size=64)
        assert b"grid" in data
        photo = read_photo(data)
        assert (photo.width, photo.height) == (300, 200)
        assert difference(photo.thumb, squash(image, 224)) < 4

    def test_of_ten_bits(self) -> None:
        image = corpus.picture(96, 64)
        deep = pillow_heif.from_bytes("RGB;16", image.size, (np.asarray(image).astype(np.uint16) * 257).tobytes())
        file = BytesIO()
        deep.save(file, quality=80)
        assert difference(open_rgb(file.getvalue()), image) < 4

    @pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
    def test_puts_transparency_on_white(self, kind: str) -> None:
        image = Image.new("RGBA", (64, 64), (10, 20, 30, 0))
        image.paste((10, 20, 30, 255), (0, 0, 32, 64))
        opened = open_rgb(corpus.encoded(image, kind))
        assert opened.getpixel((60, 60)) == pytest.approx((255, 255, 255), abs=4)
        assert opened.getpixel((10, 60)) == pytest.approx((10, 20, 30), abs=12)

    def test_shows_the_picture_and_never_a_thumbnail_of_something_else(self) -> None:
        image = corpus.picture(640, 480)
        heif = pillow_heif.from_pillow(image)
        file = BytesIO()
        heif.save(file, quality=80, thumbnails=[256])
        assert difference(read_photo(file.getvalue()).thumb, squash(image, 224)) < 3
        assert pillow_heif.options.THUMBNAILS is False

    def test_reads_the_primary_picture_of_several(self) -> None:
        heif = pillow_heif.HeifFile()
        for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200)):
            heif.add_from_pillow(Image.new("RGB", (64, 64), colour))
        file = BytesIO()
        heif.save(file, quality=80, primary_index=1)
        assert middle(open_rgb(file.getvalue())) == pytest.approx((0, 200, 0), abs=12)

    def test_of_another_codec_is_named(self) -> None:
        with pytest.raises(UnsupportedMedia, match=r"codec jpeg, which is not decoded; export it as a JPEG"):
            read(still_corpus.hostile_stills()["heic-coded-as-jpeg"][0], LIMITS)


class TestTiff:
    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "1", "LA"])
    def test_of_every_kind(self, mode: str, compression: str | None) -> None:
        if compression == "jpeg" and mode not in ("RGB", "L", "CMYK"):
            pytest.skip("a JPEG has no such pixels")
        image = corpus.picture(120, 80).convert(mode)
        data = corpus.encoded(image, "TIFF", **({"compression": compression} if compression else {}))
        assert difference(open_rgb(data), image.convert("RGB")) < 6

    def test_in_big_form(self) -> None:
        data = corpus.encoded(corpus.picture(), "TIFF", big_tiff=True, tiffinfo={274: 6})
        assert data.startswith(b"II+\0")
        assert (read_photo(data).width, read_photo(data).height) == (48, 64)

    @pytest.mark.parametrize("order", "<>")
    def test_of_sixteen_bits(self, order: str) -> None:
        levels = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], f"{order}u2")
        tags = {256: (4, 1, 6), 257: (4, 1, 1), 258: (3, 1, 16), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
        tags |= {277: (3, 1, 1), 278: (4, 1, 1), 279: (4, 1, 12)}
        if order == ">":
            tags = {tag: (kind, 1, value << 16 if kind == 3 else value) for tag, (kind, _, value) in tags.items()}
        data = still_corpus.tiff(tags, levels.tobytes(), order)
        assert np.asarray(open_rgb(data))[0, :, 0].tolist() == [0, 0, 1, 127, 128, 255]

    @pytest.mark.parametrize("name", ["tiff-dng", "tiff-raw-colours", "tiff-raw-preview", "cr2", "cr3"])
    def test_that_is_a_raw_photo_is_refused_as_one(self, name: str) -> None:
        with pytest.raises(UnsupportedMedia, match="a raw photo of a camera; "):
            read(still_corpus.hostile_stills()[name][0], LIMITS)

    @pytest.mark.parametrize(
        ("tags", "message"),
        [
            ({"t259": (3, 1, 50000)}, "has compression 50000; export it with LZW or Deflate"),
            ({"t262": (3, 1, 8)}, "has colors of kind 8 .*; export it in RGB"),
            ({"t258": (3, 1, 32), "t339": (3, 1, 3)}, "has signed or floating-point pixels; export it in RGB"),
            ({"t258": (3, 1, 32)}, "has 1 channels of 32 bits; export it in RGB"),
            ({"t258": (3, 1, 7)}, "has pixels of 7 bits of an unusual kind; export it in RGB"),
        ],
    )
    def test_that_is_not_decoded_is_named(self, tags: dict[str, tuple[int, int, int]], message: str) -> None:
        with pytest.raises(UnsupportedMedia, match=f"the TIFF {message}"):
            read(still_corpus.grey_tiff(**tags), LIMITS)

    def test_bytes_of_its_pixels_are_limited(self) -> None:
        data = still_corpus.grey_tiff(100, 100, t258=(3, 1, 16), t277=(3, 1, 4))
        with pytest.raises(MediaTooLarge, match="the TIFF has 80,000 bytes of pixels; at most 40,000"):
            read(data, MediaLimits(max_pixels=10_000))

    @pytest.mark.parametrize("options", [{}, {"tiffinfo": {278: 16}}], ids=["one strip", "strips"])
    def test_bytes_behind_its_jpegs_are_no_scans(self, options: dict[str, object]) -> None:
        data = corpus.encoded(noisy(), "TIFF", compression="jpeg", **options)
        assert np.array_equal(read_photo(data + b"\xff\xda\0\x08" * 9_000).thumb, read_photo(data).thumb)

    @pytest.mark.parametrize("size", [0, 2**32 - 1])
    def test_scans_are_counted_where_sizes_are_wrong(self, size: int) -> None:
        data = still_corpus.tiff_of_jpeg_scans(2_000)
        at = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
        with pytest.raises(MediaTooLarge, match="JPEG scans"):
            read(data[:at] + struct.pack("<I", size) + data[at + 4 :], LIMITS)


class TestGif:
    def test_shows_its_first_frame(self) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in ((0, 200, 0), (200, 0, 0))]
        data = corpus.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert middle(open_rgb(data)) == (0, 200, 0)

    def test_puts_transparency_on_white(self) -> None:
        clear = Image.new("P", (32, 32), 5)
        clear.putpalette([9, 8, 7] * 256)
        assert middle(open_rgb(corpus.encoded(clear, "GIF", transparency=5))) == (255, 255, 255)

    def test_before_1989(self) -> None:
        data = corpus.encoded(corpus.picture(), "GIF").replace(b"GIF89a", b"GIF87a")
        assert read_photo(data).mime == "image/gif"


class TestBmp:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
    def test_of_every_depth(self, mode: str) -> None:
        image = corpus.picture(61, 40).convert(mode)
        assert difference(open_rgb(corpus.encoded(image, "BMP")), image.convert("RGB")) < 2

    def test_from_top_to_bottom(self) -> None:
        rows = still_corpus.bmp(64, 48)
        upside_down = bytearray(still_corpus.bmp(64, -48))
        upside_down[54 : 54 + 64 * 3] = b"\xff" * 64 * 3
        assert read_photo(rows).height == read_photo(bytes(upside_down)).height == 48
        assert open_rgb(bytes(upside_down)).getpixel((0, 0)) == (255, 255, 255)

    def test_letters_alone_are_no_bmp(self) -> None:
        with pytest.raises(UnsupportedMedia, match="unknown format"):
            sniff(b"BMW drives past the road works\n" * 9)


class TestJpegEnd:
    """JPEGs without their end marker: all pixels may be there."""

    @staticmethod
    def made(**options: object) -> bytes:
        return corpus.encoded(noisy(400, 300), quality=85, **options)

    KINDS = (
        {},
        {"progressive": True},
        {"restart_marker_blocks": 5},
        {"restart_marker_rows": 1},
        {"subsampling": 0},
        {"progressive": True, "restart_marker_rows": 2},
    )

    @pytest.mark.parametrize("options", KINDS)
    def test_is_not_needed(self, options: dict[str, object]) -> None:
        whole = self.made(**options)
        for data in (whole[:-2], whole[:-1], whole[:-2] + bytes(512), whole[:-2] + bytes(1)):
            assert np.array_equal(read_photo(data).thumb, read_photo(whole).thumb)
            assert page(data, LIMITS) == page(whole, LIMITS)

    @pytest.mark.parametrize("options", KINDS)
    @pytest.mark.parametrize("tail", [b"", bytes(40_000)], ids=["cut", "filled with zeros"])
    def test_is_no_excuse_for_missing_pixels(self, options: dict[str, object], tail: bytes) -> None:
        whole = self.made(**options)
        for share in (0.3, 0.5, 0.7, 0.9, 0.97):
            for task in (read, page):
                with pytest.raises(BrokenMedia):
                    task(whole[: int(len(whole) * share)] + tail, LIMITS)

    def test_a_file_may_not_end_between_restart_intervals_either(self) -> None:
        whole = self.made(restart_marker_blocks=5)
        ends = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)]
        for end in random.Random(0).sample(ends, 12):
            with pytest.raises(BrokenMedia):
                read(whole[:end], LIMITS)

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
    def test_a_short_cut_loses_no_pixels_or_is_refused(self, options: dict[str, object]) -> None:
        whole = self.made(**options)
        answered = [cut for cut in range(3, 51) if self.is_read_as(whole, whole[:-cut])]
        assert len(answered) < 12, "most of these cuts lose pixels"

    @staticmethod
    def is_read_as(whole: bytes, cut: bytes) -> bool:
        """Return whether a truncated photo is read, and check that it has the pixels of the whole."""
        try:
            seen = open_rgb(cut)
        except BrokenMedia as error:
            assert "; " in str(error)
            return False
        assert np.array_equal(np.asarray(seen), np.asarray(open_rgb(whole)))
        return True

    def test_an_end_within_the_metadata_is_not_that_of_the_picture(self) -> None:
        data = corpus.jpeg_with(0xE1, b"Exif\0\0" + corpus.encoded(corpus.picture(16, 16)))
        assert read_photo(data[:-2]).width == 64

    def test_a_phone_s_second_picture_does_not_matter(self) -> None:
        image = corpus.picture(200, 100)
        data = corpus.encoded(image, "MPO", save_all=True, append_images=[image.rotate(180)])
        assert data.count(b"\xff\xd8\xff") == 2
        for part in (data, data[:-2], data[: len(data) * 3 // 4]):
            assert difference(read_photo(part).thumb, squash(image, 224)) < 2


class TestJpegScans:
    def test_are_counted_up_to_the_end_of_the_picture(self) -> None:
        """Entropy-coded video holds such bytes by chance, once in 64 KiB."""
        trailer = b"MotionPhoto_Data" + random.Random(7).randbytes(2**20) * 12
        assert trailer.count(b"\xff\xda") > 100
        progressive = corpus.encoded(noisy(), progressive=True)
        for data in (progressive, corpus.encoded(noisy()), corpus.encoded(noisy(), "MPO", save_all=True)):
            assert np.array_equal(read_photo(data + trailer).thumb, read_photo(data).thumb)

    @pytest.mark.parametrize(
        ("name", "coding"),
        [
            ("jpeg-arithmetic", "arithmetically"),
            ("jpeg-arithmetic-progressive", "arithmetically"),
            ("jpeg-lossless", "losslessly"),
            ("jpeg-hierarchical", "hierarchically"),
            ("jpeg-ls", "as JPEG-LS"),
            ("jpeg-of-12-bits", "with 12 bits per channel"),
            ("jpeg-progressive-of-12-bits", "with 12 bits per channel"),
        ],
    )
    def test_of_an_unusual_coding_are_named(self, name: str, coding: str) -> None:
        data, error = still_corpus.hostile_stills()[name]
        with pytest.raises(error, match=f"the JPEG is coded {coding}; export it as a baseline JPEG"):
            read(data, LIMITS)


class TestPngText:
    @pytest.mark.parametrize(
        "chunk", [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"), (b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0")]
    )
    def test_and_profiles_of_any_length_are_left_out(self, chunk: tuple[bytes, bytes]) -> None:
        import zlib

        packed = zlib.compress(b"<rdf:li>history entry, saved</rdf:li>" * 60_000)
        plain = corpus.png_with((b"eXIf", corpus.exif(6)[6:]))
        data = corpus.png_with((chunk[0], chunk[1] + packed), (b"eXIf", corpus.exif(6)[6:]), (chunk[0], b"broken"))
        photo = read_photo(data)
        assert (photo.width, photo.height) == (48, 64), "EXIF stays"
        assert np.array_equal(photo.thumb, read_photo(plain).thumb)


def test_a_jpeg_xl_is_named_in_its_container_and_without() -> None:
    for name in ("jxl", "jxl-in-a-container"):
        with pytest.raises(UnsupportedMedia, match="the bytes are a JPEG XL; send a JPEG, PNG, WebP, HEIC, "):
            read(still_corpus.hostile_stills()[name][0], LIMITS)


@pytest.mark.parametrize("name", still_corpus.hostile_stills())
def test_a_hostile_still_costs_little_time(name: str) -> None:
    data, error = still_corpus.hostile_stills()[name]
    began = time.thread_time()
    with pytest.raises(error):
        read(data, LIMITS)
    assert time.thread_time() - began < 1


async def test_a_confined_process_reads_each_format_again_and_again() -> None:
    pool = DecodePool(1)
    try:
        await pool.ready()
        before = pool.pids
        for kind in KINDS:
            data = corpus.encoded(noisy(1200, 900), kind)
            for _ in range(2):
                assert np.array_equal((await pool.read(data, LIMITS)).thumbs, read(data, LIMITS).thumbs), kind
                assert await pool.page(data, LIMITS) == page(data, LIMITS), kind
        assert pool.pids == before
    finally:
        await pool.aclose()


def test_a_picture_larger_than_its_header_says_is_not_decoded_without_bounds() -> None:
    """The codec's own header counts, which only the decoder reads."""
    for kind in ("HEIC", "AVIF"):
        data = corpus.encoded(noisy(640, 480), kind)
        small = still_corpus.heif_with(data, b"ispe", ">II", 64, 48)
        try:
            photo = read_photo(small, MediaLimits(max_pixels=10_000))
        except MediaError:
            continue
        assert photo.width * photo.height <= 10_000, kind


def test_every_format_is_told_by_its_bytes() -> None:
    names = [suffix for each in STILL_FORMATS for suffix in each.suffixes]
    assert len(names) == len(set(names))
    for each in STILL_FORMATS:
        data = corpus.encoded(corpus.picture(), each.name.upper())
        assert still_format(data) is each
        assert sniff(data) == each.mime
        assert f".{media_suffix(data)}" == each.suffixes[0]


def test_every_format_has_hostile_and_odd_files() -> None:
    for each in STILL_FORMATS:
        prefix = f"{each.name.lower()}-"
        assert sum(name.startswith(prefix) for name in corpus.hostile_files()) >= 3, each.name
        assert sum(name.startswith(prefix) for name in corpus.odd_files()) >= 1, each.name


def test_the_console_and_the_errors_name_every_format() -> None:
    accepted = (CONSOLE / "index.html").read_text()
    shown = (CONSOLE / "classify.js").read_text()
    with pytest.raises(UnsupportedMedia) as caught:
        sniff(b"%PDF-1.7")
    assert f"send a {STILL_NAMES} photo" in str(caught.value)
    for each in STILL_FORMATS:
        assert (each.mime in accepted and each.suffixes[0] in accepted) or each.name in ("JPEG", "PNG", "WebP", "GIF")
        assert each.name in shown


def test_the_exif_of_a_tiff_bomb_is_not_parsed() -> None:
    """Thousands of tags that share their data, which Pillow would copy for each."""
    tags = {40_000 + at: (7, 300_000, 8) for at in range(3_900)}
    data = still_corpus.grey_tiff(**{f"t{tag}": value for tag, value in tags.items()}) + bytes(300_000)
    began = time.thread_time()
    assert read_photo(data).width == 64
    assert time.thread_time() - began < 1
    assert struct.unpack_from("<H", data, struct.unpack_from("<I", data, 4)[0])[0] > 3_900
