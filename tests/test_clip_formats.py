"""The table of clip formats, and all that follow it."""

from pathlib import Path
from typing import Any

import pytest

from roadwork_serve.clip_formats import CLIP_CODECS, CLIP_FORMATS, CLIP_NAMES, CLIP_SUFFIXES, clip_format, format_of
from roadwork_serve.datasets.base import kind_of
from roadwork_serve.errors import UnsupportedMedia
from roadwork_serve.journal.media_files import media_suffix
from roadwork_serve.media import Clip, read, sniff
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus

CLIPS = {
    "MP4": corpus.clip(4),
    "MOV": corpus.clip(4, kind="mov"),
    "3GP": corpus.clip(4, kind="3gp"),
    "WebM": corpus.clip(4, kind="webm", codec="libvpx"),
    "MKV": corpus.clip(4, kind="matroska"),
    "MPEG-TS": corpus.clip(4, kind="mpegts"),
    "MPEG-PS": corpus.clip(4, kind="vob", codec="mpeg2video", fps=25),
    "AVI": corpus.clip(4, kind="avi", codec="mpeg4"),
}
# How PyAV calls the containers, and the encoders, sizes and rates of the codecs that the table of formats lists.
KINDS = {
    "MP4": "mp4",
    "MOV": "mov",
    "3GP": "3gp",
    "WebM": "webm",
    "MKV": "matroska",
    "MPEG-TS": "mpegts",
    "MPEG-PS": "vob",
    "AVI": "avi",
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264": ("libx264", {}),
    "H.265": ("libx265", {}),
    "VP8": ("libvpx", {}),
    "VP9": ("libvpx-vp9", {}),
    "AV1": ("libsvtav1", {"size": (128, 96)}),
    "MPEG-4": ("mpeg4", {}),
    "MPEG-2": ("mpeg2video", {"fps": 25}),
    "MPEG-1": ("mpeg1video", {"fps": 25}),
    "Motion JPEG": ("mjpeg", {}),
    "H.263": ("h263", {"size": (176, 144), "fps": 25}),
}
CONSOLE = Path(__file__).parents[1] / "roadwork_serve/console"


def test_every_format_is_told_by_its_bytes() -> None:
    assert [*CLIPS] == [each.name for each in CLIP_FORMATS]
    for each in CLIP_FORMATS:
        data = CLIPS[each.name]
        assert clip_format(data) == each == format_of(each.mime)
        assert sniff(data) == each.mime
        assert f".{media_suffix(data)}" == each.suffixes[0]
        assert set(each.codecs) <= set(CLIP_CODECS.values())


@pytest.mark.parametrize(
    ("format", "codec"), [(each.name, codec) for each in CLIP_FORMATS for codec in each.codecs], ids=str
)
def test_every_codec_that_the_table_lists_for_a_format_is_decoded(format: str, codec: str) -> None:
    encoder, settings = ENCODERS[codec]
    found = read(corpus.clip(4, kind=KINDS[format], codec=encoder, **settings), MediaLimits())
    assert isinstance(found, Clip)
    # AVI and MPEG-PS do not tell when a reordered frame of H.264 is shown, so two may have the same time.
    reordered = codec == "H.264" and format in ("AVI", "MPEG-PS")
    assert len(found.images) == 4 - reordered and not found.incomplete


def test_suffixes_are_clips_in_data_sets() -> None:
    assert {kind_of(f"a{suffix.upper()}") for suffix in CLIP_SUFFIXES} == {"clip"}
    assert kind_of("a.jpg") == "photo"


def test_the_console_accepts_every_format() -> None:
    page = (CONSOLE / "index.html").read_text()
    accepted = page.split('accept="')[1].split('"')[0].split(",")
    assert {each.mime for each in CLIP_FORMATS} | CLIP_SUFFIXES <= set(accepted)
    text = (CONSOLE / "classify.js").read_text()
    assert CLIP_NAMES in text


@pytest.mark.parametrize("lines", [1, 40, 400])
def test_text_is_no_transport_stream(lines: int) -> None:
    with pytest.raises(UnsupportedMedia, match="unknown format"):
        sniff(b"Good morning, GLASGOW. GGG\n" * lines)


@pytest.mark.parametrize("name", ["flv", "wmv", "bare-h264", "bare-mpeg2"])
def test_other_clips_are_named_with_a_cure(name: str) -> None:
    from tests.clip_corpus import hostile_clips

    with pytest.raises(UnsupportedMedia, match=r"MPEG-PS or AVI, for example converted with `ffmpeg -i CLIP out.mp4`"):
        sniff(hostile_clips()[name][0])
