"""Confinement of decoding processes: what they can still do, and what the kernel refuses them."""

import platform
import subprocess
import sys
from collections.abc import AsyncIterator

import numpy as np
import pytest
from PIL import Image

from roadwork_serve.errors import BrokenMedia
from roadwork_serve.media import confinement, read
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus
from tests.escaping_worker import ATTEMPTS, JPEG

LIMITS = MediaLimits()
ALLOWED = {"start a thread", "name a thread"}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in confinement._MACHINES, reason="the platform confines nothing"
)


@pytest.fixture
async def confined() -> AsyncIterator[DecodePool]:
    pool = DecodePool(1, "tests.escaping_worker")
    await pool.ready()
    yield pool
    await pool.aclose()


async def test_a_decoding_process_can_get_no_file_socket_or_process(confined: DecodePool) -> None:
    assert "seccomp" not in confined.lacks
    before, outcomes = confined.pids, {}
    for name in ATTEMPTS:
        with pytest.raises(BrokenMedia) as caught:
            await confined.read(JPEG + name.encode(), LIMITS)
        outcomes[name] = str(caught.value)
    wrong = {
        name: outcome
        for name, outcome in outcomes.items()
        if (outcome != "done" if name in ALLOWED else not outcome.startswith("PermissionError"))
    }
    assert not wrong
    assert confined.pids == before


