"""Hostile files and requests over a real server: each gets its documented problem, and leaves nothing behind."""

import base64
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from roadwork_serve.schema import Problem, Verdict
from tests import corpus
from tests.e2e.conftest import Cluster

WITHIN_S = 1.0
PASSES = 5
GROWTH_MIB = 64  # allowed growth of the heaps of the ingress and its decoders after two passes: a body or two
MAX_BYTES = 32 * 2**20  # of the profile
GOOD = corpus.encoded(corpus.picture())
PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
FORM = "multipart/form-data; boundary=x"


@dataclass(frozen=True)
class Attack:
    """A request, and the expected status and slug of its problem. to: its path under /v1."""

    body: bytes
    status: int
    slug: str
    kind: str = "application/octet-stream"
    to: str = "classify"
    headers: dict[str, str] = field(default_factory=dict)


def files() -> dict[str, Attack]:
    return {name: Attack(data, error.status, error.slug) for name, (data, error) in corpus.hostile_files().items()}


def requests(url: str) -> dict[str, Attack]:
    """Return requests that are invalid regardless of their media. url: an address that must not be requested."""
    photo = base64.b64encode(GOOD)
    nest = b"".join(b"--%d\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n" % (at, at + 1) for at in range(2_000))
    file = PART % (b"file", b'; filename="a.jpg"', GOOD)
    end = b"--x--\r\n"

    def bad(body: bytes, kind: str = "application/json", to: str = "classify") -> Attack:
        return Attack(body, 400, "bad-request", kind, to)

    def unsupported(body: bytes, kind: str = "application/json") -> Attack:
        return Attack(body, 415, "unsupported-media", kind)

    def too_large(body: bytes, kind: str = "application/json") -> Attack:
        return Attack(body, 413, "media-too-large", kind)

    return {
        "json-of-a-url": bad(json.dumps({"image": url}).encode()),
        "json-of-a-file-url": bad(b'{"image": "file:///etc/passwd"}'),
        "json-of-a-data-url": bad(b'{"image": "data:image/jpeg;base64,%s"}' % photo),
        "json-of-a-url-beside": bad(b'{"image": "%s", "image_url": "%s"}' % (photo, url.encode())),
        "json-base64-of-a-url": unsupported(json.dumps({"image": base64.b64encode(url.encode()).decode()}).encode()),
        "json-nested-lists": bad(b'{"image": ' + b"[" * 10_000_000),
        "json-nested-mappings": bad(b'{"image":' * 1_000_000),
        "json-nested-a-little": bad(b'{"image": ' + b"[" * 60 + b"]" * 60 + b"}"),
        "json-of-many-names": bad(b"{" + b",".join(b'"a%d":1' % at for at in range(2_000_000)) + b"}"),
        "json-of-a-long-name": bad(b'{"%s": 1}' % (b"a" * 20_000_000)),
        "json-of-a-long-number": bad(b'{"image": "%s", "deadline_ms": %s}' % (photo, b"9" * 1_000_000)),
        "json-of-half-a-character": bad(rb'{"image": "\ud800"}'),
        "json-in-utf-16": bad('{"image": ""}'.encode("utf-16")),
        "json-of-spaces": bad(b" " * 30_000_000),
        "json-of-nothing-but-padding": bad(b'{"image": "%s"}' % (b"=" * 40_000_000)),
        "json-with-a-fault-at-its-end": bad(b'{"image": "%s!"}' % (b"A" * 40_000_000)),
        "base64-bomb": too_large(b'{"image": "%s"}' % (b"A" * 50_000_000)),
        "base64-just-too-large": too_large(b'{"image": "%s"}' % base64.b64encode(GOOD + bytes(MAX_BYTES))),
        "base64-of-base64": unsupported(b'{"image": "%s"}' % base64.b64encode(photo)),
        "base64-of-a-gzip": unsupported(b'{"video": "%s"}' % base64.b64encode(corpus.hostile_files()["gzip"][0])),
        "form-of-10000-fields": bad(b"".join(PART % (b"a", b"", b"1") for _ in range(10_000)) + end, FORM),
        "form-of-10000-files": bad(file * 10_000 + end, FORM),
        "batch-of-10000-files": bad(file * 10_000 + end, FORM, "classify/batch"),
        "batch-of-no-file": bad(end, FORM, "classify/batch"),
        "form-nested": unsupported(PART % (b"file", b'; filename="a"', nest) + end, FORM),
        "form-of-many-headers": bad(b"--x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n" + end, FORM),
        "form-of-a-long-header": bad(b"--x\r\nA: " + b"b" * 10_000_000 + b"\r\n\r\n" + end, FORM),
        "form-of-almost-boundaries": bad(b"\r\n--" * 5_000_000, FORM),
        "form-of-a-long-boundary": bad(file, f"multipart/form-data; boundary={'x' * 5_000}"),
        "form-in-another-charset": bad(file + end, f"{FORM}; charset=idna"),
        "form-in-escapes": bad(file + end, f"{FORM}; charset=unicode_escape"),
        "form-of-a-long-field": bad(PART % (b"deadline_ms", b"", b"1" * 1_000_000) + end, FORM),
        "form-of-a-url": bad(PART % (b"url", b"", url.encode()) + end, FORM),
        "urlencoded": unsupported(b"a=1&" * 1_000_000, "application/x-www-form-urlencoded"),
        "xml": unsupported(b"<a>", "text/xml"),
        "packed-body": Attack(
            corpus.hostile_files()["gzip"][0],
            415,
            "unsupported-encoding",
            "image/jpeg",
            headers={"content-encoding": "gzip"},
        ),
        "too-many-bytes": too_large(GOOD + bytes(MAX_BYTES), "image/jpeg"),
    }


