import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cli.synthesize import synthesize
from roadwork_serve.cli.train_head import train_head
from roadwork_serve.engines.features import Head
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.heads.feature_set import read_features, write_features
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.backbone import Backbone
from tests.engines.tiny import tiny_dino
from tests.evaluation.fakes import BLUE, RED, write_jpeg
from tests.heads.feature_sets import clouds

APP = typer.Typer()
APP.command("train-head")(train_head)
APP.command("synthesize")(synthesize)


def _run(*words: str) -> str:
    result = CliRunner().invoke(APP, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for at in range(8):
        for label, colour in (("roadwork", RED), ("none", BLUE)):
            shade = tuple(int(c) for c in np.clip(np.array(colour) + rng.integers(-20, 20, 3), 0, 255))
            write_jpeg(tmp_path / f"data/{label}/site-{at}/{label}.jpg", shade)  # type: ignore[arg-type]
    return tmp_path / "data"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Return the path of a profile with stage 1 only, on a tiny backbone."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\npolicy: mini\nmedia: {thumb_side: 32}\n"
        f"engines: {{dino: {{backend: transformers, model: {tiny_dino(tmp_path / 'tiny')}}}}}\n"
        "stages: {backbone: {engine: dino}}\n"
    )
    return path


def test_a_head_is_trained_on_a_folder(data: Path, profile: Path, tmp_path: Path) -> None:
    (data / "none/broken.jpg").write_bytes(b"")
    output = _run(
        "train-head", "--data", str(data), "--profile", str(profile), "--cache", str(tmp_path / "cache"),
        "--out", str(tmp_path / "head"), "--epochs", "3", "--positive-prior", "0.3",
        "--save-features", str(tmp_path / "f.st"),
    )  # fmt: skip
    assert "none/broken.jpg is skipped" in output
    assert f"{tmp_path}/head: predicts roadwork" in output
    head = Head.load(tmp_path / "head")
    assert (head.settings.recipe, head.settings.width) == ("cls+mean+max", 24)
    assert len(read_features(tmp_path / "f.st")) == 16
    assert json.loads((tmp_path / "head/metrics.json").read_text())["lineage"]["settings"]["positive_prior"] == 0.3


def test_the_default_profile_trains_a_head_and_with_boxes_a_patch_head(data: Path, tmp_path: Path) -> None:
    """Both are loaded together and served by the engine of the profile."""
    boxes = tmp_path / "boxes.jsonl"
    lines = [{"file": f"roadwork/site-{at}/roadwork.jpg", "boxes": [["cone", 0, 0, 1, 1]]} for at in range(8)]
    boxes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = _run(
        "train-head", "--data", str(data), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "head"),
        "--recipe", "cls", "--hidden", "0", "--epochs", "3", "--boxes", str(boxes),
    )  # fmt: skip
    assert "Patch head: cone; from 8 photos with boxes, and 8 without road work." in output
    assert json.loads((tmp_path / "head/metrics.json").read_text())["patches"]["boxed"] == 8
    settings = {"features": {"head": str(tmp_path / "head")}, "dtype": "float32"}  # no photo has one color: 8 bits err
    engine = load_profile("cpu", {"engines": {"backbone": settings}})
    stage = Backbone(StageSpec(engine="backbone"), engine.engine_of("backbone"))
    red, blue = (
        stage.predict([Item("one", "photo", (), np.full((1, 224, 224, 3), colour, np.uint8), (0.0,), 1e9)])[0]
        for colour in (RED, BLUE)
    )
    assert max(map(max, red.evidence.heat_map)) > 50 > max(map(max, blue.evidence.heat_map))
    assert {region.kind for region in red.evidence.regions} == {"cone"}


def test_saved_features_are_cross_validated(tmp_path: Path) -> None:
    write_features(tmp_path / "f.st", clouds(groups=12))
    output = _run(
        "train-head", "--features", str(tmp_path / "f.st"), "--cross-validate", "2", "--epochs", "4",
        "--report", str(tmp_path / "cv.json"),
    )  # fmt: skip
    assert "72 items in 12 groups, 2 folds" in output
    assert "do not quote the pooled numbers" in output
    report = json.loads((tmp_path / "cv.json").read_text())
    assert report["head"]["pooled"]["n"] == 72
    assert report["bundled"] is None


def test_the_backbone_is_finetuned_with_the_head(data: Path, profile: Path, tmp_path: Path) -> None:
    output = _run(
        "train-head", "--unfreeze", "--data", str(data), "--profile", str(profile), "--out", str(tmp_path / "tuned"),
        "--epochs", "1",
    )  # fmt: skip
    assert f"Serve it with model: {tmp_path}/tuned" in output
    assert (tmp_path / "tuned/model.safetensors").exists()


def test_missing_options_are_named() -> None:
    for words, wanted in (
        (["train-head", "--out", "x"], "give --data, --journal or --features"),
        (["train-head", "--data", "x"], "where to write the head"),
        (
            ["train-head", "--data", "x", "--out", "y", "--journal", "z", "--unfreeze"],
            "--unfreeze trains on files",
        ),
    ):
        result = CliRunner().invoke(APP, words)
        assert result.exit_code == 2
        assert wanted in " ".join(result.output.replace("│", "").split())
    with pytest.raises(ConfigError, match="--positive-prior half: write auto"):
        _run("train-head", "--data", "x", "--out", "y", "--positive-prior", "half")
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        _run("train-head", "--data", "nowhere", "--out", "y")


def test_synthesize_writes_scenes(tmp_path: Path) -> None:
    output = _run("synthesize", "--out", str(tmp_path / "album"), "--count", "4")
    assert "0 images were there, 4 are new" in output
    assert len((tmp_path / "album/manifest.csv").read_text().splitlines()) == 5


def test_synthesize_without_a_gpu_is_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for generator in ("sdxl", "cosmos"):
        with pytest.raises(ModelError, match=r"needs a CUDA GPU.*--generator scenes"):
            _run("synthesize", "--out", str(tmp_path / "album"), "--generator", generator)
    assert not (tmp_path / "album").exists()
