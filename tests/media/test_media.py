import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from time import process_time

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media import Clip, Photo, open_rgb, page, read, sniff, squash
from roadwork_serve.media import clip as clip_module
from roadwork_serve.media.clip import evenly_spaced
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus

LIMITS = MediaLimits()
WITHIN_S = 1.0
STILLS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
CLIPS = {
    "mp4": ("video/mp4", lambda **more: corpus.clip(**more)),
    "fragmented mp4": ("video/mp4", lambda **more: corpus.clip(movflags="frag_keyframe+empty_moov", **more)),
    "mp4 of MPEG-4": ("video/mp4", lambda **more: corpus.clip(codec="mpeg4", **more)),
    "mp4 with sound": ("video/mp4", lambda **more: corpus.clip(sound=True, **more)),
    "mov": ("video/quicktime", lambda **more: corpus.clip(kind="mov", **more)),
    "webm of VP8": ("video/webm", lambda **more: corpus.clip(kind="webm", codec="libvpx", **more)),
    "webm of VP9": ("video/webm", lambda **more: corpus.clip(kind="webm", codec="libvpx-vp9", **more)),
    "3gp": ("video/3gpp", lambda **more: corpus.clip(kind="3gp", **more)),
    "mkv": ("video/x-matroska", lambda **more: corpus.clip(kind="matroska", **more)),
    "mpeg-ts": ("video/mp2t", lambda **more: corpus.clip(kind="mpegts", sound=True, **more)),
    "m2ts": ("video/mp2t", lambda **more: corpus.clip(kind="mpegts", m2ts=True, **more)),
    "avi of Motion JPEG": ("video/x-msvideo", lambda **more: corpus.clip(kind="avi", codec="mjpeg", **more)),
    "avi of MPEG-4": ("video/x-msvideo", lambda **more: corpus.clip(kind="avi", codec="mpeg4", **more)),
}
PHOTOS = Path(os.environ.get("ROADWORK_PHOTOS", Path(__file__).parents[3] / "shared/data/photos"))
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no real photos in {PHOTOS}; set ROADWORK_PHOTOS")


def read_photo(data: bytes, limits: MediaLimits = LIMITS) -> Photo:
    media = read(data, limits)
    assert isinstance(media, Photo)
    return media


def read_clip(data: bytes, limits: MediaLimits = LIMITS) -> Clip:
    media = read(data, limits)
    assert isinstance(media, Clip)
    return media


