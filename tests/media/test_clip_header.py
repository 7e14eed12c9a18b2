"""The size of a clip by its header, of every format."""

import pytest

from roadwork_serve.media import sniff
from roadwork_serve.media.clip_header import read_clip_header
from roadwork_serve.media.decode_cost import decode_cost
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus

SIZE = (320, 240)
CLIPS = {
    "mp4": {},
    "mov": {"kind": "mov"},
    "3gp": {"kind": "3gp", "codec": "mpeg4"},
    "webm": {"kind": "webm", "codec": "libvpx"},
    "mkv": {"kind": "matroska"},
    "mpeg-ts of H.264": {"kind": "mpegts"},
    "m2ts of H.264": {"kind": "mpegts", "m2ts": True},
    "mpeg-ts of MPEG-2": {"kind": "mpegts", "codec": "mpeg2video", "fps": 25},
    "mpeg-ps": {"kind": "vob", "codec": "mpeg2video", "fps": 25},
    "avi": {"kind": "avi", "codec": "mjpeg"},
}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("sound", [False, True])
def test_size_and_cost(name: str, sound: bool) -> None:
    sound = sound and name in ("mp4", "mov", "mkv", "mpeg-ts of H.264")
    data = corpus.clip(8, size=SIZE, sound=sound, **CLIPS[name])
    mime = sniff(data)
    header = read_clip_header(data, mime)
    assert header is not None and (header.width, header.height) == SIZE
    assert header.frames in (0, 8)
    assert not decode_cost(data, mime, MediaLimits()).heavy


@pytest.mark.parametrize("word", [b"stsd", b"stsz"])
def test_words_in_a_note_are_no_sizes(word: bytes) -> None:
    data = corpus.clip(8, size=SIZE)
    start = data.index(b"moov") - 4
    note = corpus.box(b"udta", corpus.box(b"\xa9cmt", word + b"\x7f" * 80))
    data = data[:start] + corpus.box(b"moov", note + data[start + 8 :])
    assert read_clip_header(data, "video/mp4") == read_clip_header(corpus.clip(8, size=SIZE), "video/mp4")


@pytest.mark.parametrize("name", CLIPS)
def test_a_damaged_header_gives_none_or_a_size(name: str) -> None:
    data = corpus.clip(8, size=SIZE, **CLIPS[name])
    for end in range(0, min(len(data), 3_000), 37):
        header = read_clip_header(data[:end], sniff(data))
        assert header is None or header.pixels >= 0
