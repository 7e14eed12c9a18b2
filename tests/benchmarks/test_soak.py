"""Tests of the soak: its checks, its load against a small server, and its samples."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from benchmarks import tables
from benchmarks.chaos.plan import File
from benchmarks.soak.__main__ import figures
from benchmarks.soak.checks import Observations, checks
from benchmarks.soak.load import Request, send
from benchmarks.soak.samples import Sample, course, role, watch
from benchmarks.usage import Usage, usage
from roadwork_serve.atomic_write import write_json
from roadwork_serve.schema import Problem
from tests.benchmarks.chaos_runs import verdict

FILES = [
    File("photo", "image/jpeg", b"photo" * 100, "still"),
    File("clip", "video/mp4", b"clip" * 100, "clip"),
    File("bad", "application/octet-stream", b"evil" * 75, "hostile", 415),
]


def request(name: str, outcome: str = "answered") -> Request:
    return Request(name, "still", "raw", outcome, "", 0.1)  # type: ignore[arg-type]


def sample(memory_mib: float = 1000.0, descriptors: int = 100, threads: int = 50) -> Sample:
    return Sample(0.0, {"Ingress": Usage(1, memory_mib, descriptors, threads), "Backbone": Usage(1, 0.0, 0, 0)})


def observations(**changed: object) -> Observations:
    requests = [request("one"), request("two"), request("left", "hung up"), request("bad", "client error")]
    found = Observations(
        60.0,
        requests,
        [sample()] * 20,
        {"one": 1, "two": 1, "left": 1},
        0,
        frozenset({1}),
        frozenset({1}),
        {"i": {"q": 0}},
    )
    return replace(found, **changed)  # type: ignore[arg-type]


def failed_claims(found: Observations) -> list[str]:
    return [check.claim for check in checks(found) if not check.passed]


def test_a_calm_run_passes_every_check() -> None:
    assert failed_claims(observations()) == []


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"rows": {"one": 1}}, "every answer is in the journal"),
        ({"dropped": 1}, "every answer is in the journal"),
        ({"rows": {"one": 1, "two": 2}}, "no request is in the journal twice"),
        ({"rows": {"one": 1, "two": 1, "bad": 1}}, "every other row is of"),
        ({"rows": {"one": 1, "two": 1, "stranger": 1}}, "every other row is of"),
        ({"requests": [request("one"), request("two"), request("left", "wrong")]}, "every request got an answer"),
        ({"samples": [sample()] * 18 + [sample(1031)] * 2}, "memory at the end"),
        ({"samples": [sample()] * 18 + [sample(descriptors=102)] * 2}, "descriptors at the end"),
        ({"samples": [sample()] * 18 + [sample(threads=51)] * 2}, "threads at the end"),
        ({"replicas_after": frozenset({2})}, "no replica was replaced"),
        ({"leftovers": {}}, "the server is idle"),
        ({"leftovers": {"i": {"q": 1}}}, "the server is idle"),
    ],
)
def test_each_fault_fails_its_check(changed: dict[str, object], claim: str) -> None:
    assert any(each.startswith(claim) for each in failed_claims(observations(**changed)))


def test_less_memory_at_the_end_and_more_at_the_start_are_no_leak() -> None:
    assert failed_claims(observations(samples=[sample(2000)] * 2 + [sample(1000)] * 16 + [sample(900)] * 2)) == []


def test_the_course_is_that_of_the_first_the_middle_and_the_last_tenth() -> None:
    found = course([1.0] * 10 + [5.0] * 35 + [2.0] * 10 + [5.0] * 35 + [4.0] * 10)
    assert (found.start, found.middle, found.end, found.growth) == (1.0, 2.0, 4.0, 1.0)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ray::ServeReplica:roadwork:Ingress.handle_request_with_rejection", "Ingress"),
        ("ray::ServeReplica:roadwork:Backbone", "Backbone"),
        ("ray::ProxyActor", "ProxyActor"),
        ("/venv/bin/python -u /venv/ray/dashboard/dashboard.py --host=127.0.0.1", "dashboard.py"),
        ("/venv/bin/python -m deployments.serve_program /tmp/serve.yaml", "deployments.serve_program"),
        ("/venv/ray/core/src/ray/raylet/raylet --port=1", "raylet"),
    ],
)
def test_a_process_has_the_role_that_its_command_line_names(command: str, expected: str) -> None:
    assert role(command) == expected


async def test_samples_cover_the_processes_of_the_session() -> None:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    samples: list[Sample] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            await watch(os.getsid(0), 0.01, samples)
    own = usage(os.getpid())
    for descriptor in held:
        os.close(descriptor)
    assert own.descriptors >= usage(os.getpid()).descriptors + 10
    assert samples[0].tree.memory_mib >= 0.5 * own.memory_mib and own.memory_mib > 20
    assert samples[0].tree.processes >= own.processes == 1


@asynccontextmanager
async def answering(seen: Counter[tuple[str, bool]]) -> AsyncIterator[str]:
    """Yield the address of a server that answers like ours, and counts bodies by content type and completeness."""

    async def classify(request: web.Request) -> web.Response:
        whole = False
        try:
            body = await request.read()
            whole = True
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=499)
        finally:
            seen[request.content_type, whole] += 1
        name = request.headers["X-Request-Id"]
        if b"evil" in body or b"ZXZpbGV2aWxl" in body:
            problem = Problem(type="urn:roadwork:problem:x", title="", status=415, detail="", instance=name)
            return web.Response(status=415, text=problem.model_dump_json(), content_type="application/problem+json")
        found = verdict(0.9, request_id=name)
        if b"clip" in body or b"video" in body:
            found = found.model_copy(update={"media": "clip"})
        return web.json_response(text=found.model_dump_json())

    application = web.Application(client_max_size=2**20)
    application.router.add_post("/v1/classify", classify)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        with suppress(TimeoutError):
            await runner.cleanup()


async def test_the_load_has_every_form_and_kind_and_follows_each_request_to_its_end() -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    async with answering(seen) as url:
        requests = await send(
            url, FILES, per_s=400, seconds=1.5, clients=3, seed=1, deadline_ms=20_000, stop=asyncio.Event()
        )
    assert {request.outcome for request in requests} == {"answered", "client error", "hung up"}
    assert {request.form for request in requests} == {"raw", "json", "form"}
    assert {request.kind for request in requests} == {"still", "clip", "hostile"}
    assert len({request.request_id for request in requests}) == len(requests)
    assert {request.kind for request in requests if request.outcome == "client error"} == {"hostile"}
    assert {"image/jpeg", "video/mp4", "application/json", "multipart/form-data"} <= {kind for kind, _ in seen}
    assert any(not whole for _, whole in seen)


async def test_a_server_that_is_not_there_answers_nothing() -> None:
    requests = await send(
        "http://127.0.0.1:9", FILES, per_s=50, seconds=0.5, clients=1, seed=1, deadline_ms=1000, stop=asyncio.Event()
    )
    assert {request.outcome for request in requests} == {"wrong"}


def test_the_result_is_tabled_by_process(tmp_path: Path) -> None:
    seen = observations(samples=[sample()] * 10 + [sample(1100)] * 2)
    write_json(tmp_path / "soak.json", figures(seen))
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["outcomes"] == {"answered": 2, "hung up": 1, "client error": 1}
    assert (result["journal_rows"], result["p50_s"], len(result["series"])) == (3, 0.1, 12)
    assert tables.soak(tmp_path).splitlines()[2:] == [
        "| memory of all processes, MiB | 1000 | 1000 | 1100 | +10.0% |",
        "| descriptors | 100 | 100 | 100 | +0.0% |",
        "| threads | 50 | 50 | 50 | +0.0% |",
        "| memory of Ingress, MiB | 1000 | 1000 | 1100 | +10.0% |",
    ]


async def test_the_load_ends_early_when_it_is_stopped() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await send("http://127.0.0.1:9", FILES, 50, 600, clients=2, seed=1, deadline_ms=1000, stop=stop) == []
