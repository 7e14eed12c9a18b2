"""Containers are read as a demuxer reads them: tables, edits, truncated recordings."""

import time
from collections.abc import Callable
from functools import cache
from io import BytesIO

import av
import numpy as np
import pytest
from av.error import FFmpegError
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.clip_formats import format_of
from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge
from roadwork_serve.media import Clip, read, sniff
from roadwork_serve.media import clip as clip_module
from roadwork_serve.media.boxes import MAX_BOXES
from roadwork_serve.media.container import Extent, check_container
from roadwork_serve.media.windows import read_windows
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import clip_corpus, corpus

LIMITS = MediaLimits()
WITHIN_S = 1.0
BILLION = 1_000_000_000
WORDS = (b"Driving along the A1 trunk road near Leeds", b"truncated at 10:31", b"delstrekning", b"cmovie", b"stsz stz2")
FREE_KINDS = (
    b"free",
    b"skip",
    b"uuid",
    b"XMP_",
    b"gps ",
    b"thum",
    b"\xa9cmt",
    b"udta",
    b"meta",
    b"loci",
    b"abcd",
    b"ilst",
)
TABLES = {
    b"stsz": bytes(4) + b"\0\0\0\1" + BILLION.to_bytes(4, "big"),
    b"stz2": bytes(8) + BILLION.to_bytes(4, "big"),
    b"trun": bytes(4) + BILLION.to_bytes(4, "big"),
}
ENTERED = (b"udta", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"mvex", b"moof", b"traf", b"schi", b"ilst")


def extent(data: bytes) -> Extent:
    return check_container(data, format_of(sniff(data)))


def clip_of(data: bytes) -> Clip:
    media = read(data, LIMITS)
    assert isinstance(media, Clip)
    return media


def in_index(mp4: bytes, extra: bytes) -> bytes:
    """Return an MP4 whose index is last, with further boxes at the end of its index."""
    start = mp4.index(b"moov") - 4
    return mp4[:start] + corpus.box(b"moov", mp4[start + 8 :] + extra)


def demuxed(data: bytes) -> int:
    """Return the number of frames that FFmpeg finds; 0 if it refuses the file."""
    try:
        with av.open(BytesIO(data), "r", format="mov", metadata_errors="replace") as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (FFmpegError, IndexError):
        return 0


class TestNotes:
    @pytest.mark.parametrize("word", WORDS)
    @pytest.mark.parametrize("kind", [b"\xa9cmt", b"XMP_", b"uuid", b"free", b"gps "])
    def test_words_in_a_note_are_no_tables(self, kind: bytes, word: bytes) -> None:
        plain = corpus.clip()
        note = corpus.box(kind, bytes(16) + word + bytes(40))
        for data in (in_index(plain, corpus.box(b"udta", note)), in_index(plain, note), plain + note):
            assert clip_of(data).timestamps_s == clip_of(plain).timestamps_s

    @pytest.mark.parametrize("kind", ["mp4", "mov"])
    def test_written_by_ffmpeg(self, kind: str) -> None:
        file = BytesIO()
        with av.open(file, "w", format=kind) as container:
            container.metadata["comment"] = "the A1 trunk road, delstrekning 4, cmovie, stsz"
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(12):
                frame = av.VideoFrame.from_image(corpus.picture())
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        assert b"trunk" in file.getvalue()
        assert clip_of(file.getvalue()).seconds == pytest.approx(1.2)