def difference(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    """Return the mean absolute difference of two images of the same size."""
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def middle(picture: Image.Image) -> tuple[int, ...]:
    colour = picture.getpixel((picture.width // 2, picture.height // 2))
    assert isinstance(colour, tuple)
    return colour


class TestPhotos:
    @pytest.mark.parametrize("kind", STILLS)
    def test_has_thumbnails_and_images_for_the_cascade(self, kind: str) -> None:
        image = corpus.picture(320, 200)
        data = corpus.encoded(image, kind)
        photo = read_photo(data)
        assert (photo.kind, photo.mime, photo.width, photo.height) == ("photo", STILLS[kind], 320, 200)
        assert photo.images == () and photo.timestamps_s == (0.0,)
        assert photo.thumbs.shape == (1, 224, 224, 3) and photo.thumbs.dtype == np.uint8
        assert difference(photo.thumb, squash(image, 224)) < 2
        assert difference(open_rgb(data), image) < 2

    @pytest.mark.parametrize("kind", STILLS)
    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("orientation", range(9))
    def test_rotates_upright(self, orientation: int, order: str, kind: str) -> None:
        data = corpus.encoded(corpus.picture(96, 64), kind, exif=corpus.exif(orientation, order))
        upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
        photo = read_photo(data)
        assert (photo.width, photo.height) == upright.size
        assert difference(photo.thumb, squash(upright, 224)) < 2
        opened = open_rgb(data)
        assert difference(opened, upright) == 0
        assert ImageOps.exif_transpose(opened).tobytes() == opened.tobytes()

    @given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"Exif\0\0MM\0*" + tail))
    def test_does_not_rotate_on_invalid_exif(self, exif: bytes) -> None:
        photo = read_photo(corpus.encoded(corpus.picture(), "PNG", exif=exif))
        assert {photo.width, photo.height} == {64, 48}

    @pytest.mark.parametrize(
        "exif", [b"", b"Exif\0\0", corpus.exif(99), corpus.exif(6)[:-8], b"Exif\0\0MM\0*\xff\xff\xff\xff"]
    )
    def test_does_not_rotate_on_broken_exif(self, exif: bytes) -> None:
        photo = read_photo(corpus.encoded(corpus.picture(), exif=exif))
        assert (photo.width, photo.height) == (64, 48)

    def test_does_not_read_an_exif_bomb(self) -> None:
        assert read_photo(corpus.exif_bomb()).width == 64

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_puts_transparency_on_white(self, kind: str) -> None:
        image = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
        image.paste((10, 20, 30, 255), (0, 0, 20, 40))
        image.paste((0, 0, 0, 128), (0, 0, 20, 10))
        data = corpus.encoded(image, kind, lossless=True)
        opened = open_rgb(data)
        assert opened.getpixel((39, 39)) == (255, 255, 255)
        assert opened.getpixel((10, 30)) == (10, 20, 30)
        assert opened.getpixel((10, 5)) == (127, 127, 127)
        assert read_photo(data).thumb[-1, -1].tolist() == [255, 255, 255]

    @pytest.mark.parametrize(
        ("mode", "colour", "transparent", "seen"),
        [
            ("LA", (100, 0), None, (255, 255, 255)),
            ("LA", (100, 255), None, (100, 100, 100)),
            ("L", 100, None, (100, 100, 100)),
            ("L", 100, 100, (255, 255, 255)),
            ("RGB", (1, 2, 3), (1, 2, 3), (255, 255, 255)),
            ("P", 5, 5, (255, 255, 255)),
            ("P", 5, bytes([255] * 5 + [0]), (255, 255, 255)),
            ("1", 1, None, (255, 255, 255)),
            ("1", 0, None, (0, 0, 0)),
        ],
    )
    def test_reads_every_kind_of_png(self, mode: str, colour: object, transparent: object, seen: tuple) -> None:
        image = Image.new(mode, (20, 20), colour)
        if mode == "P":
            image.putpalette([9, 8, 7] * 256)
        more = {} if transparent is None else {"transparency": transparent}
        assert middle(open_rgb(corpus.encoded(image, "PNG", **more))) == seen

    def test_scales_sixteen_bit_grey(self) -> None:
        levels = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)
        data = corpus.encoded(Image.fromarray(levels), "PNG")
        assert np.asarray(open_rgb(data))[0, :, 0].tolist() == [0, 0, 1, 127, 128, 255]
        assert read_photo(data).thumb.max() == 255

    def test_scales_sixteen_bit_colour(self) -> None:
        row = struct.pack(">HHH", 0x0100, 0x8000, 0xFFFF) * 8
        assert middle(open_rgb(corpus.raw_png(8, 8, 16, 2, [row] * 8))) == (1, 128, 255)

    def test_reads_a_cmyk_jpeg(self) -> None:
        data = corpus.encoded(corpus.picture(200, 100).convert("CMYK"), quality=95)
        assert difference(open_rgb(data), corpus.picture(200, 100)) < 3

    def test_reads_a_grey_jpeg(self) -> None:
        assert middle(open_rgb(corpus.encoded(Image.new("L", (32, 32), 77)))) == (77, 77, 77)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_uses_the_first_frame_of_an_animation(self, kind: str) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in ((0, 200, 0), (200, 0, 0), (0, 0, 200))]
        data = corpus.encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert read_photo(data).thumb[100, 100].tolist() == [0, 200, 0]

    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (60, 3000)])
    def test_reads_odd_shapes(self, size: tuple[int, int]) -> None:
        photo = read_photo(corpus.encoded(corpus.picture(*size)))
        assert (photo.width, photo.height) == size and photo.thumb.shape == (224, 224, 3)

    @pytest.mark.parametrize("size", [(4000, 3000), (1800, 3600), (4000, 300), (3000, 449), (460, 450)])
    def test_a_big_jpeg_is_decoded_small_but_never_too_small(
        self, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = Image.radial_gradient("L").resize(size).convert("RGB")
        data = corpus.encoded(image, quality=90)
        expected = squash(image, 224)
        decoded: list[tuple[int, int]] = []
        resize = Image.Image.resize
        monkeypatch.setattr(
            Image.Image, "resize", lambda self, *a, **k: (decoded.append(self.size), resize(self, *a, **k))[1]
        )
        assert difference(read_photo(data).thumb, expected) < 1
        ((width, height),) = decoded
        assert min(width, height) >= 224
        assert min(width, height) < 2 * 224 or (width, height) == (size[0] // 8, size[1] // 8)

    @pytest.mark.parametrize("kind", STILLS)
    @pytest.mark.parametrize(
        ("size", "shrunk"), [((1200, 800), (300, 200)), ((700, 1300), (162, 300)), ((200, 100), (200, 100))]
    )
    def test_open_rgb_shrinks_and_never_enlarges(
        self, size: tuple[int, int], shrunk: tuple[int, int], kind: str
    ) -> None:
        image = corpus.picture(*size)
        opened = open_rgb(corpus.encoded(image, kind), max_side=300)
        assert opened.size == shrunk
        assert difference(opened, image.resize(shrunk, Image.Resampling.BICUBIC)) < 2

    def test_open_rgb_requires_a_still(self) -> None:
        with pytest.raises(UnsupportedMedia, match="video/mp4"):
            open_rgb(corpus.clip())


class TestPages:
    @pytest.mark.parametrize("kind", STILLS)
    @pytest.mark.parametrize("size", [(4000, 1000), (1536, 900), (200, 150)])
    def test_are_new_bounded_jpegs(self, size: tuple[int, int], kind: str) -> None:
        image = corpus.picture(*size)
        made = page(corpus.encoded(image, kind), MediaLimits())
        opened = open_rgb(made)
        assert sniff(made) == "image/jpeg" and opened.size == (
            min(1536, size[0]),
            min(size[1], 1536 * size[1] // size[0]),
        )
        assert difference(squash(opened, 64), squash(image, 64)) < 3

    def test_keep_nothing_of_the_file_but_its_upright_pixels(self) -> None:
        data = corpus.encoded(corpus.picture(60, 40), exif=corpus.exif(6)) + b"a trailer"
        made = page(data, MediaLimits())
        assert open_rgb(made).size == (40, 60)
        assert b"Exif" not in made and b"trailer" not in made

    def test_obey_the_limits(self) -> None:
        data = corpus.encoded(corpus.picture(300, 200))
        with pytest.raises(MediaTooLarge, match="max_pixels"):
            page(data, MediaLimits(max_pixels=59_999))
        with pytest.raises(MediaTooLarge, match="max_bytes"):
            page(data, MediaLimits(max_bytes=len(data) - 1))
        assert open_rgb(page(data, MediaLimits(page_side=240))).size == (240, 160)
        with pytest.raises(BrokenMedia):
            page(data[:500], MediaLimits())


class TestLimits:
    @pytest.mark.parametrize("kind", STILLS)
    def test_pixels_are_counted_before_decoding(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = corpus.encoded(corpus.picture(300, 200), kind)
        assert read_photo(data, MediaLimits(max_pixels=60_000)).width == 300
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
        with pytest.raises(MediaTooLarge, match=r"300 x 200 = 60,000 pixels; at most 59,999 .*max_pixels"):
            read(data, MediaLimits(max_pixels=59_999))

    @pytest.mark.parametrize("kind", STILLS)
    @pytest.mark.parametrize("size", [(10, 501), (501, 10)])
    def test_long_strips_are_rejected_before_decoding(
        self, kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = corpus.encoded(corpus.picture(*size), kind)
        assert read_photo(data, MediaLimits(max_aspect=50.1)).width == size[0]
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
        with pytest.raises(MediaTooLarge, match=r"at most 50 times the shorter one \(max_aspect\)"):
            read(data, LIMITS)

    def test_clips_of_long_strips_are_rejected(self) -> None:
        with pytest.raises(MediaTooLarge, match=r"the clip has 1,024 x 16 pixels; .*max_aspect"):
            read(corpus.clip(size=(1024, 16)), LIMITS)

    def test_scans_of_a_jpeg_are_limited_by_its_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = corpus.jpeg_of_scans(30, corpus.picture(400, 250))  # of 100,000 pixels
        assert read_photo(data, MediaLimits(max_pixels=400_000)).width == 400
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
        with pytest.raises(MediaTooLarge, match="more than 24 scans of 100,000 pixels"):
            read(data, MediaLimits(max_pixels=200_000))

    def test_bytes_behind_a_jpeg_or_in_its_metadata_are_no_scans(self) -> None:
        scans = b"\xff\xda\0\x08" * 500
        assert read_photo(corpus.jpeg_with(0xE5, scans) + scans, MediaLimits(max_pixels=4_000)).width == 64

    @pytest.mark.parametrize(("depth", "colour", "fits"), [(8, 6, True), (16, 0, True), (16, 2, False), (16, 6, False)])
    def test_bytes_of_the_pixels_of_a_png(self, depth: int, colour: int, fits: bool) -> None:
        channels = {0: 1, 2: 3, 6: 4}[colour]
        data = corpus.raw_png(100, 100, depth, colour, [bytes(100 * channels * depth // 8)] * 100)
        limits = MediaLimits(max_pixels=10_000)
        if fits:
            assert read_photo(data, limits).width == 100
        else:
            with pytest.raises(MediaTooLarge, match="at most 40,000 are accepted; export it with 8 bits per channel"):
                read(data, limits)

    def test_bytes(self) -> None:
        data = corpus.encoded(corpus.picture())
        assert read_photo(data, MediaLimits(max_bytes=len(data))).width == 64
        with pytest.raises(MediaTooLarge, match=rf"{len(data)} bytes; at most {len(data) - 1} .*max_bytes"):
            read(data, MediaLimits(max_bytes=len(data) - 1))

    @pytest.mark.parametrize("kind", STILLS)
    def test_are_ours_instead_of_those_of_pillow(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = corpus.encoded(corpus.picture(40, 30), kind)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # warns from 700 pixels on and refuses from 1400
        assert read_photo(data).width == 40

    @pytest.mark.parametrize("name", ["mp4", "mov", "webm of VP9", "fragmented mp4", "mkv", "mpeg-ts", "avi of MPEG-4"])
    @pytest.mark.parametrize(
        ("limit", "message"),
        [
            ({"max_clip_frames": 39}, r"frames; at most 39 .*max_clip_frames"),
            ({"max_seconds": 3.5}, r"has 4 seconds; at most 3.5 .*max_seconds"),
            ({"max_pixels": 3071}, r"has 3,072 pixels per frame; at most 3,071 .*max_pixels"),
        ],
    )
    def test_of_clips_apply_before_decoding(
        self, name: str, limit: dict[str, float], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = CLIPS[name][1](frames=40)
        assert len(read_clip(data).frames) == 8
        monkeypatch.setattr(clip_module, "_decode", lambda *a: pytest.fail("it was decoded"))
        with pytest.raises(MediaTooLarge, match=message):
            read(data, LIMITS.model_copy(update=limit))

    def test_a_clip_with_larger_frames_than_its_header_declares_is_rejected(self) -> None:
        data = corpus.patched(corpus.clip(size=(320, 240)), b"avc1", ">HH", 32, 24, skip=4 + 4 + 4 + 16)
        with pytest.raises(MediaTooLarge, match=r"76,800 pixels per frame; at most 10,000 .*max_pixels"):
            read(data, MediaLimits(max_pixels=10_000))


class TestClips:
    @pytest.mark.parametrize("name", CLIPS)
    def test_samples_even_frames_with_their_times(self, name: str) -> None:
        mime, make = CLIPS[name]
        clip = read_clip(make(frames=24))
        assert (clip.kind, clip.mime, clip.width, clip.height) == ("clip", mime, 64, 48)
        assert clip.seconds == pytest.approx(2.4, abs=0.01)
        assert clip.timestamps_s == pytest.approx([0.1, 0.4, 0.7, 1.0, 1.2, 1.5, 1.8, 2.1], abs=0.01)
        assert clip.thumbs.shape == (8, 224, 224, 3) and clip.thumbs.dtype == np.uint8
        for time, image, thumb in zip(clip.timestamps_s, clip.images, clip.thumbs, strict=True):
            grey = corpus.grey_of(round(time * 10))
            assert thumb[150, 150].tolist() == pytest.approx([grey] * 3, abs=8)
            assert middle(open_rgb(image)) == pytest.approx((grey,) * 3, abs=8)

    @pytest.mark.parametrize(
        ("kind", "codec", "mime"),
        [
            ("vob", "mpeg2video", "video/mpeg"),
            ("mpeg", "mpeg1video", "video/mpeg"),
            ("mpegts", "mpeg2video", "video/mp2t"),
            ("avi", "libx264", "video/x-msvideo"),
            ("vob", "libx264", "video/mpeg"),  # several frames in a packet, of which one has a time
        ],
    )
    def test_reads_old_cameras(self, kind: str, codec: str, mime: str) -> None:
        clip = read_clip(corpus.clip(24, kind=kind, codec=codec, fps=25))
        assert (clip.mime, clip.width, clip.height) == (mime, 64, 48)
        assert clip.seconds == pytest.approx(0.96, abs=0.05)
        for time, thumb in zip(clip.timestamps_s, clip.thumbs, strict=True):
            assert thumb[150, 150].tolist() == pytest.approx([corpus.grey_of(round(time * 25))] * 3, abs=18)

    @pytest.mark.parametrize("name", CLIPS)
    def test_the_spacing_of_key_frames_changes_nothing(self, name: str) -> None:
        dense, sparse = (read_clip(CLIPS[name][1](frames=24, gop=gop)) for gop in (1, 100))
        assert dense.timestamps_s == sparse.timestamps_s
        assert difference(dense.thumbs, sparse.thumbs) < 3

    @pytest.mark.parametrize("frames", [1, 2, 7, 8])
    def test_a_short_clip_gives_all_its_frames(self, frames: int) -> None:
        clip = read_clip(corpus.clip(frames))
        assert clip.timestamps_s == pytest.approx([number / 10 for number in range(frames)])

    def test_frames_are_sent_no_larger_than_requested(self) -> None:
        clip = read_clip(corpus.clip(size=(640, 360)), MediaLimits(frames=2, frame_side=320))
        assert (clip.width, clip.height) == (640, 360)
        assert [open_rgb(image).size for image in clip.images] == [(320, 180)] * 2

    @pytest.mark.parametrize(
        ("matrix", "size", "corner"),
        [
            ((1, 0, 0, 1), (64, 48), (0, 0)),
            ((0, 1, -1, 0), (48, 64), (-1, 0)),  # a phone in portrait: rotate clockwise
            ((-1, 0, 0, -1), (64, 48), (-1, -1)),
            ((0, -1, 1, 0), (48, 64), (0, -1)),
        ],
    )
    def test_rotates_as_the_phone_was(self, matrix: tuple, size: tuple[int, int], corner: tuple[int, int]) -> None:
        a, b, c, d = (share * 0x10000 for share in matrix)  # QuickTime file format, track header: {a b u c d v x y w}
        data = corpus.patched(corpus.clip(kind="mov"), b"tkhd", ">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000, skip=40)
        clip = read_clip(data)
        assert (clip.width, clip.height) == size
        assert open_rgb(clip.images[0]).size == size
        red = clip.thumbs[0, corner[1], corner[0]].astype(int)  # numpy has the row first
        assert red[0] > 180 and red[1] < 80

    @pytest.mark.parametrize(
        ("edits", "shown"),
        [
            ([(2000, 0)], range(20)),
            ([(500, -1), (2000, 0)], range(20)),  # sound that begins half a second earlier
            ([(1000, 0)], range(10)),
            ([(500, 5120), (500, 15360)], [5, 6, 7, 8, 9, 15, 16, 17, 18, 19]),
        ],
    )
    def test_shows_only_the_trimmed_part(self, edits: list[tuple[int, int]], shown: Sequence[int]) -> None:
        data = corpus.edited(corpus.clip(20, codec="mpeg4"), edits)  # 10,240 units a second
        clip = read_clip(data, MediaLimits(frames=64))
        seen = [int(thumb[150, 150, 0]) for thumb in clip.thumbs]
        assert seen == pytest.approx([corpus.grey_of(number) for number in shown], abs=8)

    def test_a_clip_that_is_expensive_to_decode_gives_key_frames(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = corpus.clip(frames=100, gop=10, kind="webm", codec="libvpx")
        monkeypatch.setattr(clip_module, "_MAX_DECODED_PIXELS", 64 * 48 * 15)  # 15 of the 100 frames
        assert read_clip(data).timestamps_s == pytest.approx([0.6, 1, 3, 4, 5, 6, 8, 9])

    def test_a_damaged_section_does_not_fail_the_clip(self) -> None:
        data = bytearray(corpus.clip(frames=80, gop=10))
        start = data.index(b"mdat") + 4
        end = start + int.from_bytes(data[start - 8 : start - 4], "big") - 8
        stretch = slice(start + (end - start) // 2, start + (end - start) * 5 // 8)
        data[stretch] = bytes(stretch.stop - stretch.start)
        assert len(read_clip(bytes(data)).frames) >= 5

    def test_a_damaged_clip_that_crashes_threaded_decoders_is_read(self) -> None:
        data = (Path(__file__).parents[1] / "data/damaged_vp9.webm").read_bytes()
        assert all(read_clip(data).frames for _ in range(10))

    def test_reads_clips_and_photos_side_by_side(self) -> None:
        files = [make(frames=24) for _, make in CLIPS.values()] + [
            corpus.encoded(corpus.picture(500, 400), kind) for kind in STILLS
        ]
        alone = [read(data, LIMITS).thumbs for data in files]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda data: read(data, LIMITS).thumbs, files * 3))
        assert all(np.array_equal(one, other) for one, other in zip(alone * 3, together, strict=True))

    @given(st.lists(st.integers(-1000, 10**6), min_size=1, max_size=60, unique=True).map(sorted), st.integers(1, 64))
    def test_spread_picks_that_many_in_order(self, times: list[int], count: int) -> None:
        picked = evenly_spaced(times, count)
        assert len(picked) == min(count, len(times))
        assert list(picked) == sorted(set(picked)) and set(picked) <= set(times)

    @given(st.integers(1, 500), st.integers(1, 64))
    def test_spread_is_even(self, frames: int, count: int) -> None:
        picked = evenly_spaced(range(frames), count)
        gaps = np.diff([-0.5 - picked[0], *picked, 2 * frames - picked[-1] - 1.5])
        assert max(gaps[1:-1], default=1) - min(gaps[1:-1], default=1) <= 1
        assert abs(gaps[0] - gaps[-1]) <= 2


class TestHostileFiles:
    @pytest.mark.parametrize("name", corpus.hostile_files())
    def test_are_rejected_with_an_explanation(self, name: str) -> None:
        data, error = corpus.hostile_files()[name]
        began_s = process_time()
        with pytest.raises(MediaError) as caught:
            read(data, LIMITS)
        assert process_time() - began_s < WITHIN_S
        assert type(caught.value) is error
        assert "; " in str(caught.value), "the message names the problem and the fix"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mp4-declares-a-billion-frames", "declares 1,000,000,000 samples;"),
            ("mp4-of-many-edits", "declares 30,000 samples and edits them 600 times;"),
            ("mp4-of-a-compressed-header", "compressed header; export it again"),
        ],
    )
    def test_a_table_that_would_fill_the_memory_never_reaches_the_demuxer(
        self, name: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, error = corpus.hostile_files()[name]
        monkeypatch.setattr(clip_module.av, "open", lambda *a, **k: pytest.fail("it was opened"))
        with pytest.raises(error, match=message):
            read(data, LIMITS)

    @pytest.mark.parametrize("kind", STILLS)
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
    def test_truncated_photos(self, kind: str, share: float) -> None:
        data = corpus.encoded(Image.effect_noise((300, 200), 40), kind)
        with pytest.raises(MediaError):
            read(data[: int(len(data) * share)], LIMITS)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_nothing_but_media_errors_comes_out(self, draw: st.DataObject) -> None:
        seed = draw.draw(st.sampled_from(_seeds()))
        data = bytearray(seed[: draw.draw(st.integers(len(seed) // 4, len(seed)) | st.just(len(seed)))])
        for _ in range(draw.draw(st.integers(0, 6))):
            at = draw.draw(st.integers(0, len(data) - 1))
            data[at : at + draw.draw(st.integers(0, 4))] = draw.draw(
                st.binary(max_size=4) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"])
            )
        try:
            limits = MediaLimits(max_pixels=1_000_000)
            media = read(bytes(data), limits)
            images = media.images or (page(bytes(data), limits),)
        except MediaError:
            return
        assert media.thumbs.shape == (len(images), 224, 224, 3) == (len(media.timestamps_s), 224, 224, 3)


def _seeds() -> list[bytes]:
    picture = corpus.picture()
    return [
        corpus.encoded(picture, exif=corpus.exif(6)),
        corpus.encoded(picture.convert("CMYK"), progressive=True),
        corpus.encoded(picture, "PNG"),
        corpus.encoded(picture.convert("P"), "PNG", transparency=3),
        corpus.encoded(picture, "PNG", save_all=True, append_images=[picture.rotate(90)]),
        corpus.encoded(picture.convert("RGBA"), "WEBP", lossless=True, exif=corpus.exif(3)),
        corpus.encoded(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)]),
        *(make() for _, make in CLIPS.values()),
    ]


@needs_photos
class TestRealFiles:
    def test_photos_match_a_full_decode(self) -> None:
        files = sorted(PHOTOS.glob("*/*.jpg"))[::5]
        assert files
        for file in files:
            data = file.read_bytes()
            image = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
            photo = read_photo(data)
            assert (photo.width, photo.height) == image.size, file
            assert difference(photo.thumb, squash(image, 224)) < 3, file

    def test_clips_are_sampled_evenly(self) -> None:
        files = sorted(PHOTOS.glob("clips/*.mp4"))[::4]
        assert files
        for file in files:
            data = file.read_bytes()
            clip = read_clip(data)
            with av.open(BytesIO(data)) as container:
                duration = (container.duration or 0) / av.time_base
            assert clip.seconds == pytest.approx(duration, abs=0.1), file
            middles = [(part + 0.5) * duration / 8 for part in range(8)]
            assert clip.timestamps_s == pytest.approx(middles, abs=0.1), file
            assert clip.thumbs.std() > 20, file