def send(client: httpx.Client, attack: Attack) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    response = client.post(
        f"/v1/{attack.to}", content=attack.body, headers={"content-type": attack.kind} | attack.headers
    )
    return response, time.monotonic() - began


def check(name: str, attack: Attack, response: httpx.Response) -> None:
    assert response.headers["content-type"] == "application/problem+json", f"{name}: {response.text[:200]}"
    document = Problem.model_validate_json(response.content)
    assert (response.status_code, document.status) == (attack.status, attack.status), f"{name}: {document}"
    assert document.type == f"urn:roadwork:problem:{attack.slug}", name
    assert len(response.content) < 2_000, name


def classify(client: httpx.Client, data: bytes) -> Verdict:
    response = client.post("/v1/classify", content=data, headers={"content-type": "application/octet-stream"})
    assert response.status_code == 200, response.text
    return Verdict.model_validate_json(response.content)


@contextmanager
def listening() -> Iterator[tuple[str, socket.socket]]:
    """Yield an address on this machine, and its listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/photo.jpg", server


def nobody_came(server: socket.socket) -> bool:
    try:
        server.accept()
    except BlockingIOError:
        return True
    return False


@pytest.fixture
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        yield client


def memory_mib(pids: Sequence[int]) -> float:
    """Return the memory of processes and their children in MiB; shared memory counts once."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
    tree = set(pids)
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    total = 0
    for each in tree:
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def test_every_attack_gets_its_problem_in_time_and_leaves_nothing_behind(cluster: Cluster, client: httpx.Client):
    ingress = cluster.pids()["Ingress"]
    took_s: dict[str, float] = {}
    held_mib: list[float] = []
    with listening() as (url, server):
        attacks = files() | requests(url)
        for _ in range(PASSES):
            for name, attack in attacks.items():
                response, each_s = send(client, attack)
                check(name, attack, response)
                took_s[name] = min(each_s, took_s.get(name, each_s))  # the fastest: others share the machine
            assert classify(client, GOOD).media == "photo"
            held_mib.append(memory_mib(ingress))
        assert nobody_came(server)
    assert not {name: each_s for name, each_s in took_s.items() if each_s > WITHIN_S}
    assert max(held_mib[2:]) - max(held_mib[:2]) < GROWTH_MIB, held_mib
    assert cluster.pids()["Ingress"] == ingress


