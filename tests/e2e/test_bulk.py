"""Batch scoring over Ray Data: the server's verdicts, each file once, even after failures."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from PIL import Image

from benchmarks.fake_models import open_fake_stages, overrides
from deployments.batch_job import BatchDone, JobSpec, score
from roadwork_serve.batch.parts import BatchRun
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import Verdict
from tests.e2e.conftest import Cluster, application, eventually, journal_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own, of itself
FILES, LOT = 900, 128


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a profile of stand-ins whose immediate predictions depend only on the bytes of an image."""
    folder = tmp_path_factory.mktemp("bulk")
    settings = load_profile("mini", overrides({}) | {"journal": journal_in(folder)}).model_dump(mode="json")
    path = folder / "standins.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of noise, two invalid ones, and a hidden one."""
    folder = tmp_path_factory.mktemp("photos")
    dice = np.random.default_rng(1)
    for number in range(FILES - 2):
        out = io.BytesIO()
        Image.fromarray(dice.integers(0, 256, (24, 32, 3), np.uint8)).resize((64, 48)).save(out, "JPEG")
        (folder / f"{number:04}.jpg").write_bytes(out.getvalue())
    (folder / "cut.jpg").write_bytes(out.getvalue()[:200])
    (folder / "notes.txt").write_text("these are words")
    return folder


@pytest.fixture
def order(profile: str, photos: Path, tmp_path: Path) -> JobSpec:
    return JobSpec(source=str(photos), out=tmp_path / "scores.parquet", profile=profile, workers=2)


def assert_each_is_there_once(order: JobSpec, photos: Path) -> None:
    run = BatchRun(order.out)
    answered, refused = (pq.read_table(path).column("file").to_pylist() for path in (run.out, run.rejects))
    assert refused == ["cut.jpg", "notes.txt"]
    assert answered == sorted(path.name for path in photos.iterdir() if path.name not in refused)
    assert not run.folder.exists()


@pytest.fixture(scope="module")
def server(cluster: Cluster, profile: str) -> Iterator[str]:
    """Yield the URL of a server with the same stand-ins."""
    with application(cluster, "standins", load_profile(profile), open_fake_stages) as url:
        yield url


def test_the_verdicts_match_the_server(server: str, order: JobSpec, photos: Path):
    total = score(order, opener=open_fake_stages)
    assert (total.verdicts, total.degraded, total.rejects) == (FILES - 2, 0, 2)
    assert_each_is_there_once(order, photos)
    rows = {row["file"]: row for row in pq.read_table(order.out).to_pylist()}
    left_at: set[str] = set()
    with httpx.Client(base_url=server, timeout=60) as client:
        for name in sorted(rows)[:60]:
            answer = client.post("/v1/classify", content=(photos / name).read_bytes())
            asked = Verdict.model_validate_json(answer.content)
            mine = Verdict.model_validate_json(rows[name]["verdict"])
            assert (mine.label, mine.probability, mine.exit) == (asked.label, asked.probability, asked.exit)
            assert [(report.stage, report.outcome, report.posterior, report.evidence) for report in mine.stages] == [
                (report.stage, report.outcome, report.posterior, report.evidence) for report in asked.stages
            ]
            left_at.add(mine.exit.stage)
    assert len(left_at) > 2, "they left at several stages"


def test_an_interrupted_job_resumes(cluster: Cluster, order: JobSpec, photos: Path):
    class Broken(Exception): ...

    def break_off(_: BatchDone) -> None:
        raise Broken

    with pytest.raises(Broken):
        score(order, on_done=break_off, opener=open_fake_stages)
    assert not order.out.exists()
    eventually(at_rest, 60, "the workers have ended, and Ray knows")
    began: list[tuple[int, int]] = []
    score(order, on_start=lambda total, done: began.append((total, done)), opener=open_fake_stages)
    ((total, done),) = began
    assert total == FILES and done in (LOT, FILES % LOT), "one lot was kept"
    assert_each_is_there_once(order, photos)


def test_a_killed_worker_loses_no_verdict(cluster: Cluster, order: JobSpec, photos: Path):
    eventually(at_rest, 60, "the workers of the test before have ended")
    killed: list[int] = []

    def kill(_: BatchDone) -> None:
        if not killed:
            killed.extend(workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

    score(order, on_done=kill, opener=open_fake_stages)
    assert killed
    assert_each_is_there_once(order, photos)


def at_rest() -> bool:
    """Return whether all workers have ended and their resources are free for two others."""
    return not workers() and ray.available_resources().get("CPU", 0) >= 2


def workers() -> list[int]:
    """Return the worker processes of Ray Data."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found
