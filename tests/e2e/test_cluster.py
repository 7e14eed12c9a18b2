"""The whole application under a real Ray Serve, with stages without models."""

import base64
import io
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx
import pytest
from PIL import Image
from ray import serve

from roadwork_serve.errors import BrokenMedia
from roadwork_serve.schema import BatchResult, Info, Problem, Verdict
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
    cluster: Cluster, data: bytes, kind: str = "image/jpeg", request_id: str | None = None, **query: object
) -> httpx.Response:
    headers = {"content-type": kind} | ({"x-request-id": request_id} if request_id else {})
    return httpx.post(f"{cluster.url}/v1/classify", content=data, headers=headers, params=query, timeout=30)


def verdict(response: httpx.Response) -> Verdict:
    assert response.status_code == 200, response.text
    return Verdict.model_validate_json(response.content)


def asked(answer: Verdict) -> list[str]:
    return [report.stage for report in answer.stages]


def test_each_stage_and_the_ingress_is_one_process(cluster: Cluster):
    pids = cluster.pids()
    assert set(pids) == {"Ingress", "Backbone", "SignReader", "FastVLM", "Reasoner", "VideoReasoner"}
    assert all(len(each) == 1 for each in pids.values())
    assert len({pid for each in pids.values() for pid in each}) == 6


def test_the_ingress_holds_no_torch(cluster: Cluster):
    (pid,) = cluster.pids()["Ingress"]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "python" in maps
    assert "libtorch" not in maps


@pytest.mark.parametrize(
    ("data", "label", "stages", "reason"),
    [
        (WHITE, "roadwork", ["backbone"], "above_band"),
        (BLACK, "none", ["backbone"], "below_band"),
        (GREY, "roadwork", ["backbone", "signs", "vlm", "reasoner"], "above_band"),
    ],
)
def test_a_photo_leaves_where_its_posterior_does(cluster: Cluster, data: bytes, label: str, stages: list, reason: str):
    answer = verdict(post(cluster, data))
    assert (answer.media, answer.label, asked(answer), answer.exit.reason) == ("photo", label, stages, reason)
    assert not answer.degraded
    assert all(report.miniature and report.hop_ms > 0 for report in answer.stages)


def test_a_clip_goes_to_the_video_stage(cluster: Cluster):
    answer = verdict(post(cluster, mp4(127), "video/mp4"))
    assert (answer.media, asked(answer)) == ("clip", ["backbone", "video"])


def test_a_form_and_json_get_the_same_verdict(cluster: Cluster):
    url = f"{cluster.url}/v1/classify"
    form = httpx.post(url, files={"file": WHITE}, data={"deadline_ms": "20000"}, timeout=30)
    body = httpx.post(url, json={"image": base64.b64encode(WHITE).decode()}, timeout=30)
    assert verdict(form).probability == verdict(body).probability == verdict(post(cluster, WHITE)).probability


def test_a_batch_holds_verdicts_and_problems(cluster: Cluster):
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
        (WHITE, "text/plain", {}, 415),
        (b'{"image": "@@"}', "application/json", {}, 400),
        (WHITE, "image/jpeg", {"deadline_ms": 0}, 400),
        (bytes(33 * 2**20), "image/jpeg", {}, 413),
    ],
)
def test_garbage_gets_its_problem_and_the_server_goes_on(
    cluster: Cluster, data: bytes, kind: str, query: dict, status: int
):
    response = post(cluster, data, kind, **query)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert Problem.model_validate_json(response.content).status == status
    verdict(post(cluster, WHITE))


def test_an_impossible_deadline_is_told_in_time(cluster: Cluster):
    began = time.monotonic()
    response = post(cluster, GREY, deadline_ms=1)
    assert response.status_code == 504
    assert time.monotonic() - began < 2


def test_a_short_deadline_gets_the_best_answer_so_far(cluster: Cluster):
    """The reasoner alone takes 100 ms; eight requests before this one keep it busy for longer than it has."""
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(post, cluster, GREY) for _ in range(8)]
        eventually(lambda: any(other.done() for other in others), 20, "the reasoner is busy")
        answer = verdict(post(cluster, GREY, deadline_ms=150))
        assert answer.exit.reason == "deadline"
        assert not answer.degraded
        for other in others:
            assert asked(verdict(other.result()))[-1] == "reasoner"


