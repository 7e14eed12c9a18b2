"""Request bodies: raw media, a multipart form or JSON with base64, with limits kept while they are read."""

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
from roadwork_serve.errors import BadRequest, MediaTooLarge, UnsupportedMedia
from roadwork_serve.schema import MAX_DEADLINE_MS, ClassifyRequest

OnBytes = Callable[[int], None]

ACCEPTED = "image/*, video/*, application/octet-stream, multipart/form-data or application/json"

_ENVELOPE_BYTES = 64 * 1024  # what a form or JSON may add around the media
_SPOOL_BYTES = 8 * 2**20  # a larger file of a form waits on disk until the form is complete
_MAX_FILENAME = 255  # characters; what is beyond is cut off
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
_MAX_MARKS = 64  # of each kind in a JSON body, which needs no more than six


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as the client sent it. Empty filename: it had none."""

    data: bytes
    filename: str = ""


def body_may_set_deadline(request: Request) -> bool:
    """Whether the body has a place for a deadline beside the media: what is allowed is not known before it is read."""
    return _content_type(request) in ("application/json", "multipart/form-data")


async def read_one(request: Request, max_bytes: int, take: OnBytes) -> tuple[Upload, int | None]:
    """The file of a request in any of the accepted forms, and the deadline in milliseconds its body named.

    take: told of every chunk before it is kept; what it raises ends the reading.
    Raises BadRequest, MediaTooLarge as soon as more than `max_bytes` of media have arrived, UnsupportedMedia.
    """
    kind = _content_type(request)
    if kind in ("", "application/octet-stream") or kind.startswith(("image/", "video/")):
        return Upload(await _read(request, max_bytes, 0, take)), None
    if kind == "application/json":
        body = await _read(request, max_bytes, max_bytes // 3 + _ENVELOPE_BYTES, take)
        return await asyncio.to_thread(_from_json, body)
    if kind == "multipart/form-data":
        files, deadline_ms = await _read_form(request, max_bytes, 1, take)
        return files[0], deadline_ms
    raise UnsupportedMedia(f"Content-Type is {echo(kind)}; send {ACCEPTED}")


async def read_many(request: Request, max_files: int, max_bytes: int, take: OnBytes) -> tuple[list[Upload], int | None]:
    """The files of a multipart form in their order, and the deadline in milliseconds it named.

    Raises BadRequest, MediaTooLarge as soon as more than `max_bytes` in all have arrived, UnsupportedMedia.
    """
    kind = _content_type(request)
    if kind != "multipart/form-data":
        raise UnsupportedMedia(f"Content-Type is {echo(kind) if kind else 'missing'}; a batch is multipart/form-data")
    return await _read_form(request, max_bytes, max_files, take)


async def read_whole(request: Request, max_bytes: int) -> bytes:
    """The body as it was sent. Raises MediaTooLarge as soon as more has arrived, or is announced."""
    return await _read(request, max_bytes, 0, lambda _: None)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, max_bytes: int, envelope: int, take: OnBytes) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, max_bytes, envelope, take)])


async def _limited(request: Request, max_bytes: int, envelope: int, take: OnBytes) -> AsyncGenerator[bytes]:
    """The body chunk by chunk, up to its limit; a body that declares more is not read at all.

    max_bytes: of media. envelope: bytes of what may be around them.
    """
    limit = max_bytes + envelope
    too_large = MediaTooLarge(f"the request is larger than {max_bytes:,} bytes of media; send less")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        take(len(chunk))
        yield chunk


async def _read_form(
    request: Request, max_bytes: int, max_files: int, take: OnBytes
) -> tuple[list[Upload], int | None]:
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", _CHARSETS[0])
    if charset.lower() not in _CHARSETS:  # Python has codecs that fail in ways of their own, or leave half characters
        raise BadRequest(f"the form's charset is {echo(charset.decode('latin-1'))}; send names in UTF-8")
    body = _limited(request, max_bytes, _ENVELOPE_BYTES, take)
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
            raise BadRequest("the form holds no complete file; send it as field `file`, as `curl -F file=@FILE` does")
        return [Upload(await part.read(), name) for part, name in files], deadline_ms
    finally:
        for file in parser._files_to_close_on_error:  # the form's own close leaves out a file whose part never ended
            file.close()


def _fields(form: FormData) -> int | None:
    """The deadline among the fields that are no files; any other field is an error."""
    deadline_ms = None
    for name, value in form.multi_items():
        if isinstance(value, str):
            if name != "deadline_ms":
                raise BadRequest(f"unknown field {echo(name)}; a form has files and `deadline_ms`")
            if not value.isdecimal() or not 1 <= int(value) <= MAX_DEADLINE_MS:
                raise BadRequest(f"deadline_ms is {echo(value)}; write whole milliseconds from 1 to {MAX_DEADLINE_MS}")
            deadline_ms = int(value)
    return deadline_ms


def _from_json(body: bytes) -> tuple[Upload, int | None]:
    if any(body.count(mark) > _MAX_MARKS for mark in (b'"', b",", b"[", b"{")):  # base64 has none of them
        raise BadRequest("the JSON holds far more than `image` or `video` and `deadline_ms`; send these alone")
    try:
        asked = ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        raise BadRequest(
            "the JSON cannot be used: " + "; ".join(f"{_where(each['loc'])}: {each['msg']}" for each in told)
        ) from None
    text = asked.video if asked.image is None else asked.image
    if text is None or (asked.image is not None and asked.video is not None):
        raise BadRequest("the JSON must hold one of `image` and `video`, as standard base64")
    try:
        return Upload(base64.b64decode(text, validate=True)), asked.deadline_ms
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"{'video' if asked.image is None else 'image'} is no standard base64 ({error}); "
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
