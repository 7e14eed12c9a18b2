"""Checks of containers against the file size, before a demuxer relies on what they declare."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from roadwork_serve.clip_formats import AVI, MPEG_PS, MPEG_TS, ClipFormat, ts_packets
from roadwork_serve.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media import avi, ebml
from roadwork_serve.media.boxes import Box, BoxTree

MAX_SAMPLES = 6_000_000  # FFmpeg allocates 70 bytes for each
# libavformat/mov.c, mov_build_index: at least this many samples of PCM share an entry of the index.
_PCM_SAMPLES = 160
_HANDLERS = (b"vide", b"soun", b"subp", b"clcp")  # the same, mov_read_hdlr
_LEAST_SHARE = 20  # a twentieth of a truncated file may have the whole one's index
# ISO/IEC 14496-12, 8.7.3 and 8.8.8: where the count is in the content of the box.
_SAMPLE_COUNT_AT = {b"stsz": 8, b"stz2": 8}
_FRAGMENT_COUNT_AT = 4
_EDIT = {  # the same, 8.6.6
    0: np.dtype([("duration", ">u4"), ("start", ">i4"), ("rate", ">u4")]),
    1: np.dtype([("duration", ">u8"), ("start", ">i8"), ("rate", ">u4")]),
}
_NO_INDEX = (
    "the recording was not finished, or its end is missing; send the whole file, or mend it with untrunc and a good "
    "clip of the same camera"
)
_PES = re.compile(rb"\x00\x00\x01[\xba-\xff]")  # ISO/IEC 13818-1, 2.4.3.6 and 2.5.3: codecs use no such start codes
_LONGEST_PES = 6 + 2**16
_PACK_HEADER = 0xBA


class Extent(NamedTuple):
    """The part of a file that a demuxer can read."""

    start: int
    end: int
    #: False if the rest of the file is missing.
    complete: bool = True


def check_container(data: bytes, kind: ClipFormat) -> Extent:
    """Check what a clip declares against its length. Return the part of it that is whole.

    Raises:
        BrokenMedia: The file is truncated before its first frame, or has no index.
        MediaTooLarge: It declares more samples than it has bytes, or it has too many parts.
        UnsupportedMedia: Its header is compressed, which hides the tables.
    """
    match kind.demuxer:
        case "mov":
            return _check_mp4(data)
        case "matroska":
            return Extent(0, len(data), ebml.missing_bytes(data) == 0)
        case AVI.demuxer:
            return Extent(0, len(data), avi.missing_bytes(data) == 0)
        case MPEG_TS.demuxer:
            return _check_ts(data)
        case MPEG_PS.demuxer:
            return _check_ps(data)
        case other:
            raise ValueError(f"no check for the demuxer {other}")


@dataclass(slots=True)
class _Track:
    """A track of an MP4. Each edit adds its samples to the demuxer's index again."""

    samples: int = 0
    edits: int = 0
    handlers: set[bytes] = field(default_factory=set[bytes])
    #: Tables of sizes, times and chunks.
    tables: list[Box] = field(default_factory=list[Box])
    #: Entries of the index; the number of samples if None.
    entries: int | None = None

    @property
    def indexed(self) -> int:
        return (self.samples if self.entries is None else self.entries) * max(1, self.edits)


def _check_mp4(data: bytes) -> Extent:
    """Check the boxes of an MP4 or MOV.

    A sample table declares its count in four bytes, and the demuxer allocates its index from it, so that a file of
    2 kB can request gigabytes.
    """
    tree = BoxTree(data)
    end, complete = len(data), True
    for box in tree.top:
        missing = box.declared_end - len(data)
        if missing > 0 and box is tree.movie:
            raise BrokenMedia(f"the index of the clip (moov) is truncated: {missing:,} bytes are missing; {_NO_INDEX}")
        if missing > 0 and box.kind in (b"moof", b"mdat"):
            end, complete = box.at if box.kind == b"moof" else end, False
    if any(box.kind == b"moof" for box in tree.top):  # it may end within the header of a fragment, or after that
        complete &= tree.top[-1].kind != b"moof" and not data[tree.top[-1].end :].strip(b"\0")
    if tree.movie is None:
        raise BrokenMedia(f"the clip has no index (moov): {_NO_INDEX}")
    whole_size = len(data) if complete else max(len(data), *(box.declared_end for box in tree.top))
    _check_samples(len(data), min(whole_size, _LEAST_SHARE * len(data)), _tracks(data, tree))
    return Extent(0, end, complete)


