"""The shipped serve_config.yaml with the shipped weights, over HTTP."""

from collections.abc import Iterator

import httpx
import pytest

from benchmarks.server import ROOT, own_server
from roadwork_serve.schema import Problem, Verdict
from roadwork_serve.server_state import Info
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.scenes.scenarios import photo_scene
from tests.corpus import hostile_files

PHOTOS = ROOT.parent / "shared/data/photos"
# Stages of a photo and of a clip, in order; each item may exit early.
WAYS = {"photo": ["backbone", "closeup", "signs", "vlm", "reasoner"], "clip": ["backbone", "signs", "video"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_server(tmp_path_factory.mktemp("server") / "server.log") as url:
        yield url


def classify(url: str, data: bytes, kind: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/classify", content=data, headers={"content-type": kind}, timeout=60)


def check_verdict(response: httpx.Response, media: str) -> Verdict:
    assert response.status_code == 200, response.text
    verdict = Verdict.model_validate(response.json())
    assert verdict.media == media
    assert not verdict.degraded
    asked = [report.stage for report in verdict.stages]
    assert asked == WAYS[media][: len(asked)]
    assert verdict.exit.stage in asked
    assert (verdict.label == "roadwork") == (verdict.probability >= 0.5)
    for report in verdict.stages:
        if report.outcome != "skipped":
            assert report.compute_ms > 0
            assert report.model
    return verdict


@pytest.mark.parametrize("needs", ["backbone", "signs", "vlm", "reasoner"])
def test_a_scene_made_for_each_stage_gets_a_verdict(url: str, needs: str) -> None:
    seed = next(seed for seed in range(9_000_000_000, 9_000_001_000) if photo_scene(seed).truth.needs == needs)
    check_verdict(classify(url, scenes.photo(seed).jpeg(), "image/jpeg"), "photo")


def test_a_clip_gets_a_verdict_from_its_frames(url: str) -> None:
    verdict = check_verdict(classify(url, scenes.clip(9_000_000_000).mp4(), "video/mp4"), "clip")
    assert len(verdict.stages[0].evidence.frame_probabilities) == 8


def test_real_footage_gets_a_verdict(url: str) -> None:
    if not PHOTOS.exists():
        pytest.skip("no real photographs: they are not part of the project")
    photo = next((PHOTOS / "roadwork").glob("*.jpg")).read_bytes()
    check_verdict(classify(url, photo, "image/jpeg"), "photo")
    check_verdict(classify(url, (PHOTOS / "clips/boston.mp4").read_bytes(), "video/mp4"), "clip")


def test_info_marks_the_miniatures(url: str) -> None:
    info = Info.model_validate(httpx.get(f"{url}/v1/info").json())
    assert {stage.stage: stage.miniature for stage in info.stages} == {
        "backbone": False, "closeup": False, "signs": False, "vlm": True, "reasoner": True, "video": True,
    }  # fmt: skip
    assert all(stage.up for stage in info.stages)


def test_hostile_files_get_their_problem_and_the_server_continues(url: str) -> None:
    for name, (data, error) in hostile_files().items():
        response = classify(url, data, "application/octet-stream")
        problem = Problem.model_validate(response.json())
        assert response.headers["content-type"] == "application/problem+json", name
        assert problem.status == response.status_code == error.status, f"{name}: {problem}"
    assert httpx.get(f"{url}/readyz").status_code == 200
    check_verdict(classify(url, scenes.photo(9_000_000_001).jpeg(), "image/jpeg"), "photo")
