"""The routes of jobs: who may see which, limits, and the way of a clip from the upload to the verdicts."""

import asyncio
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import httpx
import numpy as np
import pytest

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.job_routes import job_routes
from roadwork_serve.api.jobs import JobService
from roadwork_serve.errors import BrokenMedia, NotFound, NotReady, Overloaded
from roadwork_serve.media import Clip, read
from roadwork_serve.profiles.jobs import JobSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import Job, JobPage, JobSummary, Verdict
from roadwork_serve.testbed import scenes
from tests import corpus
from tests.api.test_classify_routes import FakeService
from tests.journal.made import verdict

JOB = Job(
    id="0" * 32, state="done", created_at="2026-11-29T05:00:00+00:00", size=3, completed=0, completed_s=0, windows=[]
)
KEYS = {name: {"name": name, "role": role, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name, role in (("ann", "admin"), ("bob", "client"), ("cam", "client"))}  # fmt: skip
LIMITS = MediaLimits(max_seconds=2.0, max_bytes=2**20)


class Jobs:
    """The routes' service with one job, which belongs to everyone."""

    async def submit(self, body: AsyncGenerator[bytes], *_: object) -> JobSummary:
        assert b"".join([chunk async for chunk in body])
        return JobSummary.model_validate(JOB.model_dump(exclude={"windows"}))

    async def get(self, job: str, caller: str | None) -> Job:
        return JOB

    async def list(self, caller: str | None, limit: int) -> JobPage:
        return JobPage(jobs=[await self.cancel(JOB.id, caller)])

    async def cancel(self, job: str, caller: str | None) -> JobSummary:
        return JobSummary.model_validate(JOB.model_dump(exclude={"windows"}))


@dataclass
class Judge:
    """Judges windows by their length, on an event loop without stages."""

    profile: Profile
    windows: list[bytes] = field(default_factory=list[bytes])
    #: Raised by the next windows, one each.
    errors: list[Exception] = field(default_factory=list[Exception])
    #: Windows wait for it.
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def receiving(self):
        yield SimpleNamespace(reserve_bytes=lambda size: None)

    @contextmanager
    def admission(self):
        yield

    async def classify_media(self, data: bytes, deadline_s: float, request_id: str, context: object) -> Verdict:
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.windows.append(data)
        return verdict(request_id, 0.9 if len(self.windows) == 2 else 0.1)


@dataclass
class Server:
    judge: Judge
    jobs: JobService
    client: httpx.AsyncClient

    def files(self) -> list[Path]:
        return list(Path(self.judge.profile.jobs.folder).glob("*.clip"))

    async def send(self, data: bytes, name: str = "bob", **headers: str) -> httpx.Response:
        return await self.client.post("/v1/jobs", content=data, headers={"X-API-Key": name, **headers})

    async def get(self, path: str, name: str = "bob") -> httpx.Response:
        return await self.client.get(path, headers={"X-API-Key": name})

    async def until(self, job: str, holds: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(60):
            while not holds(found := (await self.get(f"/v1/jobs/{job}")).json()):  # noqa: ASYNC110 - as clients do
                await asyncio.sleep(0.02)
        return found


def profile_in(folder: Path, **settings: Any) -> Profile:
    spec = JobSpec(folder=str(folder / "jobs"), **settings)
    return load_profile("mini").model_copy(update={"media": LIMITS, "jobs": spec})


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Server]]:
    running: list[JobService] = []

    def started(work: bool = True, **settings: Any) -> Server:
        judge = Judge(profile_in(tmp_path, **settings))
        jobs = JobService(judge, pause_s=0.01)
        running.append(jobs)
        auth = Authenticator.from_environment(1, {"ROADWORK_KEYS": json.dumps(list(KEYS.values()))})
        app = http_app(FakeService(), auth)
        app.include_router(job_routes(jobs, judge.profile.jobs, auth))
        if work:
            jobs.start()
        return Server(judge, jobs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"))

    yield started
    for jobs in running:
        await jobs.aclose()


def clip(seconds: int = 7, suffix: str = "mp4", codec: str = "libx264") -> bytes:
    """Return a clip of noise with a key frame each second."""
    file, rng = io.BytesIO(), np.random.default_rng(1)
    with av.open(file, "w", format=suffix) as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 10
        stream.codec_context.time_base = Fraction(1, 10)
        for at in range(10 * seconds):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            frame.pts = at
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


FORMATS = [("mp4", "libx264"), ("mpegts", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mjpeg")]


@pytest.mark.parametrize(("suffix", "codec"), FORMATS)
async def test_a_long_clip_is_judged_in_windows(serve: Callable[..., Server], suffix: str, codec: str) -> None:
    server = serve()
    server.judge.gate.set()
    sent = await server.send(clip(7, suffix, codec), **{"X-File-Name": "drive.mp4", "X-Request-Key": "car 1"})
    assert sent.status_code == 202 and sent.json()["state"] in ("waiting", "running")
    job = await server.until(sent.json()["id"], lambda job: job["state"] not in ("waiting", "running"))
    assert job["state"] == "done" and job["filename"] == "drive.mp4" and job["problem"] is None
    windows = job["windows"]
    assert windows[0]["start_s"] == 0 and windows[-1]["end_s"] == pytest.approx(6.9, abs=0.2)
    assert all(0 < each["end_s"] - each["start_s"] <= LIMITS.max_seconds for each in windows[:-1])
    assert all(later["start_s"] - each["end_s"] < 0.3 for each, later in pairwise(windows))
    assert job["completed"] == len(windows) == len(server.judge.windows) >= 4
    assert (job["label"], job["probability"], job["highest_start_s"]) == ("roadwork", 0.9, windows[1]["start_s"])
    frames = [read(data, LIMITS) for data in server.judge.windows]
    assert all(isinstance(each, Clip) and not each.incomplete for each in frames)
    assert sum(each.seconds for each in frames if isinstance(each, Clip)) == pytest.approx(7, abs=0.7)
    assert server.files() == []


async def test_callers_see_their_own_jobs_and_admins_all(serve: Callable[..., Server]) -> None:
    server = serve(work=False)
    job = (await server.send(clip(1))).json()["id"]
    for name, status in (("bob", 200), ("ann", 200), ("cam", 404), ("nobody", 401)):
        assert (await server.get(f"/v1/jobs/{job}", name)).status_code == status
    assert [len((await server.get("/v1/jobs", name)).json()["jobs"]) for name in ("bob", "cam", "ann")] == [1, 0, 1]
    assert (await server.client.delete(f"/v1/jobs/{job}", headers={"X-API-Key": "cam"})).status_code == 404
    assert (await server.get(f"/v1/jobs/{'a' * 32}")).status_code == 404
    assert (await server.get("/v1/jobs/../../etc")).status_code == 404
    assert (await server.get("/v1/jobs/x")).status_code == 400


async def test_without_keys_the_list_needs_the_admin_token(tmp_path: Path) -> None:
    jobs = JobService(Judge(profile_in(tmp_path)))
    auth = Authenticator.from_environment(1, {"ROADWORK_STATE": str(tmp_path)})
    app = http_app(FakeService(), auth)
    app.include_router(job_routes(jobs, jobs._spec, auth))
    token = (tmp_path / "admin-token").read_text()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        job = (await client.post("/v1/jobs", content=clip(1))).json()["id"]
        assert (await client.get("/v1/jobs")).status_code == 401
        assert (await client.get(f"/v1/jobs/{job}")).json()["id"] == job
        listed = await client.get("/v1/jobs", headers={"X-API-Key": token})
        assert [each["id"] for each in listed.json()["jobs"]] == [job]
    await jobs.aclose()


async def test_a_job_survives_a_restart_and_continues_where_it_was(serve: Callable[..., Server]) -> None:
    first = serve()
    job = (await first.send(clip(7))).json()["id"]
    first.judge.errors += [BrokenMedia("cannot be read")]
    first.judge.gate.set()
    await first.until(job, lambda found: found["completed"] >= 1)
    first.judge.gate.clear()
    await first.jobs.aclose()
    done = len(first.judge.windows) + 1
    second = serve()
    second.judge.gate.set()
    found = await second.until(job, lambda found: found["state"] == "done")
    assert found["windows"][0]["problem"]["detail"] == "cannot be read"
    assert len(second.judge.windows) == found["completed"] - done


async def test_a_cancelled_job_stops_and_frees_its_place(serve: Callable[..., Server]) -> None:
    server = serve(max_waiting=1)
    job = (await server.send(clip(7))).json()["id"]
    await server.until(job, lambda found: found["state"] == "running")
    assert (await server.send(clip(1))).status_code == 503
    cancelled = await server.client.delete(f"/v1/jobs/{job}", headers={"X-API-Key": "bob"})
    assert cancelled.json()["state"] == "cancelled"
    server.judge.gate.set()
    other = (await server.send(clip(1))).json()["id"]
    assert (await server.until(other, lambda found: found["state"] == "done"))["completed"] == 1
    assert (await server.get(f"/v1/jobs/{job}")).json()["completed"] == 0
    assert (await server.client.delete(f"/v1/jobs/{other}", headers={"X-API-Key": "bob"})).json()["state"] == "done"


async def test_a_busy_server_is_asked_again(serve: Callable[..., Server]) -> None:
    server = serve()
    server.judge.errors += [Overloaded("full"), NotReady("still loading: vlm"), Overloaded("full")]
    server.judge.gate.set()
    job = (await server.send(clip(1))).json()["id"]
    found = await server.until(job, lambda found: found["state"] == "done")
    assert [each["problem"] for each in found["windows"]] == [None]


async def test_the_verdict_on_the_end_of_a_truncated_clip_is_incomplete(serve: Callable[..., Server]) -> None:
    server = serve()
    server.judge.gate.set()
    data = corpus.index_first(corpus.clip(60, size=(320, 240), gop=10))
    job = (await server.send(data[: len(data) * 3 // 4])).json()["id"]
    found = await server.until(job, lambda found: found["state"] in ("done", "failed"))
    said = [each["verdict"]["incomplete"] for each in found["windows"]]
    assert len(said) > 1 and said == [*[False] * (len(said) - 1), True]


async def test_a_damaged_clip_fails_its_job_alone(serve: Callable[..., Server]) -> None:
    server = serve(max_seconds=5)
    server.judge.gate.set()
    whole = clip(3)
    jobs = [(await server.send(data)).json()["id"] for data in (whole[:400], clip(7), whole)]
    found = [await server.until(job, lambda found: found["state"] in ("done", "failed")) for job in jobs]
    assert [each["state"] for each in found] == ["failed", "failed", "done"]
    assert "index" in found[0]["problem"]["detail"] and "longer than 5 seconds" in found[1]["problem"]["detail"]


async def test_what_is_no_clip_or_too_large_leaves_nothing(serve: Callable[..., Server]) -> None:
    server = serve(work=False, max_bytes=100_000, max_total_bytes=110_000)

    async def unknown_size() -> AsyncIterator[bytes]:
        yield clip(1)

    cases: list[tuple[Any, dict[str, str], int]] = [
        (scenes.photo(1).jpeg(), {}, 415),
        (b"", {}, 400),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (bytes(100_001), {}, 413),
        (bytes(200_000), {}, 413),
    ]
    for data, headers, status in cases:
        assert (await server.send(data, **headers)).status_code == status
    assert server.files() == [] and (await server.get("/v1/jobs", "ann")).json() == {"jobs": []}
    assert (await server.send(unknown_size())).status_code == 202  # type: ignore[arg-type]
    assert (await server.send(clip(1))).status_code == 202
    assert (await server.send(unknown_size())).status_code == 503  # type: ignore[arg-type]  # it may need 100,000 bytes


async def test_an_upload_ends_in_time(serve: Callable[..., Server]) -> None:
    server = serve(work=False, max_upload_s=0.1)

    async def endless() -> AsyncIterator[bytes]:
        yield clip(1)
        await asyncio.sleep(60)

    assert (await server.send(endless())).status_code == 408  # type: ignore[arg-type]
    assert server.files() == [] and (await server.get("/v1/jobs", "ann")).json() == {"jobs": []}


async def test_files_of_jobs_are_private_whatever_the_umask_and_the_folder(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir(mode=0o755)
    mask = os.umask(0o022)
    try:
        server = serve(work=False)
        job = (await server.send(clip(1))).json()["id"]
        with closing(sqlite3.connect(folder / "jobs.db")) as reader:  # while it is open, its log stays
            assert reader.execute("SELECT id FROM jobs").fetchall() == [(job,)]
            await server.get(f"/v1/jobs/{job}")
            modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys((f"{job}.clip", "jobs.db", "jobs.db-wal", "jobs.db-shm"), 0o600)


@pytest.mark.parametrize("removed", ["jobs", "jobs/jobs.db"])
async def test_what_was_removed_is_made_anew_for_the_next_job(
    serve: Callable[..., Server], tmp_path: Path, removed: str
) -> None:
    server = serve()
    server.judge.gate.set()
    old = (await server.send(clip(1))).json()["id"]
    await server.until(old, lambda job: job["state"] == "done")
    (tmp_path / removed).rename(tmp_path / "gone")  # at once; the server may be writing there
    assert (await server.get(f"/v1/jobs/{old}")).status_code == 404
    new = (await server.send(clip(1))).json()["id"]
    assert (await server.until(new, lambda job: job["state"] == "done"))["completed"] == 1


async def test_results_are_deleted_after_a_time(serve: Callable[..., Server]) -> None:
    server = serve(keep_hours=1e-6)
    server.judge.gate.set()
    job = (await server.send(clip(1))).json()["id"]
    async with asyncio.timeout(30):
        while (await server.get(f"/v1/jobs/{job}")).status_code != 404:  # noqa: ASYNC110 - as clients do
            await asyncio.sleep(0.02)
    assert server.files() == [] and (await server.get("/v1/jobs", "ann")).json() == {"jobs": []}


async def test_a_job_of_nobody_is_not_found(tmp_path: Path) -> None:
    jobs = JobService(Judge(profile_in(tmp_path)))
    with pytest.raises(NotFound):
        await jobs.get("0" * 32, None)
    await jobs.aclose()
