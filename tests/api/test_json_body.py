"""Files in JSON: base64 as clients write it, and errors that name what is wrong."""

import base64
import json

import pytest

from roadwork_serve.api.json_body import read_json
from roadwork_serve.errors import BadRequest

DATA = bytes(range(256)) + b"\xfb\xff\xbf\xfa"
TEXT = base64.b64encode(DATA).decode()


def body_of(text: object, name: str = "image") -> bytes:
    return json.dumps({name: text}).encode()


@pytest.mark.parametrize(
    "body",
    [
        body_of(TEXT),
        b"\xef\xbb\xbf" + body_of(TEXT),
        body_of(TEXT.rstrip("=")),
        body_of(TEXT).replace(b"/", rb"\/"),
        body_of(TEXT, "video"),
        b" \r\n" + body_of(TEXT) + b"\n",
    ],
)
def test_base64_is_read(body: bytes) -> None:
    upload, deadline_ms = read_json(body)
    assert (upload.data, deadline_ms) == (DATA, None)


@pytest.mark.parametrize("size", range(7))
def test_any_length_is_read_with_and_without_padding(size: int) -> None:
    text = base64.b64encode(DATA[-7:][:size]).decode()
    assert read_json(body_of(text))[0].data == read_json(body_of(text.rstrip("=")))[0].data == DATA[-7:][:size]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (body_of(f"data:image/jpeg;base64,{TEXT}"), "data: URL"),
        (body_of(f"DATA:;base64,{TEXT}"), "data: URL"),
        (body_of("https://a.example/photo.jpg"), "fetches none"),
        (body_of("s3://bucket/photo.jpg"), "fetches none"),
        (body_of("file:///photo.jpg"), "fetches none"),
        (body_of(base64.urlsafe_b64encode(DATA).decode()), "URL-safe alphabet"),
        (body_of(TEXT.replace("+", " ")), "spaces"),
        (body_of(base64.encodebytes(DATA).decode()), "line breaks"),
        (b'{"image": "' + base64.encodebytes(DATA) + b'"}', "line breaks"),
        (body_of(f"b'{TEXT}'"), "Python's notation"),
        (body_of(list(DATA)), "list of numbers"),
        (body_of({"type": "Buffer", "data": list(DATA)}), "list of numbers"),
        (body_of(list(DATA), "video"), "`video` is a list"),
        (body_of(TEXT[:5]), "cut short"),
        (body_of("YQ==YQ=="), "after the padding at character 3"),
        (body_of("YQ!a"), "character 3 is '!'"),
        (body_of("YQ\u00e4a"), "character 3 is '\u00e4'"),
        (body_of("===="), "padding"),
        (body_of(TEXT).decode().encode("utf-16"), "UTF-16"),
        (body_of(TEXT).decode().encode("utf-16-le"), "UTF-16"),
        (body_of(TEXT).decode().encode("utf-16-be"), "UTF-16"),
    ],
)
def test_an_error_names_what_is_wrong(body: bytes, fault: str) -> None:
    with pytest.raises(BadRequest, match=fault) as found:
        read_json(body)
    assert len(str(found.value)) < 300
