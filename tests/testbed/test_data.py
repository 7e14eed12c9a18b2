import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis import data


def test_the_cache_returns_rendered_scenes_and_renders_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD", 3)
    cache = data.fill(tmp_path, "photos", range(1, 6), workers=1)
    assert [t.seed for t in cache.truths] == [1, 2, 3, 4, 5]
    assert np.array_equal(cache.frame(4), data.render_photos([5]).thumbs[0])
    assert Image.open(io.BytesIO(cache.jpegs[0])).size[0] <= data.LONG_SIDE

    def refuse(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(data, "_fill_one", refuse)
    assert len(data.fill(tmp_path, "photos", range(1, 6), workers=1)) == 5


def test_a_changed_renderer_gets_its_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = data.renderer_version()
    (tmp_path / "__init__.py").write_text("# another renderer")
    monkeypatch.setattr(scenes, "__file__", str(tmp_path / "__init__.py"))
    assert data.renderer_version() != before


def test_clips_are_cached_as_squashed_frames() -> None:
    clips = data.render_clips([7])
    assert clips.frames.shape == (1, data.CLIP_FRAMES, data.CLIP_SIDE, data.CLIP_SIDE, 3)
    assert clips.truths[0].media == "clip"


def test_seeds_of_training_validation_and_evaluation_are_disjoint() -> None:
    assert max(data.TRAIN_SEEDS) < min(data.CHECK_SEEDS) < max(data.CHECK_SEEDS) < 5_000_000_000


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    Image.new("RGB", (900, 600), "grey").save(tmp_path / "a.jpg")
    rows = [
        ("ODC-By-1.0 (CMU ROADWork; redistributed by Mi3-Lab/workzone, MIT code)", "group=clip_boston"),
        ("ODC-By-1.0 (CMU ROADWork)", "dashcam clip frame; group=clip_houston"),
        ("MIT (as stated by repo; web images)", ""),
        ("none stated", ""),
        ("CC BY 4.0 (Roboflow export)", ""),
        ("KITTI CC BY-NC-SA 3.0", ""),
        ("MIT", "AMBIGUOUS"),
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label", "source_repo", "path", "licence", "notes"))
        writer.writerows(("a.jpg", "none", "", "", licence, notes) for licence, notes in rows)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/frame_labels.csv").write_text("clip,frame,seconds,label\n")
    return tmp_path


def test_only_openly_licensed_rows_outside_the_held_out_groups_are_used(photos: Path) -> None:
    found = list(data.real_photos(photos))
    assert [p.group for p in found] == ["clip_boston", "a.jpg"]
    assert all(max(p.image.size) == 640 and not p.label for p in found)


def test_training_declares_the_source_of_a_photo_and_the_group_of_a_frame() -> None:
    grey = Image.new("RGB", (8, 8))
    named = [("a.jpg", "town/drives"), ("b.jpg", "town/drives"), ("clip_boston", "")]
    found = data.declared([data.RealPhoto(grey, True, group, source) for group, source in named])
    assert found.facts() == {"sources": ["town/drives"], "groups": ["clip_boston"]}


def test_the_photos_folder_comes_from_the_environment(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_PHOTOS", str(photos))
    assert data.photos_folder() == photos
    assert data.photos_folder(photos.parent) == photos
