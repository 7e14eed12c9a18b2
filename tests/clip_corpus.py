"""Hostile clips of every container, and builders of MKV, AVI and transport streams from their parts."""

import struct
import zlib
from collections.abc import Iterable
from functools import cache
from io import BytesIO

import av
import numpy as np

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from tests import corpus

MKV = "matroska"
_UNKNOWN = b"\x01" + b"\xff" * 7
_TS_PACKET = 188


def ebml(name: int, content: bytes, size: bytes = b"") -> bytes:
    """Return an element of EBML. size: its coded size, by default the true one in eight bytes."""
    coded = name.to_bytes((name.bit_length() + 7) // 8, "big")
    return coded + (size or (1 << 56 | len(content)).to_bytes(8, "big")) + content


def mkv(*parts: bytes, live: bool = False) -> bytes:
    """Return an MKV of these parts of its segment."""
    header = ebml(0x1A45DFA3, ebml(0x4282, b"matroska"))
    return header + ebml(0x18538067, b"".join(parts), _UNKNOWN if live else b"")


def mkv_track(codec: bytes = b"V_MJPEG", width: int = 64, height: int = 48, more: bytes = b"") -> bytes:
    """Return the description of the only track of an MKV."""
    video = ebml(0xE0, ebml(0xB0, width.to_bytes(3, "big")) + ebml(0xBA, height.to_bytes(3, "big")))
    fields = ebml(0xD7, b"\1") + ebml(0x73C5, b"\1") + ebml(0x83, b"\1") + ebml(0x86, codec) + video + more
    return ebml(0x1654AE6B, ebml(0xAE, fields))


def mkv_cluster(frames: Iterable[bytes], step_ms: int = 40, live: bool = False) -> bytes:
    """Return a cluster of frames of the first track."""
    blocks = (ebml(0xA3, b"\x81" + struct.pack(">hB", at * step_ms, 0x80) + frame) for at, frame in enumerate(frames))
    return ebml(0x1F43B675, ebml(0xE7, b"\0") + b"".join(blocks), _UNKNOWN if live else b"")


def mkv_of_packed_frames(frames: int = 40, size: int = 9 * 2**20) -> bytes:
    """Return an MKV of 400 kB whose frames are packed, and fill hundreds of MB when they are unpacked."""
    packing = ebml(0x6D80, ebml(0x6240, ebml(0x5034, ebml(0x4254, b"\0"))))
    return mkv(mkv_track(more=packing), mkv_cluster([zlib.compress(bytes(size), 9)] * frames))


def riff(form: bytes, *chunks: bytes, kind: bytes = b"RIFF") -> bytes:
    """Return a list of chunks."""
    return chunk(kind, form + b"".join(chunks))


def chunk(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """Return a chunk of an AVI. size: its declared size, by default the true one."""
    return kind + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def avi(*streams: bytes, frames: Iterable[bytes] = (), more: bytes = b"") -> bytes:
    """Return an AVI of these streams (lists `strl`), and the frames of the first."""
    header = struct.pack("<14I", 40_000, 0, 0, 0x10, 25, 0, len(streams), 0, 64, 48, 0, 0, 0, 0)
    movi = (chunk(b"00dc", frame) for frame in frames)
    return riff(
        b"AVI ",
        riff(b"hdrl", chunk(b"avih", header), *streams, kind=b"LIST"),
        more,
        riff(b"movi", *movi, kind=b"LIST"),
    )


def avi_stream(
    codec: bytes = b"MJPG", width: int = 64, height: int = 48, more: bytes = b"", rate: tuple[int, int] = (1, 25)
) -> bytes:
    """Return the list of a stream of an AVI. rate: seconds per frame as a fraction."""
    header = b"vids" + codec + struct.pack("<IHHIIIIIIIIHHHH", 0, 0, 0, 0, *rate, 0, 25, 0, 0, 0, 0, 0, width, height)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, codec, 0, 0, 0, 0, 0)
    return riff(b"strl", chunk(b"strh", header), chunk(b"strf", bitmap), more, kind=b"LIST")


def ts_packet(pid: int, payload: bytes, start: bool = True, count: int = 0) -> bytes:
    """Return a packet of a transport stream (ISO/IEC 13818-1, 2.4.3.2), filled up with FF."""
    head = struct.pack(">BHB", 0x47, (0x4000 if start else 0) | pid, 0x10 | count % 16)
    return (head + payload).ljust(_TS_PACKET, b"\xff")[:_TS_PACKET]


def ts_table(table: int, number: int, content: bytes) -> bytes:
    """Return a section of program tables, with its checksum (2.4.4)."""
    section = struct.pack(">BHHBBB", table, 0xB000 | len(content) + 9, number, 0xC1, 0, 0) + content
    return b"\0" + section + struct.pack(">I", _crc(section))


def ts_of_programs(programs: int = 40, streams: int = 30) -> bytes:
    """Return a transport stream of over a thousand streams in many programs, none with a frame."""
    table = b"".join(struct.pack(">HH", at + 1, 0xE000 | 0x100 + at) for at in range(programs))
    packets = [ts_packet(0, ts_table(0, 1, table))]
    for at in range(programs):
        pids = b"".join(
            struct.pack(">BHH", 0x1B, 0xE000 | 0x200 + at * streams + each, 0xF000) for each in range(streams)
        )
        packets.append(ts_packet(0x100 + at, ts_table(2, at + 1, struct.pack(">HH", 0xE1FF, 0xF000) + pids)))
    return b"".join(packets) * 20


def noise(data: bytes, start: int, end: int | None = None) -> bytes:
    """Return a file with noise from start to end."""
    end = len(data) if end is None else end
    return data[:start] + np.random.default_rng(0).bytes(end - start) + data[end:]


def ts_noise(data: bytes) -> bytes:
    """Return a transport stream with noise for the content of its frames."""
    packets = [data[at : at + _TS_PACKET] for at in range(0, len(data), _TS_PACKET)]
    rng = np.random.default_rng(0)
    return b"".join(packet[:4] + rng.bytes(_TS_PACKET - 4) if packet[1] & 0x1F == 1 else packet for packet in packets)


def only_sound(kind: str) -> bytes:
    """Return a clip without video in a container. kind: FFmpeg's name of its muxer."""
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        corpus.hum(container, container.add_stream("mp2", rate=32000, layout="mono"))
    return file.getvalue()


def sequence_size(data: bytes, width: int, height: int) -> bytes:
    """Return an MPEG-2 clip whose sequence headers declare another size (ISO/IEC 13818-2, 6.2.2.1)."""
    parts = data.split(b"\0\0\1\xb3")
    coded = (width << 12 | height).to_bytes(3, "big")
    return (b"\0\0\1\xb3").join([parts[0], *(coded + part[3:] for part in parts[1:])])


def nested(depth: int) -> bytes:
    """Return an MP4 of boxes within boxes."""
    data = b""
    for _ in range(depth):
        data = corpus.box(b"udta", data)
    return corpus.box(b"ftyp", b"isom\0\0\2\0isom") + corpus.box(b"moov", data)


def hidden_index(mp4: bytes, kind: bytes = b"free") -> bytes:
    """Return an MP4 whose index is marked as free space; FFmpeg finds it there."""
    at = mp4.index(b"moov")
    return mp4[:at] + kind + mp4[at + 4 :]


def table_in_a_description(samples: int) -> bytes:
    """Return an MP4 with a second table of samples in the description of its codec, where FFmpeg reads it too."""
    table = corpus.box(b"stsz", struct.pack(">III", 0, 1, samples))
    data = corpus.clip()
    at = data.index(b"avc1", data.index(b"stsd"))
    size = int.from_bytes(data[at - 4 : at], "big")
    entry = data[at : at + size - 4] + table
    path = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    return corpus.refilled(data, path, struct.pack(">III", 0, 1, size + len(table)) + entry)


@cache
def hostile_clips() -> dict[str, tuple[bytes, type[MediaError]]]:
    """Return name -> bytes that must be rejected under the default limits, and the expected error."""
    jpeg, strip = corpus.encoded(corpus.picture()), corpus.encoded(corpus.picture(6_000, 16))
    giant = corpus.jpeg_resized(60_000, 60_000)
    billion = 1_000_000_000
    film, ts = corpus.clip(kind=MKV), corpus.clip(kind="mpegts")
    ps = corpus.clip(kind="vob", codec="mpeg2video", fps=25)
    motion = corpus.clip(kind="avi", codec="mjpeg")
    liar = corpus.patched(corpus.patched(corpus.clip(), b"stsz", ">II", 1, billion), b"stts", ">III", 1, billion, 1)
    fast = corpus.index_first(corpus.clip())
    fast_liar = corpus.patched(corpus.patched(fast, b"stsz", ">II", 1, 5_000_000), b"stts", ">III", 1, 5_000_000, 1)
    tag = ebml(0x7373, ebml(0x67C8, ebml(0x45A3, b"A")))
    index = struct.pack("<HBBI4s12x", 2, 0, 1, billion, b"00dc")
    mkv_files = {
        "mkv-header-only": (film[:40], BrokenMedia),
        "mkv-cut-in-its-tracks": (film[: film.index(b"V_MPEG4") + 4], BrokenMedia),
        "mkv-without-frames": (mkv(mkv_track()), BrokenMedia),
        "mkv-noise-for-pictures": (noise(film, film.index(b"\x1f\x43\xb6\x75") + 30), BrokenMedia),
        "mkv-of-tracks": (mkv(ebml(0x1654AE6B, ebml(0xAE, b"") * 200_000)), MediaTooLarge),
        "mkv-of-tags": (mkv(mkv_track(), ebml(0x1254C367, tag * 100_000)), MediaTooLarge),
        "mkv-of-cues": (mkv(mkv_track(), ebml(0x1C53BB6B, ebml(0xBB, b"") * 300_000)), MediaTooLarge),
        "mkv-of-voids": (mkv(mkv_track(), ebml(0xEC, b"") * 300_000), MediaTooLarge),
        "mkv-of-live-blocks": (
            mkv(
                mkv_track(),
                mkv_cluster([b""] * 9 + [b"a"], live=True) + ebml(0xA3, b"\x81\0\0\x80a") * 200_000,
                live=True,
            ),
            MediaTooLarge,
        ),
        "mkv-of-packed-frames": (mkv_of_packed_frames(), BrokenMedia),
        "mkv-giant": (mkv(mkv_track(width=60_000, height=60_000), mkv_cluster([giant] * 3)), BrokenMedia),
        "mkv-strip": (mkv(mkv_track(width=6_000, height=16), mkv_cluster([strip] * 3)), MediaTooLarge),
        "mkv-track-without-end": (mkv(ebml(0x1654AE6B, b"\xae\x01" + b"\x7f" * 7)), BrokenMedia),
        "mkv-unknown-codec": (corpus.clip(kind=MKV, codec="ffv1"), UnsupportedMedia),
        "mkv-sound-only": (only_sound(MKV), BrokenMedia),
        "mkv-too-long": (corpus.clip(kind=MKV, fps=1, frames=130, gop=10), MediaTooLarge),
        "mkv-too-many-frames": (mkv(mkv_track(), *[mkv_cluster([jpeg[:20]] * 800, 1)] * 10), MediaTooLarge),
        "ebml-of-another-kind": (ebml(0x1A45DFA3, ebml(0x4282, b"other")), UnsupportedMedia),
    }
    ts_files = {
        "ts-tables-only": (ts[: 5 * _TS_PACKET], BrokenMedia),
        "ts-of-null-packets": (ts_packet(0x1FFF, b"", False) * 50_000, BrokenMedia),
        "ts-of-programs": (ts_of_programs(), BrokenMedia),
        "ts-noise-for-pictures": (ts_noise(ts), BrokenMedia),
        "ts-noise": (b"".join(b"G" + np.random.default_rng(0).bytes(187) for _ in range(2_000)), BrokenMedia),
        "ts-sound-only": (only_sound("mpegts"), BrokenMedia),
        "ts-too-long": (corpus.clip(kind="mpegts", fps=1, frames=130, gop=10), MediaTooLarge),
        "ts-strip": (
            sequence_size(corpus.clip(kind="mpegts", codec="mpeg2video", fps=25), 4080, 16),
            MediaTooLarge,
        ),
        "m2ts-noise": (b"".join(bytes(4) + b"G" + np.random.default_rng(0).bytes(187) for _ in range(50)), BrokenMedia),
    }
    ps_files = {
        "ps-header-only": (ps[:14], BrokenMedia),
        "ps-of-packs": (ps[:14] * 200_000, BrokenMedia),
        "ps-noise": (noise(ps, 14), BrokenMedia),
        "ps-of-start-codes": (ps[:14] + b"\0\0\1\xbd\0\0" * 500_000, BrokenMedia),
        "ps-packet-without-end": (ps[:14] + b"\0\0\1\xe0\xff\xff", BrokenMedia),
        "ps-sound-only": (only_sound("vob"), BrokenMedia),
        "ps-strip": (sequence_size(ps, 4080, 16), MediaTooLarge),
        "ps-too-long": (corpus.clip(kind="vob", codec="mpeg2video", fps=25, frames=3_100, gop=100), MediaTooLarge),
    }
    avi_files = {
        "avi-header-only": (motion[:24], BrokenMedia),
        "avi-without-frames": (avi(avi_stream()), BrokenMedia),
        "avi-cut-in-its-header": (motion[:150], BrokenMedia),
        "avi-noise-for-pictures": (avi(avi_stream(), frames=[noise(b"", 0, 0) + bytes(99)] * 9), BrokenMedia),
        "avi-of-streams": (avi(*[avi_stream()] * 1_000, frames=[jpeg]), MediaTooLarge),
        "avi-of-chunks": (avi(avi_stream(), frames=[jpeg], more=chunk(b"JUNK", b"") * 200_000), MediaTooLarge),
        "avi-index-of-a-billion": (avi(avi_stream(more=chunk(b"indx", index)), frames=[jpeg]), MediaTooLarge),
        "avi-chunk-without-end": (
            avi(avi_stream(), more=chunk(b"JUNK", b"", 0xFFFFFFF0))[:400],
            BrokenMedia,
        ),
        "avi-giant": (avi(avi_stream(width=60_000, height=60_000), frames=[giant] * 3), BrokenMedia),
        "avi-strip": (avi(avi_stream(width=6_000, height=16), frames=[strip] * 3), MediaTooLarge),
        "avi-unknown-codec": (corpus.clip(kind="avi", codec="ffv1"), UnsupportedMedia),
        "avi-sound-only": (only_sound("avi"), BrokenMedia),
        "avi-too-long": (avi(avi_stream(rate=(10, 1)), frames=[jpeg] * 20), MediaTooLarge),
        "avi-too-many-frames": (avi(avi_stream(rate=(1, 1000)), frames=[jpeg[:40]] * 7_300), MediaTooLarge),
    }
    mp4_files = {
        "mp4-of-nested-boxes": (nested(1_000), BrokenMedia),
        "mp4-hidden-index-of-a-billion": (hidden_index(liar), MediaTooLarge),
        "mp4-misspelt-index-of-a-billion": (hidden_index(liar, b"hoov"), MediaTooLarge),
        "mp4-table-in-a-description": (table_in_a_description(billion), MediaTooLarge),
        "mp4-truncated-with-millions-of-frames": (fast_liar[:-300], MediaTooLarge),
        "mp4-truncated-before-its-first-frame": (fast[: fast.index(b"mdat") + 4], BrokenMedia),
        "mp4-truncated-in-its-index": (fast[: fast.index(b"moov") + 200], BrokenMedia),
        "mp4-truncated-in-its-first-fragment": (_cut_in_the_first_fragment(), BrokenMedia),
        "3gp-truncated": (corpus.clip(kind="3gp")[:-100], BrokenMedia),
    }
    named = {
        "flv": (b"FLV\1\5" + bytes(60), UnsupportedMedia),
        "wmv": (b"0&\xb2u\x8ef\xcf\x11" + bytes(60), UnsupportedMedia),
        "wav": (riff(b"WAVE", chunk(b"fmt ", bytes(16))), UnsupportedMedia),
        "bare-h264": (b"\0\0\0\1\x67" + bytes(60), UnsupportedMedia),
        "bare-mpeg2": (b"\0\0\1\xb3" + bytes(60), UnsupportedMedia),
    }
    return mkv_files | ts_files | ps_files | avi_files | mp4_files | named


def _cut_in_the_first_fragment() -> bytes:
    data = corpus.clip(movflags="frag_keyframe+empty_moov+default_base_moof")
    return data[: data.index(b"moof") + 20]


def _crc(data: bytes) -> int:
    """Return the checksum of MPEG sections (ISO/IEC 13818-1, annex A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value
