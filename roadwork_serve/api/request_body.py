"""Request bodies: raw media, a multipart form or JSON with base64, with limits enforced during the upload."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from roadwork_serve.api.problem_details import echo
from roadwork_serve.decimal_text import integer
from roadwork_serve.errors import BadRequest, MediaTooLarge, UnsupportedMedia
from roadwork_serve.schema import MAX_DEADLINE_MS, ClassifyRequest

OnBytes = Callable[[int], None]  # called with the size of each chunk before it is stored

ACCEPTED = "image/*, video/*, application/octet-stream, multipart/form-data or application/json"

_ENVELOPE_BYTES = 64 * 1024  # that a form or JSON may add around the media
_SPOOL_BYTES = 8 * 2**20  # a larger file of a form is on disk until the form is complete
_MAX_FILENAME = 255  # characters; longer names are truncated
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
_MAX_MARKS = 64  # of each kind in a JSON body, which needs no more than six


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file."""

    data: bytes
    #: Name as the client sent it; empty if it sent none.
    filename: str = ""


def body_may_set_deadline(request: Request) -> bool:
    """Return whether the body may contain a deadline, so that it is unknown before the body has been read."""
    return _content_type(request) in ("application/json", "multipart/form-data")


async def read_one(request: Request, max_bytes: int, on_bytes: OnBytes) -> tuple[Upload, int | None]:
    """Return the file of a request in any of the accepted forms, and the deadline in milliseconds from its body.

    Raises BadRequest, UnsupportedMedia, and MediaTooLarge as soon as more than `max_bytes` of media have arrived.

    Args:
        request: The request.
        max_bytes: Limit on the media.
        on_bytes: Called with the size of every chunk before it is stored; an error that it raises ends the upload.
    """
    kind = _content_type(request)
    if kind in ("", "application/octet-stream") or kind.startswith(("image/", "video/")):
        return Upload(await _read(request, max_bytes, 0, on_bytes)), None
    if kind == "application/json":
        body = await _read(request, max_bytes, max_bytes // 3 + _ENVELOPE_BYTES, on_bytes)
        return await asyncio.to_thread(_from_json, body)
    if kind == "multipart/form-data":
        files, deadline_ms = await _read_form(request, max_bytes, 1, on_bytes)
        return files[0], deadline_ms
    raise UnsupportedMedia(f"Content-Type is {echo(kind)}; send {ACCEPTED}")


async def read_many(
    request: Request, max_files: int, max_bytes: int, on_bytes: OnBytes
) -> tuple[list[Upload], int | None]:
    """Return the files of a multipart form in their order, and its deadline in milliseconds.

    Raises BadRequest, UnsupportedMedia, and MediaTooLarge as soon as more than `max_bytes` in all have arrived.
    """
    kind = _content_type(request)
    if kind != "multipart/form-data":
        raise UnsupportedMedia(f"Content-Type is {echo(kind) if kind else 'missing'}; a batch is multipart/form-data")
    return await _read_form(request, max_bytes, max_files, on_bytes)


async def read_whole(request: Request, max_bytes: int) -> bytes:
    """Return the body. Raises MediaTooLarge as soon as more has arrived, or is declared."""
    return await _read(request, max_bytes, 0, lambda _: None)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, max_bytes: int, envelope: int, on_bytes: OnBytes) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, max_bytes, envelope, on_bytes)])


async def _limited(request: Request, max_bytes: int, envelope: int, on_bytes: OnBytes) -> AsyncGenerator[bytes]:
    """Yield the chunks of the body up to its limit. A body that declares more is not read at all.

    Args:
        request: The request.
        max_bytes: Limit on the media.
        envelope: Bytes allowed around the media.
        on_bytes: Called with the size of every chunk.
    """
    limit = max_bytes + envelope
    too_large = MediaTooLarge(f"the request is larger than {max_bytes:,} bytes of media; send less")
    declared = request.headers.get("content-length")
    if declared is not None and _length(declared) > limit:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        on_bytes(len(chunk))
        yield chunk