class TestEdits:
    def test_count_for_their_own_track(self) -> None:
        """A track of millions of sound samples, and another whose edit list has two entries."""
        plain = corpus.clip()
        edits = [(500, 0), (1500, 5120)]
        sound = corpus.box(
            b"trak",
            corpus.box(
                b"mdia",
                corpus.box(
                    b"minf",
                    corpus.box(
                        b"stbl",
                        corpus.box(
                            b"stsz", (0).to_bytes(4, "big") + (2).to_bytes(4, "big") + (4_000_000).to_bytes(4, "big")
                        ),
                    ),
                ),
            ),
        )
        data = in_index(corpus.edited(plain, edits), sound) + corpus.box(b"free", bytes(4_100_000))
        assert extent(data) == Extent(0, len(data))

    def test_empty_ones_show_nothing(self) -> None:
        data = corpus.edited(corpus._of_tiny_samples(3_000), [(200, -1)] * 50 + [(2_000, 0)])
        data += corpus.box(b"free", bytes(3_000))
        assert extent(data).complete
        with pytest.raises(MediaTooLarge, match="declares 3,000 samples and edits them 51 times"):
            extent(corpus.edited(data, [(200, 0)] * 51))

    def test_an_edit_list_that_declares_more_than_it_has(self) -> None:
        data = corpus.patched(corpus.edited(corpus.clip(), [(2_000, 0)]), b"elst", ">I", BILLION)
        assert extent(data).complete


@cache
def of_pcm(seconds: int, tracks: int, kind: str = "mov") -> bytes:
    """Return a clip of a frame per second, with tracks of mono 48 kHz PCM."""
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sounds = [container.add_stream("pcm_s16le", rate=48_000, layout="mono") for _ in range(tracks)]
        for number in range(seconds):
            picture = av.VideoFrame.from_image(corpus.picture())
            picture.pts = number
            container.mux(video.encode(picture))
            for sound in sounds:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.pts = 48_000, number * 48_000
                container.mux(sound.encode(frame))
        container.mux(video.encode(None))
    return file.getvalue()


class TestPcm:
    """The demuxer reads PCM in chunks, and has few entries for its many samples."""

    @pytest.mark.parametrize(("seconds", "tracks"), [(100, 2), (70, 4)])
    def test_of_several_tracks_is_read(self, seconds: int, tracks: int) -> None:
        data = of_pcm(seconds, tracks)
        assert clip_of(data).seconds == pytest.approx(seconds)
        assert extent(corpus.edited(data, [(200, -1), (seconds * 1000, 0)])).complete

    def test_of_a_long_recording_is_cut_into_windows(self) -> None:
        data = of_pcm(300, 1)
        windows = list(read_windows(BytesIO(data), data, LIMITS, 3600))
        assert len(windows) == 3 and windows[-1].end_s == pytest.approx(299)

    @pytest.mark.parametrize(
        "change",
        [
            lambda sound: sound.replace(b"soun", b"vide"),
            lambda sound: corpus.patched(sound, b"stts", ">III", 1, 48_000 * 150, 2),
            lambda sound: corpus.patched(sound, b"stsz", ">I", 0),
            lambda sound: corpus.patched(sound, b"stsc", ">III", 1, 1, BILLION),
        ],
        ids=["video", "another duration", "sizes of their own", "giant chunks"],
    )
    def test_what_costs_an_entry_per_sample_is_refused(self, change: Callable[[bytes], bytes]) -> None:
        data = of_pcm(150, 1)
        at = data.rindex(b"trak")
        with pytest.raises(MediaTooLarge, match="declares 7,200,150 samples"):
            extent(data[:at] + change(data[at:]))