def test_the_request_id_is_the_clients_or_a_new_one(cluster: Cluster):
    response = post(cluster, WHITE, request_id="mine-1")
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert verdict(response).request_id == "mine-1"
    response = post(cluster, b"")
    assert Problem.model_validate_json(response.content).instance == response.headers["x-request-id"]


def test_a_handle_gets_verdicts_and_our_errors(cluster: Cluster):
    handle = serve.get_app_handle("roadwork")
    answer = handle.classify.remote(WHITE, 5000, "by-handle").result()
    assert (answer.request_id, answer.label) == ("by-handle", "roadwork")
    with pytest.raises(BrokenMedia, match="empty"):
        handle.classify.remote(b"").result()


def test_who_hangs_up_costs_nothing_more(cluster: Cluster):
    with ThreadPoolExecutor(10) as pool:
        others = [pool.submit(post, cluster, GREY) for _ in range(10)]
        eventually(lambda: any(other.done() for other in others), 20, "the reasoner is busy")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{cluster.url}/v1/classify",
                content=GREY,
                headers={"content-type": "image/jpeg", "x-request-id": "left"},
                timeout=0.2,
            )
        assert all(asked(verdict(other.result()))[-1] == "reasoner" for other in others)
    verdict(post(cluster, GREY, request_id="stayed"))
    judged = cluster.journal.read_text().split()
    assert "stayed" in judged
    assert "left" not in judged


def test_a_new_policy_takes_over_without_a_restart(cluster: Cluster):
    before = cluster.pids()
    one_look = {kind: [{"stage": "backbone", "exit": [0.5, 0.5]}] for kind in ("photo", "clip")}
    try:
        cluster.deploy({"version": "test-2"} | one_look)
        eventually(lambda: verdict(post(cluster, GREY)).policy_version == "test-2", 30, "the new policy is in force")
        assert asked(verdict(post(cluster, GREY))) == ["backbone"]
        cluster.deploy({"version": "broken"})
        refused = eventually(lambda: info(cluster).policy_refused, 30, "the broken policy was looked at")
        assert "missing" in refused
        assert verdict(post(cluster, GREY)).policy_version == "test-2"
    finally:
        cluster.deploy(POLICY)
    eventually(lambda: verdict(post(cluster, GREY)).policy_version == "test-1", 30, "the first policy is back")
    assert cluster.pids() == before


def info(cluster: Cluster) -> Info:
    return Info.model_validate_json(httpx.get(f"{cluster.url}/v1/info", timeout=10).content)


def test_info_and_readiness_name_the_stages(cluster: Cluster):
    assert [stage.stage for stage in info(cluster).stages] == list(STAGES)
    assert all(stage.up for stage in info(cluster).stages)
    assert httpx.get(f"{cluster.url}/readyz").json()["up"] == list(STAGES)
    assert httpx.get(f"{cluster.url}/healthz").json() == {"status": "ok"}


def test_a_stage_killed_under_load_degrades_and_comes_back(cluster: Cluster):
    (victim,) = cluster.pids()["FastVLM"]
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
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: any(answer.degraded for _, answer in answers), 30, "a verdict is degraded")
            killed = len(answers)
            eventually(lambda: cluster.pids()["FastVLM"] not in ([], [victim]), 60, "another process is there")
            eventually(lambda: not answers[-1][1].degraded, 60, "verdicts are whole again")
        finally:
            stop = True
        for asker in askers:
            asker.result()
    degraded = [answer for _, answer in answers if answer.degraded]
    assert all(answer.stages[2].stage == "vlm" and answer.stages[2].outcome == "failed" for answer in degraded)
    assert all(asked(answer)[-1] == "reasoner" for answer in degraded)
    assert max(took for took, _ in answers) < 10
    assert killed > 0 and cluster.pids()["FastVLM"] != [victim]


def test_a_stage_killed_while_idle_is_skipped_soon(cluster: Cluster):
    (victim,) = cluster.pids()["FastVLM"]
    os.kill(victim, signal.SIGKILL)
    answer = verdict(post(cluster, GREY, deadline_ms=20_000))
    assert answer.degraded
    assert answer.elapsed_ms < 5000
    eventually(lambda: not verdict(post(cluster, GREY)).degraded, 60, "verdicts are whole again")
