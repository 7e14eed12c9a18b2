"""Clip formats: names, media types, file suffixes and video codecs, and how they are told by their first bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

#: Decoders by FFmpeg's names -> the name of the codec for people. A clip in another codec is rejected.
CLIP_CODECS: Mapping[str, str] = {
    "h264": "H.264",
    "hevc": "H.265",
    "vp8": "VP8",
    "vp9": "VP9",
    "av1": "AV1",
    "libdav1d": "AV1",
    "mpeg4": "MPEG-4",
    "mpeg2video": "MPEG-2",
    "mpeg1video": "MPEG-1",
    "mjpeg": "Motion JPEG",
    "h263": "H.263",
}


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """A container format of clips."""

    name: str
    mime: str
    #: FFmpeg's demuxer for it.
    demuxer: str
    #: Marks in the file that tell the format.
    marks: str
    #: Suffixes of file names, the usual one first.
    suffixes: tuple[str, ...]
    #: Codecs that are usual in it. Each format is read with any codec of `CLIP_CODECS`.
    codecs: tuple[str, ...]


MP4 = ClipFormat(
    "MP4", "video/mp4", "mov", "`ftyp` at byte 4", (".mp4", ".m4v"), ("H.264", "H.265", "AV1", "VP9", "MPEG-4")
)
MOV = ClipFormat(
    "MOV",
    "video/quicktime",
    "mov",
    "`ftypqt  `, `moov`, `mdat`, `wide`, `free`, `skip` or `pnot` at byte 4",
    (".mov",),
    ("H.264", "H.265", "Motion JPEG", "MPEG-4"),
)
THREE_GP = ClipFormat(
    "3GP",
    "video/3gpp",
    "mov",
    "`ftyp3gp` or `ftyp3g2` at byte 4",
    (".3gp", ".3g2"),
    ("H.264", "H.263", "MPEG-4"),
)
WEBM = ClipFormat("WebM", "video/webm", "matroska", "EBML with DocType `webm`", (".webm",), ("VP8", "VP9", "AV1"))
MKV = ClipFormat(
    "MKV",
    "video/x-matroska",
    "matroska",
    "EBML with DocType `matroska`",
    (".mkv",),
    ("H.264", "H.265", "VP9", "AV1", "MPEG-4", "Motion JPEG"),
)
MPEG_TS = ClipFormat(
    "MPEG-TS",
    "video/mp2t",
    "mpegts",
    "`47` every 188, 192 or 204 bytes, five times from within the first packet on",
    (".ts", ".mts", ".m2ts"),
    ("H.264", "H.265", "MPEG-2"),
)
MPEG_PS = ClipFormat(
    "MPEG-PS", "video/mpeg", "mpeg", "`00 00 01 ba` at byte 0", (".mpg", ".mpeg", ".vob"), ("MPEG-2", "MPEG-1", "H.264")
)
AVI = ClipFormat(
    "AVI",
    "video/x-msvideo",
    "avi",
    "`RIFF` at byte 0 and `AVI ` at byte 8",
    (".avi",),
    ("Motion JPEG", "MPEG-4", "H.264"),
)
#: All formats that are read, in the order of their names in messages.
CLIP_FORMATS = (MP4, MOV, THREE_GP, WEBM, MKV, MPEG_TS, MPEG_PS, AVI)
CLIP_SUFFIXES = frozenset(suffix for each in CLIP_FORMATS for suffix in each.suffixes)
CLIP_NAMES = ", ".join(each.name for each in CLIP_FORMATS[:-1]) + f" or {CLIP_FORMATS[-1].name}"
CODEC_NAMES = ", ".join([*dict.fromkeys(CLIP_CODECS.values())][:-1]) + f" or {[*CLIP_CODECS.values()][-1]}"

_BY_MIME = {each.mime: each for each in CLIP_FORMATS}
_MOV_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # QuickTime has no magic number
_DOCTYPE_WITHIN = 80  # bytes; it is in the EBML header
_SYNC = 0x47  # ISO/IEC 13818-1, 2.4.3.2
_TS_PACKETS = (188, 192, 204)  # bytes: plain, with four bytes of time in front (Blu-ray, AVCHD), with error correction
_TIME_CODE = 4
_SYNCS = 5


def clip_format(data: bytes) -> ClipFormat | None:
    """Return the format of a clip by its first bytes; None if it is none of `CLIP_FORMATS`."""
    if data[:4] == b"\x1aE\xdf\xa3":
        header = data[:_DOCTYPE_WITHIN]
        return WEBM if b"webm" in header else MKV if b"matroska" in header else None
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return MOV if brand == b"qt  " else THREE_GP if brand[:3] in (b"3gp", b"3g2") else MP4
    if data[4:8] in _MOV_ATOMS and data[0] < 0x20:  # a size comes first, not text
        return MOV
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return AVI
    if data[:4] == b"\0\0\1\xba":
        return MPEG_PS
    return MPEG_TS if ts_packets(data) else None


def format_of(mime: str) -> ClipFormat:
    """Return the format with this media type. Raises KeyError if there is none."""
    return _BY_MIME[mime]


def ts_packets(data: bytes) -> tuple[int, int] | None:
    """Return the start of the first whole packet of an MPEG transport stream, and the size of a packet in bytes.

    None if it is none. The file may begin in the middle of a packet.
    """
    for size in _TS_PACKETS:
        before = _TIME_CODE if size == 192 else 0
        if len(data) < _SYNCS * size:
            continue
        for sync in range(before, before + size):
            if all(data[at] == _SYNC for at in range(sync, min(len(data), sync + _SYNCS * size), size)):
                return sync - before, size
    return None
