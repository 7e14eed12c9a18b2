"""The JSON form of a classification request, with the file in base64. Errors name what is wrong with either."""

import base64
import re
import string

from pydantic import ValidationError

from roadwork_serve.api.problem_details import echo
from roadwork_serve.api.upload import Upload
from roadwork_serve.errors import BadRequest
from roadwork_serve.schema import ClassifyRequest

_BOM = b"\xef\xbb\xbf"
_MAX_MARKS = 64  # of each kind in a JSON body, which needs no more than six
_NO_TEXT = re.compile(rb'"(image|video)"\s*:\s*[\[{]')
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://", re.I)
_ALPHABET = f"{string.ascii_letters}{string.digits}+/".encode()


def read_json(body: bytes) -> tuple[Upload, int | None]:
    """Return the file of a JSON body, and its deadline in milliseconds. Raises BadRequest."""
    body = body.removeprefix(_BOM)
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or body[:1] == b"\0" or body[1:2] == b"\0":
        raise BadRequest("the JSON is in UTF-16 or UTF-32; send it in UTF-8")
    if found := _NO_TEXT.search(body):
        raise BadRequest(
            f"`{found[1].decode()}` is a list of numbers or an object; send the bytes as text in standard base64, such "
            "as `buffer.toString('base64')` of Node"
        )
    if any(body.count(mark) > _MAX_MARKS for mark in (b'"', b",", b"[", b"{")):  # base64 has none of them
        raise BadRequest("the JSON contains more than `image` or `video` and `deadline_ms`; send only these")
    try:
        request = ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(f"{_where(each['loc'])}: {each['msg']}" for each in errors)
        if "control character" in text:
            text += "; base64 goes without line breaks"
        raise BadRequest(f"the JSON cannot be used: {text}") from None
    text = request.video if request.image is None else request.image
    if text is None or (request.image is not None and request.video is not None):
        raise BadRequest("the JSON must contain either `image` or `video`, in standard base64")
    return Upload(_bytes_of(text, "video" if request.image is None else "image")), request.deadline_ms


def _bytes_of(text: str, name: str) -> bytes:
    """Return what base64 encodes, with or without padding. Raises BadRequest naming what else the text is."""
    bare = text.removesuffix("=").removesuffix("=")
    if bare.endswith("="):
        raise BadRequest(f"`{name}` is not standard base64: {_fault(text)}")
    if len(bare) % 4 == 1 and not _others(bare):
        raise BadRequest(f"`{name}` is not standard base64: it is cut short, after {len(text):,} characters")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        raise BadRequest(f"`{name}` is not standard base64: {_fault(text)}") from None


def _others(text: str) -> bytes:
    """Return the characters that base64 does not have, padding among them."""
    return text.encode(errors="replace").translate(None, _ALPHABET)


def _fault(text: str) -> str:
    """Return why a text is not base64, and what to send instead."""
    if text[:5].lower() == "data:":
        return "it is a data: URL; send only what follows the comma"
    if _URL.match(text):
        return "it is a URL, and this server fetches none; send the bytes of the file"
    if text[:2] in ("b'", 'b"'):
        return "it is Python's notation of bytes; send `.decode()` of it"
    if "\n" in text or "\r" in text:
        return "it has line breaks; send it on one line"
    if " " in text:
        return "it has spaces, which a `+` becomes when it is decoded as a form; send it as JSON, unchanged"
    others = _others(text)
    if others and others.count(b"=") == len(others):
        return f"there is more after the padding at character {text.index('=') + 1:,}; send one file"
    if not others.translate(None, b"-_="):
        return "it is in the URL-safe alphabet; write `+` for `-` and `/` for `_`"
    foreign = others.decode(errors="replace")[:1]
    return (
        f"character {text.find(foreign) + 1:,} is {echo(foreign)}; it has letters, digits, `+`, `/` and at the end `=`"
    )


def _where(loc: tuple[int | str, ...]) -> str:
    return ".".join(echo(part).strip("'") for part in loc) or "body"