def test_hostile_files_are_rejected_in_forms_json_and_batches_too(client: httpx.Client):
    attacks = {name: attack for name, attack in files().items() if attack.body}
    names = list(attacks)
    for name, attack in list(attacks.items())[::4]:
        text = base64.b64encode(attack.body).decode()
        check(name, attack, client.post("/v1/classify", json={"image": text}))
        check(name, attack, client.post("/v1/classify", files={"file": ("good.jpg", attack.body, "image/jpeg")}))
    for at in range(0, len(names), 16):
        some = [("file", (name, attacks[name].body, "image/jpeg")) for name in names[at : at + 16]]
        response = client.post("/v1/classify/batch", files=[*some, ("file", ("good", GOOD))])
        *refused, good = response.json()["results"]
        assert good["verdict"]["media"] == "photo"
        found = {entry["filename"]: (entry["problem"]["status"], entry["problem"]["type"]) for entry in refused}
        assert found == {
            name: (attacks[name].status, f"urn:roadwork:problem:{attacks[name].slug}") for name in names[at : at + 16]
        }


def test_data_beside_or_behind_an_image_changes_nothing(client: httpx.Client):
    for name, (data, plain) in corpus.odd_files().items():
        odd, usual = classify(client, data), classify(client, plain)
        assert (odd.media, odd.probability, odd.label) == (usual.media, usual.probability, usual.label), name


def test_an_address_in_a_clip_is_not_requested(client: httpx.Client):
    plain = classify(client, corpus.clip())
    with listening() as (url, server):
        clips = [data for data, error in corpus.addressed_files(url).values() if error is None]
        answers = [classify(client, data) for data in clips]
        assert nobody_came(server)
    assert len(answers) >= 3
    assert all((each.media, each.probability) == ("clip", plain.probability) for each in answers)


def raw(cluster: Cluster, data: bytes) -> socket.socket:
    """Open a connection, send these bytes, and return it."""
    host, port = cluster.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    try:
        connection.sendall(data)
    except OSError:
        connection.close()
        raise
    return connection


def read_problem(connection: socket.socket) -> tuple[int, str]:
    """Return status and slug of the problem received on a connection, and close it."""
    with connection:
        data = b""
        while b"}" not in data:
            data += connection.recv(65_536) or b"}"
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), Problem.model_validate_json(body).type.removeprefix("urn:roadwork:problem:")


HEAD = b"POST /v1/classify?deadline_ms=1000 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (HEAD + b"".join(b"X-%d: 1\r\n" % at for at in range(1_000)) + b"\r\n", (431, "headers-too-large")),
        (HEAD + b"X-Long: %s\r\n\r\n" % (b"a" * 50_000), (431, "headers-too-large")),
        (b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 50_000), (414, "request-uri-too-long")),
        (HEAD + b"Content-Length: 99999999999999999\r\n\r\nabc", (413, "media-too-large")),
        (HEAD + b"Content-Length: 100\r\n\r\nabc", (504, "deadline")),
        (CHUNKED + b"3\r\nabc\r\n", (504, "deadline")),
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", (415, "unsupported-media")),
        (CHUNKED + b"100000\r\n%s\r\n" % bytes(2**20) * 33, (413, "media-too-large")),
        (b"TRACE /v1/classify HTTP/1.1\r\nHost: localhost\r\nX-API-Key: k\r\n\r\n", (405, "method-not-allowed")),
        (b"POST /v1/classify HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", (415, "unsupported-media")),
    ],
    ids=["lines", "line", "target", "declared", "stopped", "slow", "whole", "endless", "trace", "old"],
)
def test_absurd_requests_get_their_problem(cluster: Cluster, data: bytes, problem: tuple[int, str]):
    assert read_problem(raw(cluster, data)) == problem


@pytest.mark.parametrize(
    "line", [b"X-1: 1\r\n" * 100_000, b"X-Long: %s\r\n" % (b"a" * 10_000_000)], ids=["lines", "line"]
)
def test_enormous_headers_are_not_read_to_their_end(cluster: Cluster, client: httpx.Client, line: bytes):
    try:
        with raw(cluster, HEAD + line + b"\r\n") as connection:
            assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    except ConnectionError:
        pass  # the proxy closes the connection while they are sent
    assert classify(client, GOOD).media == "photo"


def test_slow_bodies_do_not_delay_other_requests(cluster: Cluster, client: httpx.Client):
    slow = [raw(cluster, HEAD + b"Content-Length: 100000\r\n\r\nabc") for _ in range(50)]
    began = time.monotonic()
    assert classify(client, GOOD).media == "photo"
    assert time.monotonic() - began < 5
    assert {read_problem(connection) for connection in slow} == {(504, "deadline")}
