"""Request bodies: raw media, a multipart form or JSON with base64, with limits enforced during the upload."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.requests import Request

from roadwork_serve.api.form_body import FormReader
from roadwork_serve.api.json_body import read_json
from roadwork_serve.api.problem_details import echo
from roadwork_serve.api.upload import Upload
from roadwork_serve.decimal_text import integer
from roadwork_serve.errors import BadRequest, MediaTooLarge, UnsupportedEncoding, UnsupportedMedia
from roadwork_serve.schema import MAX_DEADLINE_MS

OnBytes = Callable[[int], None]  # called with the size of each chunk before it is stored

_ENVELOPE_BYTES = 64 * 1024  # that a form or JSON may add around the media
_FORM = "multipart/form-data"
_URL_FORM = "application/x-www-form-urlencoded"


def body_may_set_deadline(request: Request) -> bool:
    """Return whether the body may contain a deadline, so that it is unknown before the body has been read."""
    kind = _content_type(request)
    return kind == _FORM or _is_json(kind)


async def read_one(request: Request, max_bytes: int, on_bytes: OnBytes) -> tuple[Upload, int | None]:
    """Return the file of a request in any of the accepted forms, and the deadline in milliseconds from its body.

    Raises BadRequest, UnsupportedMedia, and MediaTooLarge as soon as more than `max_bytes` of media have arrived.

    Args:
        request: The request.
        max_bytes: Limit on the media.
        on_bytes: Called with the size of every chunk before it is stored; an error that it raises ends the upload.
    """
    kind = _content_type(request)
    if _is_json(kind):
        body = await _read(request, max_bytes, max_bytes // 3 + _ENVELOPE_BYTES, on_bytes)
        return await asyncio.to_thread(read_json, body)
    if kind == _FORM:
        files, deadline_ms = await _read_form(request, max_bytes, 1, on_bytes)
        return files[0], deadline_ms
    if kind == _URL_FORM:
        raise UnsupportedMedia(
            f"Content-Type is {_URL_FORM}, which curl sends when it is given no other; add -H 'Content-Type: "
            "image/jpeg', and use --data-binary, because -d removes bytes"
        )
    if kind.startswith("multipart/"):
        raise UnsupportedMedia(f"Content-Type is {echo(kind)}; send {_FORM}, or the bytes of the file as the body")
    return Upload(await _read(request, max_bytes, 0, on_bytes)), None  # of any other type: the bytes decide


async def read_many(
    request: Request, max_files: int, max_bytes: int, on_bytes: OnBytes
) -> tuple[list[Upload], int | None]:
    """Return the files of a multipart form in their order, and its deadline in milliseconds.

    Raises BadRequest, UnsupportedMedia, and MediaTooLarge as soon as more than `max_bytes` in all have arrived.
    """
    kind = _content_type(request)
    if kind != _FORM:
        raise UnsupportedMedia(f"Content-Type is {echo(kind) if kind else 'missing'}; a batch is {_FORM}")
    return await _read_form(request, max_bytes, max_files, on_bytes)


async def read_whole(request: Request, max_bytes: int) -> bytes:
    """Return the body. Raises MediaTooLarge as soon as more has arrived, or is declared."""
    return await _read(request, max_bytes, 0, lambda _: None)


def declared_length(request: Request) -> int | None:
    """Return the size of the body by its head; None if it does not tell. Raises BadRequest if it is no number."""
    declared = request.headers.get("content-length")
    return None if declared is None else _length(declared)


def read_stream(request: Request, max_bytes: int) -> AsyncGenerator[bytes]:
    """Return the chunks of a body that is a file as it is.

    Raises UnsupportedMedia for a form or JSON, and MediaTooLarge as soon as more than `max_bytes` are declared or have
    arrived.
    """
    kind = _content_type(request)
    if _is_json(kind) or kind == _URL_FORM or kind.startswith("multipart/"):
        raise UnsupportedMedia(
            f"Content-Type is {echo(kind)}; send the bytes of the clip as the body, as `curl -X POST -T clip.mp4` does"
        )
    return _limited(request, max_bytes, 0, lambda _: None)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind in ("application/json", "text/json") or kind.endswith("+json")


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
    _check_encoding(request)
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
    _check_complete(request, size)


def _check_encoding(request: Request) -> None:
    """Raise UnsupportedEncoding if the body is compressed or otherwise encoded (RFC 9110, 8.4)."""
    for header in request.headers.getlist("content-encoding"):
        for coding in header.split(","):
            if coding.strip().lower() not in ("", "identity"):
                raise UnsupportedEncoding(
                    f"Content-Encoding is {echo(header)}; send the body as it is, without this header"
                )


def _check_complete(request: Request, size: int) -> None:
    """Raise BadRequest if less of the body has arrived than its head promises. This is no fault of the file."""
    headers = request.headers
    chunked, upgrade = "transfer-encoding" in headers, headers.get("upgrade")
    declared = 0 if chunked else _length(headers.get("content-length", "0"))
    if size >= declared and not (size == 0 and chunked and upgrade):
        return
    cure = "send all of it"
    if upgrade:
        cure = (
            f"its head offers {echo(upgrade)}, which this server's connection does not get past: use HTTP/1.1 "
            "(`--http1.1` for curl, `version(HTTP_1_1)` for Java's HttpClient) or the reverse proxy of ops/proxy, and "
            "start the server with `roadwork serve`, which ignores such offers"
        )
    raise BadRequest(
        f"of the {declared:,} bytes of the body {size:,} arrived; {cure}"
        if declared
        else f"nothing of the body arrived; {cure}"
    )


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
    form = FormReader(request.headers["content-type"], max_files)
    files = await form.read(_limited(request, max_bytes, _ENVELOPE_BYTES, on_bytes))
    deadline_ms = None
    for name, value in form.fields:
        if name != "deadline_ms":
            raise BadRequest(
                f"unknown field {echo(name)}; a form has files and `deadline_ms`; the part of a file has a `filename`, "
                "or a Content-Type such as image/jpeg"
            )
        try:
            deadline_ms = integer(value)
        except ValueError:
            deadline_ms = 0
        if not 1 <= deadline_ms <= MAX_DEADLINE_MS:
            raise BadRequest(f"deadline_ms is {echo(value)}; write an integer from 1 to {MAX_DEADLINE_MS}")
    if not files:
        raise BadRequest("the form contains no file; send it as field `file`, as `curl -F file=@FILE` does")
    return files, deadline_ms