def _length(declared: str) -> int:
    """Return a Content-Length, or its first digits. Raises BadRequest."""
    try:
        if (length := integer(declared[:40])) >= 0:
            return length
    except ValueError:
        pass
    raise BadRequest(f"Content-Length is {echo(declared)}; send the size of the body in decimal digits")


async def _read_form(
    request: Request, max_bytes: int, max_files: int, on_bytes: OnBytes
) -> tuple[list[Upload], int | None]:
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", _CHARSETS[0])
    if charset.lower() not in _CHARSETS:  # other codecs fail in unexpected ways, or return half characters
        raise BadRequest(f"the form's charset is {echo(charset.decode('latin-1'))}; send names in UTF-8")
    body = _limited(request, max_bytes, _ENVELOPE_BYTES, on_bytes)
    parser = MultiPartParser(request.headers, body, max_files=max_files, max_fields=8, max_part_size=1024)
    parser.spool_max_size = _SPOOL_BYTES
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(f"the form cannot be read: {error.message}") from None
    try:
        deadline_ms = _fields(form)
        files = [
            (part, (part.filename or "")[:_MAX_FILENAME])
            for _, part in form.multi_items()
            if isinstance(part, UploadFile)
        ]
        if not files:
            raise BadRequest(
                "the form contains no complete file; send it as field `file`, as `curl -F file=@FILE` does"
            )
        return [Upload(await part.read(), name) for part, name in files], deadline_ms
    finally:
        for file in parser._files_to_close_on_error:  # closing the form misses a file whose part never ended
            file.close()


def _fields(form: FormData) -> int | None:
    """Return the deadline from the fields that are not files. Raises BadRequest for any other field."""
    deadline_ms = None
    for name, value in form.multi_items():
        if isinstance(value, str):
            if name != "deadline_ms":
                raise BadRequest(f"unknown field {echo(name)}; a form has files and `deadline_ms`")
            try:
                deadline_ms = integer(value)
            except ValueError:
                deadline_ms = 0
            if not 1 <= deadline_ms <= MAX_DEADLINE_MS:
                raise BadRequest(f"deadline_ms is {echo(value)}; write an integer from 1 to {MAX_DEADLINE_MS}")
    return deadline_ms


def _from_json(body: bytes) -> tuple[Upload, int | None]:
    if any(body.count(mark) > _MAX_MARKS for mark in (b'"', b",", b"[", b"{")):  # base64 has none of them
        raise BadRequest("the JSON contains more than `image` or `video` and `deadline_ms`; send only these")
    try:
        body_fields = ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise BadRequest(
            "the JSON cannot be used: " + "; ".join(f"{_where(each['loc'])}: {each['msg']}" for each in errors)
        ) from None
    text = body_fields.video if body_fields.image is None else body_fields.image
    if text is None or (body_fields.image is not None and body_fields.video is not None):
        raise BadRequest("the JSON must contain either `image` or `video`, in standard base64")
    try:
        return Upload(base64.b64decode(text, validate=True)), body_fields.deadline_ms
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"{'video' if body_fields.image is None else 'image'} is not standard base64 ({error}); "
            "send it without line breaks and without a data: prefix"
        ) from None


def _where(loc: tuple[int | str, ...]) -> str:
    return ".".join(echo(part).strip("'") for part in loc) or "body"


def _request_body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DEADLINE = {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS}
ONE_FILE = _request_body(
    {
        "image/*": _BINARY,
        "video/*": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": _BINARY["schema"], "deadline_ms": _DEADLINE},
                "required": ["file"],
            }
        },
        "application/json": {
            "schema": ClassifyRequest.model_json_schema(),
            "example": {"image": "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==", "deadline_ms": 2000},
        },
    }
)
MANY_FILES = _request_body(
    {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "array", "items": _BINARY["schema"]},
                    "deadline_ms": _DEADLINE,
                },
                "required": ["file"],
            }
        }
    }
)
