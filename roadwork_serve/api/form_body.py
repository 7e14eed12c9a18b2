"""Multipart forms (RFC 7578), as leniently as their bytes stay unambiguous. Errors name what is wrong with the form.

A part is a file if it has a file name (`filename`, or `filename*` as older clients send it), the type of a file, the
name of one (`file`, `image`, `video` and the like), or the first bytes of a photo or clip. Every other part is a field.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from roadwork_serve.api.problem_details import echo
from roadwork_serve.api.upload import MAX_FILENAME, Upload
from roadwork_serve.errors import BadRequest, MediaError
from roadwork_serve.media.sniff import sniff

_MAX_FIELDS = 8
_MAX_FIELD_BYTES = 1024
_MAX_PREAMBLE = 16 * 1024  # bytes before the first boundary, which RFC 2046, 5.1.1, lets readers ignore
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
_FILE_NAME = re.compile(
    r"(files?|images?|img|photos?|pictures?|pics?|videos?|clips?|media|uploads?)[_-]?\d*(\[.*\])?", re.I
)
_FIELD_TYPES = (b"", b"text/plain", b"application/json", b"application/x-www-form-urlencoded")
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")
_EXTENDED_NAME = re.compile(rb"""filename\*\s*=\s*"?(utf-8|iso-8859-1)'[^']*'([^;"\s]*)""", re.I)  # RFC 8187
_LINES = "the lines of the form end in LF; end them in CRLF, as RFC 2046 asks, or let an HTTP library write the form"


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    name: str = ""
    filename: str = ""
    #: Content-Transfer-Encoding.
    encoding: str = ""
    #: None until its bytes are known, if nothing else decides.
    is_file: bool | None = None
    data: bytearray = field(default_factory=bytearray)


class FormReader:
    """Reads one form.

    Args:
        content_type: The Content-Type of the request.
        max_files: Largest number of files.

    Raises:
        BadRequest: The Content-Type has no boundary, or another charset than UTF-8.
    """

    def __init__(self, content_type: str, max_files: int) -> None:
        options = parse_options_header(content_type)[1]
        charset, boundary = options.get(b"charset", _CHARSETS[0]), options.get(b"boundary", b"")
        if charset.lower() not in _CHARSETS:  # other codecs fail in unexpected ways, or return half characters
            raise BadRequest(f"the form's charset is {echo(charset.decode('latin-1'))}; send names in UTF-8")
        if not boundary:
            raise BadRequest(
                "the Content-Type of the form has no boundary; let the HTTP library that writes the form set the header"
            )
        callbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # pyright: ignore[reportArgumentType]
        except FormParserError:
            raise BadRequest(f"the boundary of the form has {len(boundary):,} bytes; use at most 70") from None
        self._delimiter = b"--" + boundary
        self._max_files = max_files
        self._preamble: bytearray | None = bytearray()  # None once the first boundary has been found
        self._ended = False
        self._part: _Part | None = None
        self._header_name, self._header_value = b"", b""
        self._files: list[_Part] = []
        self.fields: list[tuple[str, str]] = []

    async def read(self, chunks: AsyncIterator[bytes]) -> list[Upload]:
        """Return the files, and keep the fields in `fields`. Raises BadRequest if it is malformed or incomplete."""
        async for chunk in chunks:
            self._feed(chunk)
        if self._preamble is not None:
            raise self._no_boundary(self._preamble)
        if not self._ended:
            raise self._cut_short()
        return [await _upload(part) for part in self._files]

    def _feed(self, chunk: bytes) -> None:
        if self._preamble is not None:
            self._preamble += chunk
            begins = self._first_boundary(self._preamble)
            if (len(self._preamble) if begins is None else begins) > _MAX_PREAMBLE:
                raise self._no_boundary(self._preamble)
            if begins is None:
                return
            chunk, self._preamble = bytes(self._preamble[begins:]), None
            if chunk.startswith(self._delimiter + b"\n"):
                raise BadRequest(_LINES)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from None

    def _first_boundary(self, preamble: bytearray) -> int | None:
        """Return the index of the first boundary, with the byte that follows it, on a line of its own."""
        at = preamble.find(self._delimiter)
        while at > 0 and preamble[at - 1] not in b"\n":
            at = preamble.find(self._delimiter, at + 1)
        return at if 0 <= at < len(preamble) - len(self._delimiter) else None

    def _no_boundary(self, preamble: bytearray) -> BadRequest:
        if not preamble:
            return BadRequest("the form is empty; send a file as field `file`, as `curl -F file=@FILE` does")
        wanted = echo(self._delimiter.decode("latin-1"))
        found = echo(preamble[:60].decode("latin-1"))
        return BadRequest(
            f"no line of the form is the boundary of its Content-Type, {wanted}; it begins with {found}; let the HTTP "
            "library that writes the form set the header"
        )

    def _cut_short(self) -> BadRequest:
        part = self._part
        if part is not None and (b"\n" + self._delimiter) in part.data:
            return BadRequest(_LINES)
        where = "" if part is None or not part.name else f", within its part {echo(part.name)}"
        last = echo(self._delimiter.decode("latin-1") + "--")
        return BadRequest(f"the form ends before its last boundary, {last}{where}; send all of it")

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        if b"\n" in data[start:end]:
            raise BadRequest(_LINES)
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._current.headers[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _on_headers_finished(self) -> None:
        part = self._current
        disposition = part.headers.get(b"content-disposition", b"")
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise BadRequest(
                "a part of the form has no name; each needs a header such as `Content-Disposition: form-data; "
                'name="file"; filename="photo.jpg"`'
            )
        part.name = _text(options[b"name"])
        extended = _EXTENDED_NAME.search(disposition)
        if extended is not None:  # the complete name, if there are two (RFC 6266, 4.3)
            name = unquote_to_bytes(extended[2])
            part.filename = name.decode("latin-1") if extended[1].lower() == b"iso-8859-1" else _text(name)
        else:
            part.filename = _text(options.get(b"filename", b""))
        part.encoding = part.headers.get(b"content-transfer-encoding", b"").decode("latin-1").strip().lower()
        if part.encoding not in (*_PLAIN_ENCODINGS, "base64"):
            raise BadRequest(
                f"the Content-Transfer-Encoding of part {echo(part.name)} is {echo(part.encoding)}; send the bytes as "
                "they are, without this header"
            )
        kind = parse_options_header(part.headers.get(b"content-type"))[0].strip()
        named = b"filename" in options or extended is not None
        if part.name == "deadline_ms":
            part.is_file = False
        elif named or kind not in _FIELD_TYPES or part.encoding == "base64" or _FILE_NAME.fullmatch(part.name):
            self._add_file(part)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current
        part.data += data[start:end]
        if not part.is_file and len(part.data) > _MAX_FIELD_BYTES:
            self._decide(part)
            if not part.is_file:
                raise BadRequest(f"the field {echo(part.name)} has more than {_MAX_FIELD_BYTES:,} bytes")

    def _on_part_end(self) -> None:
        part, self._part = self._current, None
        self._decide(part)
        if not part.is_file and part.name != "_charset_":  # which browsers may add
            self.fields.append((part.name, _text(bytes(part.data))))
            if len(self.fields) > _MAX_FIELDS:
                raise BadRequest(f"the form has more than {_MAX_FIELDS} fields; send files and `deadline_ms` only")

    def _on_end(self) -> None:
        self._ended = True

    @property
    def _current(self) -> _Part:
        if self._part is None:
            raise AssertionError("the parser begins a part before it reports its content")
        return self._part

    def _decide(self, part: _Part) -> None:
        """Tell by its bytes whether a part is a file, if its headers do not."""
        if part.is_file is None:
            try:
                sniff(bytes(part.data))
            except MediaError:
                part.is_file = False
            else:
                self._add_file(part)

    def _add_file(self, part: _Part) -> None:
        part.is_file = True
        self._files.append(part)
        if len(self._files) > self._max_files:
            raise BadRequest(
                "the form has more than 1 file; send one, or several to /v1/classify/batch"
                if self._max_files == 1
                else f"the form has more than {self._max_files} files; send more in another request"
            )


async def _upload(part: _Part) -> Upload:
    data = await asyncio.to_thread(_from_base64, part) if part.encoding == "base64" else bytes(part.data)
    part.data.clear()
    return Upload(data, part.filename[:MAX_FILENAME])


def _from_base64(part: _Part) -> bytes:
    try:
        return base64.b64decode(b"".join(part.data.split()), validate=True)
    except binascii.Error:
        raise BadRequest(
            f"the Content-Transfer-Encoding of part {echo(part.name)} is base64, and its bytes are not; send the bytes "
            "as they are, without this header"
        ) from None


def _malformed(error: FormParserError) -> BadRequest:
    if "Maximum header" in str(error):
        return BadRequest("a part of the form has more than 8 headers, or one of more than 4,096 bytes; send less")
    return BadRequest(
        "the form is malformed: the headers of a part are not lines such as `Content-Type: image/jpeg` that end in "
        "CRLF; let an HTTP library write the form"
    )


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