def good_files() -> dict[str, bytes]:
    """Return a file of every kind that is decoded by code of its own."""
    picture = corpus.picture()
    clear = Image.new("P", (20, 20), 0)
    clear.info["transparency"] = 0
    stills = {
        "jpeg": corpus.encoded(picture, exif=corpus.exif(6), icc_profile=bytes(200), comment=b"a"),
        "jpeg progressive": corpus.encoded(picture, progressive=True),
        "jpeg cmyk": corpus.encoded(picture.convert("CMYK")),
        "jpeg grey": corpus.encoded(picture.convert("L")),
        "png palette": corpus.encoded(clear, "PNG", transparency=0),
        "png 16 bits": corpus.raw_png(8, 8, 16, 0, [bytes(16)] * 8),
        "png 16 bits of colour": corpus.raw_png(8, 8, 16, 6, [bytes(64)] * 8),
        "png text": corpus.png_with((b"tEXt", b"a\0b"), (b"iTXt", b"a\0\0\0\0\0b"), (b"eXIf", corpus.exif(3)[6:])),
        "webp": corpus.encoded(picture, "WEBP", exif=corpus.exif(3)),
        "webp lossless": corpus.encoded(picture.convert("RGBA"), "WEBP", lossless=True),
        "webp animated": corpus.encoded(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)]),
    }
    stills |= {
        "jpeg without an end": corpus.encoded(picture)[:-2],
        "heic": corpus.encoded(picture, "HEIC", exif=corpus.exif(6)),
        "heic in tiles": corpus.encoded(corpus.picture(300, 200), "HEIC", tile_size=64),
        "heic with transparency": corpus.encoded(picture.convert("RGBA"), "HEIC"),
        "avif": corpus.encoded(picture, "AVIF", exif=corpus.exif(6)),
        "avif animated": corpus.encoded(picture, "AVIF", save_all=True, append_images=[picture.rotate(90)]),
        "gif": corpus.encoded(picture, "GIF"),
        "gif with transparency": corpus.encoded(clear, "GIF", transparency=0),
        "bmp": corpus.encoded(picture, "BMP"),
        "bmp palette": corpus.encoded(picture.convert("P"), "BMP"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        stills[f"tiff {compression}"] = corpus.encoded(picture, "TIFF", compression=compression)
    stills |= {
        f"tiff {mode}": corpus.encoded(picture.convert(mode), "TIFF") for mode in ("1", "L", "P", "RGBA", "CMYK")
    }
    stills |= {f"png {mode}": corpus.encoded(picture.convert(mode), "PNG") for mode in ("1", "L", "LA", "RGBA", "P")}
    clips = {
        "h264": corpus.clip(),
        "h264 large": corpus.clip(size=(640, 480)),
        "h264 with sound": corpus.clip(sound=True),
        "h264 in fragments": corpus.clip(movflags="frag_keyframe+empty_moov+default_base_moof"),
        "hevc": corpus.clip(codec="libx265"),
        "mpeg4": corpus.clip(codec="mpeg4"),
        "vp8": corpus.clip(kind="webm", codec="libvpx"),
        "vp9": corpus.clip(kind="webm", codec="libvpx-vp9"),
        "av1": corpus.clip(codec="libsvtav1"),
        "mkv with sound": corpus.clip(kind="matroska", sound=True),
        "transport stream": corpus.clip(kind="mpegts", sound=True),
        "m2ts": corpus.clip(kind="mpegts", m2ts=True),
        "mpeg2": corpus.clip(kind="vob", codec="mpeg2video", fps=25),
        "mpeg1": corpus.clip(kind="mpeg", codec="mpeg1video", fps=25),
        "avi of mjpeg": corpus.clip(kind="avi", codec="mjpeg"),
        "avi of mpeg4": corpus.clip(kind="avi", codec="mpeg4"),
        "3gp": corpus.clip(kind="3gp"),
        "truncated": corpus.clip(80, kind="mpegts")[:-1000],
    }
    return stills | clips | {name: data for name, (data, _) in corpus.odd_files().items()}


async def test_a_decoding_process_decodes_every_format() -> None:
    """Also what it decodes first: it must have imported everything before it was confined."""
    files = good_files()
    pool = DecodePool(1)
    try:
        await pool.ready()
        before = pool.pids
        for name, data in files.items():
            media, wanted = await pool.read(data, LIMITS), read(data, LIMITS)
            assert np.array_equal(media.thumbs, wanted.thumbs), name
            assert media.images == wanted.images, name
        assert pool.pids == before
    finally:
        await pool.aclose()


async def test_missing_protections_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = DecodePool(2, "tests.bare_worker")
    try:
        await pool.ready()
        assert pool.lacks == ("Landlock",)
    finally:
        await pool.aclose()
    (line,) = [each.message for each in caplog.records if "Decoding processes run without" in each.message]
    assert line == "Decoding processes run without Landlock: the kernel or platform lacks it."


def test_landlock_alone_closes_the_file_system() -> None:
    program = """
import ctypes, os, sys
from roadwork_serve.media import confinement
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
if not confinement._restrict_files(libc):
    sys.exit("unsupported")
for path, flags in (("/etc/passwd", os.O_RDONLY), ("/tmp", os.O_RDONLY), ("/tmp/a", os.O_CREAT | os.O_WRONLY)):
    try:
        os.open(path, flags)
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "unsupported" in done.stderr:
        pytest.skip("the kernel has no Landlock")
    assert done.stdout.split() == ["refused"] * 3, done.stderr


def verdict(machine: str, call: str | int, *arguments: int, architecture: int | None = None) -> int:
    """Run the filter of a machine on a system call, as the kernel would, and return its verdict."""
    known = confinement._MACHINES[machine]
    number = known.calls[call] if isinstance(call, str) else call
    given = {0: number, 4: known.architecture if architecture is None else architecture}
    given |= {16 + 8 * at: value for at, value in enumerate(arguments)}
    steps, at, value = confinement._filter(known, pid=7), 0, 0
    while True:
        step, at = steps[at], at + 1
        match step.code:
            case confinement._LOAD_WORD:
                value = given[step.value]
            case confinement._RETURN:
                return step.value
            case code:
                holds = {0x15: value == step.value, 0x35: value >= step.value, 0x45: bool(value & step.value)}[code]
                at += step.yes if holds else step.no


ALLOW, REFUSE, ABSENT, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
OPEN_SOCKET_EXEC = {"x86_64": (257, 41, 59), "aarch64": (56, 198, 221)}  # openat, socket, execve


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_each_machine(machine: str) -> None:
    assert {verdict(machine, name) for name in confinement._ALWAYS if name in confinement._MACHINES[machine].calls} == {
        ALLOW
    }
    assert {verdict(machine, number) for number in OPEN_SOCKET_EXEC[machine]} == {REFUSE}
    assert verdict(machine, "clone3") == ABSENT == verdict(machine, 10_000)
    assert verdict(machine, "clone", 0x3D0F00) == ALLOW  # of pthread_create
    assert verdict(machine, "clone", 0x1200011) == REFUSE  # of fork
    for call in ("mmap", "mprotect", "pkey_mprotect"):
        assert (verdict(machine, call, 0, 0, 3), verdict(machine, call, 0, 0, 7)) == (ALLOW, REFUSE)
    assert (verdict(machine, "prlimit64", 0), verdict(machine, "prlimit64", 1)) == (ALLOW, REFUSE)
    assert (verdict(machine, "tgkill", 7), verdict(machine, "tgkill", 8)) == (ALLOW, REFUSE)
    assert (verdict(machine, "prctl", 15), verdict(machine, "prctl", 38)) == (ALLOW, REFUSE)
    assert verdict(machine, "read", architecture=0x40000003) == KILL  # of 32-bit code
