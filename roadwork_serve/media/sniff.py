"""Detection of the media type from the first bytes."""

from roadwork_serve.clip_formats import CLIP_NAMES, clip_format
from roadwork_serve.errors import BrokenMedia, UnsupportedMedia
from roadwork_serve.still_formats import STILL_NAMES, still_format

_UNSUPPORTED = {
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"<": "HTML, SVG or XML text",
    b"RIFF": "a WAV or another RIFF file",
}
_UNSUPPORTED_CLIPS = {
    b"FLV": "a Flash clip",
    b"\x1aE\xdf\xa3": "an EBML file, neither WebM nor MKV",
    b"0&\xb2u\x8ef\xcf\x11": "a Windows Media clip (ASF)",
    b"OggS": "an Ogg file",
    b".RMF": "a RealMedia clip",
    b"\0\0\0\1": "bare H.264 or H.265 video without a container",
    b"\0\0\1\xb3": "bare MPEG video without a container",
    b"\0\0\1": "bare video without a container",
    b"DHAV": "a Dahua recording (DAV)",
    b"IMKH": "a Hikvision recording",
    b"\x06\x0e+4\x02\x05\x01\x01": "an MXF clip",
}
_RAW_BRAND = b"crx "
_CURE = ", for example converted with `ffmpeg -i CLIP out.mp4`"


def sniff(data: bytes) -> str:
    """Return the media type: that of one of `STILL_FORMATS` or of `CLIP_FORMATS`.

    Raises:
        BrokenMedia: There are no bytes.
        UnsupportedMedia: The format is another; the message names it.
    """
    if not data:
        raise BrokenMedia("the file is empty; send the bytes of a photo or a clip")
    if (still := still_format(data)) is not None:
        return still.mime
    raw = data[4:8] == b"ftyp" and data[8:12] == _RAW_BRAND
    if not raw and (clip := clip_format(data)) is not None:
        return clip.mime
    named = _named_clip(data)
    raise UnsupportedMedia(
        f"the bytes are {named or _named(data)}; send a {STILL_NAMES} photo or a clip as {CLIP_NAMES}"
        f"{_CURE if named else ''}"
    )


def _named_clip(data: bytes) -> str | None:
    """Return the name of a clip format that is not read; None if it is no clip."""
    return next((name for magic, name in _UNSUPPORTED_CLIPS.items() if data.startswith(magic)), None)


def _named(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "a raw photo of a camera"
    for magic, name in _UNSUPPORTED.items():
        if data.startswith(magic):
            return name
    return f"of an unknown format (they start with {data[:8].hex(' ')})"
