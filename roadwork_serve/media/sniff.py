"""Detection of the media type from the first bytes."""

from roadwork_serve.errors import BrokenMedia, UnsupportedMedia

_STILLS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_UNSUPPORTED = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF or raw photo",
    b"MM\0*": "a TIFF or raw photo",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x0a": "a JPEG XL",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"<": "HTML, SVG or XML text",
    b"\x1aE\xdf\xa3": "a Matroska clip",
    b"RIFF": "an AVI or WAV",
    b"FLV": "a Flash clip",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis", b"crx "}
_MOV_ATOMS = {
    b"moov",
    b"mdat",
    b"wide",
    b"free",
    b"skip",
    b"pnot",
}  # a MOV may start with any of them; QuickTime has no magic number


def sniff(data: bytes) -> str:
    """Return the media type: image/jpeg, image/png, image/webp, video/mp4, video/quicktime or video/webm.

    Raises:
        BrokenMedia: There are no bytes.
        UnsupportedMedia: The format is another; the message names it.
    """
    if not data:
        raise BrokenMedia("the file is empty; send the bytes of a photo or a clip")
    for magic, mime in _STILLS.items():
        if data.startswith(magic):
            return mime
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:4] == b"\x1aE\xdf\xa3" and b"webm" in data[:80]:  # the DocType is in the EBML header
        return "video/webm"
    if data[4:8] == b"ftyp" and data[8:12] not in _HEIF_BRANDS:
        return "video/quicktime" if data[8:12] == b"qt  " else "video/mp4"
    if data[4:8] in _MOV_ATOMS and data[0] < 0x20:  # a size comes first, not text
        return "video/quicktime"
    raise UnsupportedMedia(f"the bytes are {_named(data)}; send a JPEG, PNG or WebP photo or an MP4, MOV or WebM clip")


def _named(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "a HEIF, AVIF or raw photo"
    for magic, name in _UNSUPPORTED.items():
        if data.startswith(magic):
            return name
    return f"of an unknown format (they start with {data[:8].hex(' ')})"
