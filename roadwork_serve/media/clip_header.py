"""Headers of clips: the size of a frame and the number of frames that they declare. Nothing is decoded.

It serves to schedule clips, like `header` for photos; the decoder checks sizes again.
"""

import re
import struct

from roadwork_serve.clip_formats import AVI, MKV, MPEG_PS, MPEG_TS, WEBM
from roadwork_serve.errors import MediaError
from roadwork_serve.media.boxes import BoxTree
from roadwork_serve.media.header import Header

_SEARCHED = 64 * 2**10  # bytes
_MAX_BOXES = 4_000  # it is read in the event loop
_EBML_NUMBER = rb"(?:\x81(.)|\x82(..)|\x83(...))"
_EBML_SIZE = re.compile(rb"\xb0" + _EBML_NUMBER + rb"\xba" + _EBML_NUMBER, re.DOTALL)  # PixelWidth, PixelHeight
_SEQUENCE_HEADER = re.compile(rb"\x00\x00\x01\xb3(...)", re.DOTALL)  # ISO/IEC 13818-2, 6.2.2.1
_SPS = re.compile(rb"\x00\x00\x01[\x27\x47\x67](.{4,64})", re.DOTALL)  # ITU-T H.264, 7.3.1 and 7.3.2.1
_CHROMA_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))


def read_clip_header(data: bytes, mime: str) -> Header | None:
    """Return what the header of a clip of a known type declares; None if that is not found."""
    try:
        match mime:
            case WEBM.mime | MKV.mime:
                return _matroska(data)
            case AVI.mime:
                return _avi(data)
            case MPEG_TS.mime | MPEG_PS.mime:
                return _elementary(data[:_SEARCHED])
            case _:
                return _mp4(data)
    except (struct.error, IndexError, MediaError):
        return None


def _mp4(data: bytes) -> Header | None:
    """Return the largest picture of the tracks (ISO/IEC 14496-12, 8.5.2 and 12.1.3) and the most samples (8.7.3)."""
    tree = BoxTree(data, _MAX_BOXES)
    if tree.movie is None:
        return None
    width = height = frames = 0
    for box in tree.below(tree.movie):
        if tree.handler != b"vide":
            continue
        if box.kind == b"stsd":
            size = struct.unpack_from(">HH", data, box.start + 40)
            width, height = max((width, height), size, key=lambda each: each[0] * each[1])
        elif box.kind == b"stsz":
            frames = max(frames, struct.unpack_from(">I", data, box.start + 8)[0])
    return Header(width, height, frames=frames) if width * height else None


def _matroska(data: bytes) -> Header | None:
    found = _EBML_SIZE.search(data, 0, _SEARCHED)
    if found is None:
        return None
    width, height = (int.from_bytes(each, "big") for each in found.groups() if each is not None)
    return Header(width, height, frames=0)


def _avi(data: bytes) -> Header | None:
    """Return the size in the main header (AVIMAINHEADER), which cameras write first."""
    if data[12:16] != b"LIST" or data[20:28] != b"hdrlavih":
        return None
    (frames,) = struct.unpack_from("<I", data, 48)
    width, height = struct.unpack_from("<II", data, 64)
    return Header(width, height, frames=frames) if width * height else None


def _elementary(data: bytes) -> Header | None:
    """Return the size in the first sequence header of MPEG-1, MPEG-2 or H.264."""
    if found := _SEQUENCE_HEADER.search(data):
        sizes = int.from_bytes(found[1], "big")
        return Header(sizes >> 12, sizes & 0xFFF, frames=0)
    if found := _SPS.search(data):
        return _sps(found[1].replace(b"\0\0\3", b"\0\0"))
    return None


def _sps(data: bytes) -> Header | None:
    """Return the size in a sequence parameter set of H.264."""
    bits = _Bits(data[3:])
    bits.golomb()  # id
    if data[0] in _CHROMA_PROFILES:
        if bits.golomb() == 3:  # chroma_format_idc
            bits.read(1)
        bits.golomb()  # bit depths
        bits.golomb()
        bits.read(1)
        if bits.read(1):  # a scaling matrix, which hardly anyone sends
            return None
    bits.golomb()  # log2_max_frame_num_minus4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(255, bits.golomb())):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    bits.read(1)
    width, height = bits.golomb() + 1, bits.golomb() + 1  # in macroblocks
    fields = 2 - bits.read(1)
    return Header(16 * width, 16 * height * fields, frames=0)


class _Bits:
    """The bits of a header, read in order. Raises IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        """Return an unsigned number of this many bits."""
        if count > self._left:
            raise IndexError(count)
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return an unsigned Exp-Golomb number (H.264, 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
