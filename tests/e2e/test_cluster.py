"""The whole application under a real Ray Serve, with stages without models."""

import base64
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import av
import httpx
import pytest
import ray
from PIL import Image

from roadwork_serve.schema import BatchResult, Job, Problem, Verdict
from roadwork_serve.server_state import Info
from tests.e2e.conftest import POLICY, STAGES, Cluster, eventually


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (shade, shade, shade)).save(out, "JPEG")
    return out.getvalue()


def mp4(shade: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        frame = av.VideoFrame.from_image(Image.new("RGB", (128, 96), (shade, shade, shade)))
        for index in range(8):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


WHITE, GREY, BLACK = jpeg(255), jpeg(127), jpeg(0)


def post(
    cluster: Cluster,
    data: bytes,
    kind: str = "image/jpeg",
    request_id: str | None = None,
    wait_s: float = 60,
    **query: object,
) -> httpx.Response:
    headers = {"content-type": kind} | ({"x-request-id": request_id} if request_id else {})
    return httpx.post(f"{cluster.url}/v1/classify", content=data, headers=headers, params=query, timeout=wait_s)


def verdict(response: httpx.Response) -> Verdict:
    assert response.status_code == 200, response.text
    return Verdict.model_validate_json(response.content)


def asked(answer: Verdict) -> list[str]:
    return [report.stage for report in answer.stages]


def test_each_stage_the_ingress_and_the_journal_is_one_process(cluster: Cluster):
    pids = cluster.pids()
    stages = {"Backbone", "SignReader", "FastVLM", "Reasoner", "VideoReasoner"}
    assert set(pids) == {"Ingress", "Journal"} | stages
    assert all(len(each) == 1 for each in pids.values())
    assert len({pid for each in pids.values() for pid in each}) == 7


def test_stages_run_at_lower_priority_than_the_ingress(cluster: Cluster):
    pids = cluster.pids()
    assert niceness(*pids.pop("Ingress")) == {0}
    for each in pids.values():
        assert niceness(*each) == {0, 10}, "Ray's own threads, and those of the model"


def niceness(pid: int) -> set[int]:
    """Return the niceness values of the threads of a process."""
    return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


def test_the_ingress_does_not_load_torch(cluster: Cluster):
    (pid,) = cluster.pids()["Ingress"]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "python" in maps
    assert "libtorch" not in maps


def test_no_process_of_the_application_listens_beyond_loopback(cluster: Cluster):
    for pid in (pid for each in cluster.pids().values() for pid in each):
        bound = listening(pid)
        assert bound, "every worker of Ray listens somewhere"
        assert all(address.is_loopback for address in bound)


def listening(pid: int) -> list[IPv4Address | IPv6Address]:
    """Return the listening addresses of a process, as the kernel writes them: hexadecimal words, least byte first."""
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    bound: list[IPv4Address | IPv6Address] = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                words = bytes.fromhex(local.partition(":")[0])
                address = ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
                bound.append(getattr(address, "ipv4_mapped", None) or address)
    return bound


@pytest.mark.parametrize(
    ("data", "label", "stages", "reason"),
    [
        (WHITE, "roadwork", ["backbone"], "above_band"),
        (BLACK, "none", ["backbone"], "below_band"),
        (GREY, "roadwork", ["backbone", "signs", "vlm", "reasoner"], "above_band"),
    ],
)
def test_a_photo_exits_where_its_posterior_leaves_the_band(
    cluster: Cluster, data: bytes, label: str, stages: list, reason: str
):
    answer = verdict(post(cluster, data))
    assert (answer.media, answer.label, asked(answer), answer.exit.reason) == ("photo", label, stages, reason)
    assert not answer.degraded
    assert all(report.miniature and report.rpc_ms > 0 for report in answer.stages)


def test_a_clip_goes_to_the_video_stage(cluster: Cluster):
    answer = verdict(post(cluster, mp4(127), "video/mp4"))
    assert (answer.media, asked(answer)) == ("clip", ["backbone", "video"])


def test_a_job_has_the_verdict_of_its_clip(cluster: Cluster):
    sent = httpx.post(f"{cluster.url}/v1/jobs", content=mp4(127), headers={"X-File-Name": "drive.mp4"})
    assert sent.status_code == 202, sent.text
    url = f"{cluster.url}/v1/jobs/{sent.json()['id']}"
    eventually(lambda: httpx.get(url).json()["state"] == "done", 60, "the job is done")
    job = Job.model_validate_json(httpx.get(url).content)
    assert job.filename == "drive.mp4" and job.completed == 1 and job.problem is None
    (window,) = job.windows
    assert window.verdict is not None and asked(window.verdict) == ["backbone", "video"]
    assert job.probability == window.verdict.probability
    assert httpx.get(f"{cluster.url}/v1/jobs").status_code == 401  # the list needs the admin token


def test_a_form_and_json_get_the_same_verdict(cluster: Cluster):
    url = f"{cluster.url}/v1/classify"
    form = httpx.post(url, files={"file": WHITE}, data={"deadline_ms": "20000"}, timeout=30)
    body = httpx.post(url, json={"image": base64.b64encode(WHITE).decode()}, timeout=30)
    assert verdict(form).probability == verdict(body).probability == verdict(post(cluster, WHITE)).probability


def test_a_batch_contains_verdicts_and_problems(cluster: Cluster):
    files = [("file", ("w.jpg", WHITE)), ("file", ("x.jpg", b"text")), ("file", ("c.mp4", mp4(0)))]
    response = httpx.post(f"{cluster.url}/v1/classify/batch", files=files, timeout=30)
    white, text, clip = BatchResult.model_validate_json(response.content).results
    assert white.verdict and white.verdict.label == "roadwork"
    assert text.problem and text.problem.status == 415
    assert clip.verdict and clip.verdict.media == "clip"


@pytest.mark.parametrize(
    ("data", "kind", "query", "status"),
    [
        (b"", "image/jpeg", {}, 422),
        (b"plain text", "image/jpeg", {}, 415),
        (WHITE[: len(WHITE) // 2], "image/jpeg", {}, 422),
        (WHITE, "application/x-www-form-urlencoded", {}, 415),
        (b'{"image": "@@"}', "application/json", {}, 400),
        (WHITE, "image/jpeg", {"deadline_ms": 0}, 400),
        (bytes(33 * 2**20), "image/jpeg", {}, 413),
    ],
)
def test_garbage_gets_its_problem_and_the_server_continues(
    cluster: Cluster, data: bytes, kind: str, query: dict, status: int
):
    response = post(cluster, data, kind, **query)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert Problem.model_validate_json(response.content).status == status
    verdict(post(cluster, WHITE))


def test_an_infeasible_deadline_is_rejected_in_time(cluster: Cluster):
    began = time.monotonic()
    response = post(cluster, GREY, deadline_ms=1)
    assert response.status_code == 504
    assert time.monotonic() - began < 2


@contextmanager
def busy_reasoner(cluster: Cluster, name: str) -> Iterator[Future[httpx.Response]]:
    """Occupy the only slot of the reasoner during the block."""
    cluster.gate.unlink(missing_ok=True)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, cluster, GREY, request_id=f"held-{name}")
        try:
            eventually(lambda: f"held-{name}" in completed(cluster), 30, "the reasoner is busy")
            yield waiting
        finally:
            cluster.gate.touch()


def completed(cluster: Cluster) -> list[str]:
    return cluster.journal.read_text().split()


def test_a_short_deadline_gets_the_best_answer_so_far(cluster: Cluster):
    with busy_reasoner(cluster, "deadline") as waiting:
        answer = verdict(post(cluster, GREY, deadline_ms=3000))
        assert answer.exit.reason == "deadline"
        assert answer.exit.stage == "vlm"
        assert not answer.degraded
    assert asked(verdict(waiting.result()))[-1] == "reasoner"


def test_the_request_id_is_the_clients_or_a_new_one(cluster: Cluster):
    response = post(cluster, WHITE, request_id="mine-1")
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert verdict(response).request_id == "mine-1"
    response = post(cluster, b"")
    assert Problem.model_validate_json(response.content).instance == response.headers["x-request-id"]


def test_a_handle_returns_verdicts_and_our_errors(cluster: Cluster):
    """In a program without the server's environment, as a user writes it."""
    program = """
import sys, ray
from ray import serve
from roadwork_serve.errors import BrokenMedia
ray.init(address=sys.argv[1], log_to_driver=False)
handle = serve.get_app_handle("roadwork")
answer = handle.classify.remote(sys.stdin.buffer.read(), 5000, "by-handle").result()
try:
    handle.classify.remote(b"").result()
except BrokenMedia as error:
    print(answer.request_id, answer.label, error)
"""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    address = ray.get_runtime_context().gcs_address
    run = subprocess.run(
        [sys.executable, "-c", program, address], input=WHITE, env=theirs, capture_output=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(b"by-handle roadwork") and b"empty" in run.stdout


def test_a_client_that_hangs_up_causes_no_further_work(cluster: Cluster):
    with busy_reasoner(cluster, "hang-up") as waiting:
        with pytest.raises(httpx.ReadTimeout):
            post(cluster, GREY, request_id="left", wait_s=2)
        eventually(lambda: info(cluster).in_flight == 1, 30, "the hang-up is known")
    assert asked(verdict(waiting.result()))[-1] == "reasoner"
    verdict(post(cluster, GREY, request_id="stayed"))
    assert "stayed" in completed(cluster)
    assert "left" not in completed(cluster)


def test_a_new_policy_takes_over_without_a_restart(cluster: Cluster):
    before = cluster.pids()
    one_look = {kind: [{"stage": "backbone", "exit": [0.5, 0.5]}] for kind in ("photo", "clip")}
    try:
        cluster.deploy({"version": "test-2"} | one_look)
        eventually(lambda: verdict(post(cluster, GREY)).policy_version == "test-2", 30, "the new policy is in force")
        assert asked(verdict(post(cluster, GREY))) == ["backbone"]
        cluster.deploy({"version": "broken"})
        refused = eventually(lambda: info(cluster).policy_error, 30, "the broken policy was read")
        assert "missing" in refused
        assert verdict(post(cluster, GREY)).policy_version == "test-2"
    finally:
        cluster.deploy(POLICY)
    eventually(lambda: verdict(post(cluster, GREY)).policy_version == "test-1", 30, "the first policy is back")
    eventually(lambda: cluster.pids() == before, 10, "no process was replaced, and each runs again")


def info(cluster: Cluster) -> Info:
    return Info.model_validate_json(httpx.get(f"{cluster.url}/v1/info", timeout=10).content)


def test_info_and_readiness_list_the_stages(cluster: Cluster):
    assert [stage.stage for stage in info(cluster).stages] == list(STAGES)
    assert all(stage.up for stage in info(cluster).stages)
    assert httpx.get(f"{cluster.url}/readyz").json()["up"] == list(STAGES)
    assert httpx.get(f"{cluster.url}/healthz").json() == {"status": "ok"}


@contextmanager
def fallen_vlm(cluster: Cluster) -> Iterator[int]:
    """Keep the fast VLM down during the block: its process is killed, and the next one cannot load its model."""
    (victim,) = cluster.pids()["FastVLM"]
    cluster.model.unlink()
    os.kill(victim, signal.SIGKILL)
    try:
        yield victim
    finally:
        cluster.model.touch()


def test_a_stage_killed_under_load_degrades_verdicts_and_recovers(cluster: Cluster):
    answers: list[tuple[float, Verdict]] = []
    stop = False

    def keep_asking() -> None:
        while not stop:
            began = time.monotonic()
            answer = verdict(post(cluster, GREY, deadline_ms=20_000))
            answers.append((time.monotonic() - began, answer))

    with ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(keep_asking) for _ in range(4)]
        try:
            eventually(lambda: len(answers) >= 8, 30, "the load has begun")
            with fallen_vlm(cluster) as victim:
                eventually(lambda: sum(answer.degraded for _, answer in answers) >= 8, 30, "verdicts are degraded")
            eventually(lambda: not answers[-1][1].degraded, 60, "verdicts are whole again")
        finally:
            stop = True
        for asker in askers:
            asker.result()
    assert cluster.pids()["FastVLM"] not in ([], [victim])
    degraded = [answer for _, answer in answers if answer.degraded]
    assert all(answer.stages[2].stage == "vlm" and answer.stages[2].outcome == "failed" for answer in degraded)
    assert all(asked(answer)[-1] == "reasoner" for answer in degraded)
    assert max(took_s for took_s, _ in answers) < 10


def test_a_stage_killed_while_idle_is_skipped_soon(cluster: Cluster):
    with fallen_vlm(cluster):
        answer = verdict(post(cluster, GREY, deadline_ms=20_000))
        assert answer.degraded
        assert answer.elapsed_ms < 8000
        again = verdict(post(cluster, GREY, deadline_ms=20_000))
        assert again.degraded
        assert again.stages[2].detail and "is down" in again.stages[2].detail
        assert [stage.stage for stage in info(cluster).stages if not stage.up] == ["vlm"]
        assert httpx.get(f"{cluster.url}/readyz").json()["down"] == ["vlm"]
    eventually(lambda: not verdict(post(cluster, GREY)).degraded, 60, "verdicts are whole again")