class TestTrees:
    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_what_the_demuxer_reads_is_accepted(self, draw: st.DataObject) -> None:
        leaf = st.one_of(st.binary(max_size=40), st.sampled_from(WORDS), st.just(b"stszelsttruncmovmoov"))
        boxes = st.recursive(
            st.builds(corpus.box, st.sampled_from(FREE_KINDS), leaf),
            lambda inner: st.builds(
                lambda kind, rows, size: (size or len(b"".join(rows)) + 8).to_bytes(4, "big") + kind + b"".join(rows),
                st.sampled_from(FREE_KINDS),
                st.lists(inner, max_size=3),
                st.sampled_from([None, None, None, 0, 1, 7, 9, 2**31]),
            ),
            max_leaves=12,
        )
        trees = b"".join(draw.draw(st.lists(boxes, max_size=4)))
        data = draw.draw(st.sampled_from([in_index(corpus.clip(), trees), corpus.clip() + trees]))
        found = demuxed(data)
        try:
            clip = clip_of(data)
        except MediaError as error:
            assert not found, (error, data[-200:])
        else:
            assert len(clip.frames) == 8 or found < 8

    @settings(max_examples=80, deadline=None)
    @given(st.lists(st.sampled_from(ENTERED), max_size=8), st.sampled_from([*TABLES]), st.integers(0, 200))
    def test_a_table_of_a_billion_never_reaches_the_demuxer(self, path: list[bytes], table: bytes, before: int) -> None:
        data = corpus.box(table, TABLES[table])
        for kind in reversed(path):
            data = corpus.box(kind, corpus.box(b"free", b"trunk") * (before // 20) + data)
        if b"trak" in path[1:]:
            return  # the demuxer leaves a box with a track that is not at the top of the index
        began_s = time.process_time()
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(MediaTooLarge, match=r"declares 1,000,000,\d\d\d samples"),
        ):
            patch.setattr(clip_module.av, "open", lambda *a, **k: pytest.fail("it was opened"))
            read(in_index(corpus.clip(), data), LIMITS)
        assert time.process_time() - began_s < WITHIN_S

    @pytest.mark.parametrize("depth", [9, 10, 11, 5_000])
    def test_deep_trees(self, depth: int) -> None:
        data = corpus.box(b"stsz", TABLES[b"stsz"])
        for _ in range(depth):
            data = corpus.box(b"udta", data)
        with pytest.raises(MediaError):
            clip_of(in_index(corpus.clip(), data))

    def test_many_fragments_of_a_live_recording_are_read(self) -> None:
        moof = corpus.box(
            b"moof", corpus.box(b"mfhd", bytes(8)) + corpus.box(b"traf", corpus.box(b"tfdt", bytes(8))) * 2
        )
        data = corpus.clip() + (moof + corpus.box(b"mdat", b"")) * 2_400
        assert extent(data).complete
        with pytest.raises(MediaTooLarge, match=f"more than {MAX_BOXES:,} boxes"):
            extent(data + corpus.box(b"free", b"") * MAX_BOXES)


RECORDINGS = {
    "fragmented mp4": lambda: corpus.clip(40, movflags="frag_keyframe+empty_moov"),
    "fragmented mp4 with sound": lambda: corpus.clip(
        40, sound=True, movflags="frag_keyframe+empty_moov+default_base_moof"
    ),
    "mp4 with its index first": lambda: corpus.index_first(corpus.clip(40, size=(320, 240))),
    "mov with its index first": lambda: corpus.index_first(corpus.clip(40, kind="mov", size=(320, 240))),
    "3gp with its index first": lambda: corpus.index_first(corpus.clip(40, kind="3gp", size=(320, 240))),
    "webm": lambda: corpus.clip(40, kind="webm", codec="libvpx"),
    "live webm": lambda: live(corpus.clip(40, kind="webm", codec="libvpx")),
    "mkv": lambda: corpus.clip(40, kind="matroska", gop=5, codec="mpeg4"),
    "live mkv": lambda: live(corpus.clip(40, kind="matroska", codec="mpeg4")),
    "mpeg-ts": lambda: corpus.clip(40, kind="mpegts"),
    "m2ts": lambda: corpus.clip(40, kind="mpegts", m2ts=True),
    "mpeg-ps": lambda: corpus.clip(40, kind="vob", codec="mpeg2video", fps=25, size=(320, 240)),
    "avi": lambda: corpus.clip(40, kind="avi", codec="mjpeg"),
}


def live(matroska: bytes) -> bytes:
    """Return a WebM or MKV whose segment has no size, as in a recording that goes on."""
    at = matroska.index(b"\x18\x53\x80\x67") + 4
    return matroska[:at] + b"\x01" + b"\xff" * 7 + matroska[at + 8 :]


class TestTruncatedRecordings:
    @pytest.mark.parametrize("name", RECORDINGS)
    @pytest.mark.parametrize("share", [0.75, 0.9])
    def test_are_judged_on_what_is_whole(self, name: str, share: float) -> None:
        data = RECORDINGS[name]()
        whole = clip_of(data)
        cut = clip_of(data[: int(len(data) * share) // 100 * 100 - 1])
        assert not whole.incomplete and cut.incomplete
        assert 0 < cut.seconds < whole.seconds + 0.01
        assert len(cut.frames) >= 4
        for thumb in cut.thumbs:
            assert abs(int(thumb[150, 150, 1]) - int(thumb[150, 150, 2])) < 12, "no frame is half grey, half green"

    @pytest.mark.parametrize(("declared", "accepted"), [(400_000, True), (100_000, False), (10_000_000, True)])
    def test_the_index_is_that_of_the_whole_recording(self, declared: int, accepted: bool) -> None:
        """Sound has more samples than a truncated file has bytes."""
        data = corpus.index_first(corpus._of_tiny_samples(200_000)) + bytes(20_000)
        at = data.index(b"mdat") - 4
        data = data[:at] + declared.to_bytes(4, "big") + data[at + 4 :]
        if accepted:
            assert not extent(data).complete
        else:
            with pytest.raises(MediaTooLarge, match="declares 200,000 samples"):
                extent(data)
        with pytest.raises(MediaTooLarge, match="declares 200,000 samples"):
            extent(data[:9_000])

    @pytest.mark.parametrize("m2ts", [False, True])
    @pytest.mark.parametrize("start", [1, 100, 187, 3_000, 7_001])
    def test_a_transport_stream_may_begin_anywhere(self, start: int, m2ts: bool) -> None:
        cut = clip_of(corpus.clip(40, kind="mpegts", m2ts=m2ts)[start:])
        assert cut.incomplete and len(cut.frames) >= 6

    @pytest.mark.parametrize("size", [b"\0\0\0\0", b"\0\0\0\1"])
    def test_without_an_index_name_the_cure(self, size: bytes) -> None:
        data = corpus.clip()
        data = data[: data.index(b"moov") - 4]
        at = data.index(b"mdat") - 4
        with pytest.raises(BrokenMedia, match=r"no index \(moov\).*untrunc"):
            clip_of(data[:at] + size + data[at + 4 :])
        with pytest.raises(
            BrokenMedia, match=r"index of the clip \(moov\) is truncated: 50 bytes are missing.*untrunc"
        ):
            clip_of(corpus.clip()[:-50])

    def test_an_unfinished_avi_is_read(self) -> None:
        data = corpus.clip(40, kind="avi", codec="mjpeg")
        movi = data.index(b"movi")
        data = data[:4] + bytes(4) + data[8 : movi - 4] + bytes(4) + data[movi:]
        clip = clip_of(data[: data.index(b"idx1")])
        assert clip.incomplete and clip.seconds == pytest.approx(4.0)

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from([*RECORDINGS]), st.floats(0, 1), st.floats(0, 0.2))
    def test_any_part_of_a_recording_gives_frames_or_a_problem(self, name: str, end: float, start: float) -> None:
        data = RECORDINGS[name]()
        data = data[int(len(data) * start) if name in ("mpeg-ts", "m2ts") else 0 : int(len(data) * end)]
        try:
            assert clip_of(data).frames
        except MediaError as error:
            assert "; " in str(error)


def test_the_hostile_clips_are_many() -> None:
    kinds = {name.split("-")[0] for name in clip_corpus.hostile_clips()}
    assert len(clip_corpus.hostile_clips()) >= 50 and {"mkv", "ts", "m2ts", "ps", "avi", "mp4", "3gp"} <= kinds
