"""Multipart forms as clients write them, well and badly."""

import base64
from collections.abc import AsyncIterator

import pytest

from roadwork_serve.api.form_body import FormReader
from roadwork_serve.api.upload import Upload
from roadwork_serve.errors import BadRequest

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20
KIND = "multipart/form-data; boundary=xyz"
#: Messages of the libraries below, which speak of their own code.
FOREIGN = ("Part exceeded", "Invalid multipart", "Missing boundary", "must be provided", "Did not find", "Too many")


def form(*parts: tuple[bytes, bytes], newline: bytes = b"\r\n", end: bytes = b"--xyz--\r\n") -> bytes:
    """Return a form of parts: the headers, one a line, and the content."""
    made = [b"--xyz" + newline + head.replace(b"\n", newline) + newline * 2 + data + newline for head, data in parts]
    return b"".join(made) + end


def named(rest: bytes = b"", name: bytes = b"file", more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + rest + more


async def read(
    body: bytes, kind: str = KIND, max_files: int = 3, step: int | None = None
) -> tuple[list[Upload], list[tuple[str, str]]]:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), step or len(body) or 1):
            yield body[at : at + (step or len(body))]

    reader = FormReader(kind, max_files)
    return await reader.read(chunks()), reader.fields


@pytest.mark.parametrize("step", [None, 1, 7, 64])
@pytest.mark.parametrize(
    ("head", "filename"),
    [
        (named(b'; filename="a.jpg"'), "a.jpg"),
        (named(), ""),
        (named(more=b"\nContent-Type: text/plain"), ""),
        (named(name=b"images[]"), ""),
        (named(name=b"photo_1"), ""),
        (named(name=b"Video"), ""),
        (named(name=b"attachment", more=b"\nContent-Type: image/jpeg"), ""),
        (named(name=b"attachment", more=b"\nContent-Type: application/octet-stream"), ""),
        (named(name=b"attachment", more=b"\nContent-Type: binary/octet-stream"), ""),
        (named(name=b"attachment"), ""),  # its bytes are a photo's
        (named(b"; filename*=UTF-8''%E5%9C%B0%E7%82%B9.jpg"), "\u5730\u70b9.jpg"),
        (named(b"; filename*=iso-8859-1'de'stra%DFe.jpg"), "stra\u00dfe.jpg"),
        (named(b"; filename=__.jpg; filename*=utf-8''%E5%9C%B0.jpg"), "\u5730.jpg"),  # .NET
        (named(b'; filename="stra\xc3\x9fe.jpg"'), "stra\u00dfe.jpg"),
        (named(b'; filename="stra\xdfe.jpg"'), "stra\u00dfe.jpg"),
        (named(b"; filename=plain.jpg"), "plain.jpg"),
        (named(b'; filename=""'), ""),
        (named(b'; filename="a.jpg"', more=b"\nContent-Transfer-Encoding: binary"), "a.jpg"),
        (b"content-type: image/jpeg\n" + named(), ""),
    ],
)
async def test_a_part_is_a_file_if_its_type_name_or_bytes_say_so(head: bytes, filename: str, step: int | None) -> None:
    files, fields = await read(form((named(name=b"deadline_ms"), b"2000"), (head, JPEG)), step=step)
    assert files == [Upload(JPEG, filename)]
    assert fields == [("deadline_ms", "2000")]


async def test_a_deadline_stays_a_field_and_other_text_is_none_of_the_files() -> None:
    blob = named(b'; filename="blob"', b"deadline_ms", b"\nContent-Type: text/plain")
    note = named(name=b"note")
    files, fields = await read(form((blob, b"5"), (note, b"hello"), (named(name=b"_charset_"), b"utf-8")))
    assert (files, fields) == ([], [("deadline_ms", "5"), ("note", "hello")])


@pytest.mark.parametrize("encoded", [base64.b64encode(JPEG), base64.encodebytes(JPEG).replace(b"\n", b"\r\n")])
async def test_base64_is_decoded(encoded: bytes) -> None:
    files, _ = await read(form((named(more=b"\nContent-Transfer-Encoding: BASE64"), encoded)))
    assert files == [Upload(JPEG)]


@pytest.mark.parametrize("preamble", [b"\r\n", b"This is a multipart message.\r\n", b"about --xyz\r\n", b"\n"])
@pytest.mark.parametrize("step", [None, 1])
async def test_a_preamble_and_an_epilogue_are_ignored(preamble: bytes, step: int | None) -> None:
    files, _ = await read(preamble + form((named(), JPEG)) + b"the end", step=step)
    assert files == [Upload(JPEG)]


@pytest.mark.parametrize(
    ("body", "kind", "fault"),
    [
        (form((named(), JPEG), newline=b"\n", end=b"--xyz--\n"), KIND, "lines of the form end in LF"),
        (form((named(), JPEG)).replace(b"\r\n\r\n", b"\n\n", 1), KIND, "lines of the form end in LF"),
        (form((named(), b"abc")).replace(b"\r\n--xyz--\r\n", b"\n--xyz--\n"), KIND, "lines of the form end in LF"),
        (b"", KIND, "the form is empty"),
        (JPEG, KIND, "no line of the form is the boundary"),
        (b"a" * 20_000 + form((named(), JPEG)), KIND, "no line of the form is the boundary"),
        (form((named(), JPEG)), "multipart/form-data; boundary=other", "'--other'; it begins with '--xyz"),
        (form((named(), JPEG)), "multipart/form-data", "has no boundary"),
        (form((named(), JPEG)), "multipart/form-data; boundary=", "has no boundary"),
        (form((named(), JPEG)), "multipart/form-data; boundary=" + "x" * 400, "at most 70"),
        (form((named(), JPEG), end=b""), KIND, "ends before its last boundary, '--xyz--'"),
        (form((named(), JPEG))[:500], KIND, "within its part 'file'"),
        (form((b"Content-Disposition: form-data", JPEG)), KIND, "a part of the form has no name"),
        (form((b"Content-Type: image/jpeg", JPEG)), KIND, "a part of the form has no name"),
        (form((named(more=b"\nA: b" * 20), JPEG)), KIND, "more than 8 headers"),
        (form((named(more=b"\nA: " + b"b" * 9000), JPEG)), KIND, "more than 8 headers"),
        (form((named(more=b"\nno header"), JPEG)), KIND, "malformed"),
        (form((named(more=b"\nContent-Transfer-Encoding: quoted-printable"), JPEG)), KIND, "'quoted-printable'"),
        (form((named(more=b"\nContent-Transfer-Encoding: gzip"), JPEG)), KIND, "'gzip'"),
        (form((named(more=b"\nContent-Transfer-Encoding: base64"), JPEG)), KIND, "is base64, and its bytes are not"),
        (form((named(name=b"note"), b"a" * 2000)), KIND, "the field 'note' has more than 1,024 bytes"),
        (form((named(name=b"deadline_ms"), JPEG)), KIND, "the field 'deadline_ms' has more than 1,024 bytes"),
        (form(*[(named(name=b"note"), b"a")] * 9), KIND, "more than 8 fields"),
        (form(*[(named(), JPEG)] * 4), KIND, "more than 3 files"),
        (form(*[(named(name=b"attachment"), JPEG[:500])] * 4), KIND, "more than 3 files"),
    ],
)
async def test_an_error_names_what_is_wrong_with_the_form(body: bytes, kind: str, fault: str) -> None:
    with pytest.raises(BadRequest) as found:
        await read(body, kind)
    assert fault in str(found.value) and len(str(found.value)) < 400
    assert not any(text in str(found.value) for text in FOREIGN)
