import io
import multiprocessing

import pytest
from PIL import Image

from roadwork_serve.testbed.scene_dataset import draw_scene, draw_scenes, drawing_workers, scene_track


def test_one_scene_in_ten_is_a_clip_and_runs_share_no_seed() -> None:
    track = scene_track(2000, 9001)
    assert [kind for _, kind in track].count("clip") == 200
    assert track[0] == (9_001_000_000, "photo")
    assert track[9] == (9_001_000_009, "clip")
    assert not {seed for seed, _ in track} & {seed for seed, _ in scene_track(2000, 9002)}


def test_a_rendered_photo_is_a_jpeg_with_its_ground_truth() -> None:
    sample = draw_scene(9_001_000_000, "photo")
    assert Image.open(io.BytesIO(sample.data)).format == "JPEG"
    assert sample.truth is not None
    metadata = sample.metadata
    assert (metadata.seed, metadata.label, metadata.needs) == (
        sample.truth.seed,
        sample.truth.label,
        sample.truth.needs,
    )
    assert draw_scene(9_001_000_000, "photo") == sample


def test_rendering_uses_the_available_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert drawing_workers() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    assert drawing_workers() == 64


def test_scenes_come_in_order_and_workers_end_when_iteration_stops() -> None:
    drawing = draw_scenes([(seed, "photo") for seed in range(7, 107)], workers=1)
    assert [next(drawing).metadata.seed for _ in range(3)] == [7, 8, 9]
    drawing.close()
    assert multiprocessing.active_children() == []
