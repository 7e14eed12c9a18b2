"""A photo and a clip from clients as they come, without settings of their own. `make test-clients` runs this."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests

from roadwork_serve.schema import Verdict
from tests.clients.conftest import Files

PROGRAMS = Path(__file__).with_name("programs")
BOTH = ["photo", "clip"]


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def kinds(text: str) -> list[str]:
    """Return the kinds of media of verdicts, one a line."""
    return [Verdict.model_validate_json(line).media for line in text.splitlines()]


def needs(program: str) -> str:
    """Return the path of a program, or skip the test."""
    return shutil.which(program) or pytest.skip(f"{program} is not installed here")


@pytest.fixture(scope="session")
def curl() -> str:
    program = needs("curl")
    if "HTTP2" not in output_of(program, "--version"):
        pytest.skip("this curl has no HTTP/2")
    return program


@pytest.mark.parametrize("more", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]])
def test_curl_that_offers_http2(url: str, files: Files, curl: str, more: list[str]) -> None:
    for (kind, path), media in zip([("image/jpeg", files.photo), ("video/mp4", files.clip)], BOTH, strict=True):
        head = ["-H", f"Content-Type: {kind}"]
        assert kinds(output_of(curl, "-sS", "--http2", *more, *head, "--data-binary", f"@{path}", url)) == [media]


def exchange(url: str, *parts: bytes) -> bytes:
    """Return the bytes with which the server answers others, until it closes the connection."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    with socket.create_connection((host, port), 60) as peer:
        for part in parts:
            peer.sendall(part)
            time.sleep(0.2)
        return b"".join(iter(lambda: peer.recv(2**16), b""))


def test_an_offer_of_http2_loses_no_body(url: str, files: Files) -> None:
    """The offer of RFC 7540, 3.2, as Java and curl make it, with the body in a packet of its own."""
    body = files.photo.read_bytes()
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    answered, _, verdict = exchange(url, head.encode(), body).partition(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert Verdict.model_validate_json(verdict).media == "photo"


def test_http2_without_an_offer_is_refused_and_harms_nobody(url: str, files: Files) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    assert exchange(url, preface).startswith(b"HTTP/1.1 4")
    assert httpx.post(url, content=files.photo.read_bytes(), timeout=60).status_code == 200


def test_curl_with_a_form(url: str, files: Files, curl: str) -> None:
    for path, media in zip([files.photo, files.clip], BOTH, strict=True):
        form = ["-F", f"file=@{path}", "-F", "deadline_ms=20000"]
        assert kinds(output_of(curl, "-sS", "--http2", *form, url)) == [media]
        base64 = ["-F", f"file=@{path};encoder=base64"]
        assert kinds(output_of(curl, "-sS", *base64, url)) == [media]


def test_the_http_client_of_java(url: str, files: Files) -> None:
    java = needs("java")
    if "jdk.compiler" not in output_of(java, "--list-modules"):
        pytest.skip("this Java has no compiler: install default-jdk-headless")
    assert kinds(output_of(java, str(PROGRAMS / "Post.java"), url, *files.arguments)) == BOTH


def test_the_http_client_of_go(url: str, files: Files) -> None:
    assert kinds(output_of(needs("go"), "run", str(PROGRAMS / "post.go"), url, *files.arguments)) == BOTH


def test_fetch_of_node(url: str, files: Files) -> None:
    assert kinds(output_of(needs("node"), str(PROGRAMS / "post.mjs"), url, *files.arguments)) == [
        "photo", "photo", "clip", "clip"
    ]  # fmt: skip


def test_a_form_as_net_writes_it(url: str, files: Files) -> None:
    """MultipartFormDataContent quotes its boundary, and sends a name that is not ASCII twice."""
    name = "=?utf-8?B?5Zyw54K5LmpwZw==?=", "utf-8''%E5%9C%B0%E7%82%B9.jpg"
    for path, media in zip([files.photo, files.clip], BOTH, strict=True):
        head = f'Content-Disposition: form-data; name=file; filename="{name[0]}"; filename*={name[1]}'
        body = b"--b-1\r\n" + head.encode() + b"\r\n\r\n" + path.read_bytes() + b"\r\n--b-1--\r\n"
        response = httpx.post(url, content=body, headers={"Content-Type": 'multipart/form-data; boundary="b-1"'})
        assert kinds(response.text) == [media]


def chunks(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 10_000):
        yield data[at : at + 10_000]


def test_requests_and_httpx(url: str, files: Files) -> None:
    for path, media in zip([files.photo, files.clip], BOTH, strict=True):
        data, named = path.read_bytes(), {"file": ("\u5730\u70b9.jpg", path.read_bytes())}
        texts = [
            requests.post(url, data=data, timeout=30).text,
            requests.post(url, data=chunks(data), timeout=30).text,
            requests.post(url, files=named, timeout=30).text,
            httpx.post(url, content=data, timeout=30).text,
            httpx.post(url, content=chunks(data), timeout=30).text,
            httpx.post(url, files=named, timeout=30).text,
            httpx.post(url, files={"file": (None, data)}, timeout=30).text,
        ]
        assert [kinds(text) for text in texts] == [[media]] * len(texts)