def _tracks(data: bytes, tree: BoxTree) -> list[_Track]:
    """Return the tracks, and behind them one for all fragments."""
    tracks, fragments = [_Track()], _Track()
    for box in tree.read():
        if box.kind in (b"stsz", b"stz2", b"stts", b"stsc", b"stco", b"co64"):
            tracks[-1].tables.append(box)
        match box.kind:
            case b"cmov":
                raise UnsupportedMedia("the clip has a compressed header; export it again")
            case b"trak":
                tracks.append(_Track())
            case b"hdlr" if (handler := data[box.start + 8 : box.start + 12]) in _HANDLERS:
                tracks[-1].handlers.add(handler)
            case b"stsz" | b"stz2":
                tracks[-1].samples += _number(data, box.start + _SAMPLE_COUNT_AT[box.kind])
            case b"elst":
                tracks[-1].edits = max(tracks[-1].edits, _shown_edits(data, box.start, box.end))
            case b"trun":
                fragments.samples += _number(data, box.start + _FRAGMENT_COUNT_AT)
            case _:
                pass
    for track in tracks:
        track.entries = _pcm_entries(data, track)
    return [*tracks, fragments]


def _pcm_entries(data: bytes, track: _Track) -> int | None:
    """Return the most entries that the index of a track of PCM has; None if the track is something else.

    PCM is sound whose samples have the same size and take one unit of time each, so that chunks are read, not samples.
    """
    tables = {b"stco" if each.kind == b"co64" else each.kind: each.start for each in track.tables}
    if track.handlers != {b"soun"} or len(track.tables) != 4 or tables.keys() != {b"stsz", b"stts", b"stsc", b"stco"}:
        return None
    times = tables[b"stts"]
    if not _number(data, tables[b"stsz"] + 4) or (_number(data, times + 4), _number(data, times + 12)) != (1, 1):
        return None
    runs = tables[b"stsc"]
    room = max(0, len(data) - runs - 8) // 12
    numbers = np.frombuffer(data, ">u4", 3 * min(_number(data, runs + 4), room), runs + 8) if room else np.zeros(3)
    longest = int(numbers[1::3].max(initial=0))
    return _number(data, tables[b"stco"] + 4) * -(-longest // _PCM_SAMPLES)


def _check_samples(size: int, whole_size: int, tracks: list[_Track]) -> None:
    """Check samples against the size of the file before it was truncated."""
    largest = max(tracks, key=lambda track: track.indexed)
    if sum(track.indexed for track in tracks) > min(whole_size, MAX_SAMPLES):
        declared = f"{sum(track.samples for track in tracks):,} samples"
        declared += f" and edits them {largest.edits:,} times" if largest.edits > 1 else ""
        raise MediaTooLarge(
            f"the clip of {size:,} bytes declares {declared}; at most one per byte and "
            f"{MAX_SAMPLES:,} in all are accepted"
        )


def _shown_edits(data: bytes, start: int, end: int) -> int:
    """Return the number of edits in an edit list that show something; a start of -1 shows nothing."""
    entry = _EDIT[min(1, data[start])] if start < end else _EDIT[0]
    room = max(0, end - start - 8) // entry.itemsize
    entries = np.frombuffer(data, entry, min(_number(data, start + 4), room), start + 8) if room else None
    return 0 if entries is None else int(np.count_nonzero(entries["start"] != -1))


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _check_ts(data: bytes) -> Extent:
    """Leave out a packet that is cut at the start or at the end."""
    start, size = ts_packets(data) or (0, 188)
    end = start + (len(data) - start) // size * size
    return Extent(start, end, start == 0 and not data[end:].strip(b"\0\xff"))


def _check_ps(data: bytes) -> Extent:
    """Leave out the last packet if it is cut."""
    last = None
    for last in _PES.finditer(data, max(0, len(data) - _LONGEST_PES)):  # noqa: B007 - the last one counts
        pass
    if last is None or data[last.end() - 1] == _PACK_HEADER:
        return Extent(0, len(data))
    whole = last.end() + 2 + int.from_bytes(data[last.end() : last.end() + 2], "big") <= len(data)
    return Extent(0, len(data)) if whole else Extent(0, last.start(), complete=False)
