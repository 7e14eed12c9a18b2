"""An uploaded file and its name."""

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from roadwork_serve.printable import printable

MAX_FILENAME = 255  # characters; longer names are truncated


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file."""

    data: bytes
    #: Name as the client sent it; empty if it sent none.
    filename: str = ""


def filename_of_header(value: str) -> str:
    """Return the name in an X-File-Name header, as the server decoded it: UTF-8, or UTF-8 in percent-encoding.

    Raises ValueError if it is neither.
    """
    return unquote_to_bytes(value.encode("latin-1")).decode("utf-8")


def recorded_filename(name: str) -> str:
    """Return a client's name of a file as the journal records it: on one line, without control characters, bounded."""
    return printable(name[:MAX_FILENAME]).strip()
