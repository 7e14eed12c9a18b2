import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.atomic_write import replace_folder
from roadwork_serve.engines.features import FeatureEngine, Head
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.heads.fit import HeadTraining, predict_logits
from roadwork_serve.heads.train import train_head
from roadwork_serve.provenance import code_revision
from tests.engines.tiny import tiny_dino
from tests.heads.feature_sets import clouds

QUICK = HeadTraining(hidden=8, epochs=3, batch=64)


def test_the_folder_contains_all_files_of_a_head(tmp_path: Path) -> None:
    features = clouds(has_text=True)
    report = train_head(features, QUICK, tmp_path / "head", command="roadwork train-head --data here")
    assert {path.name for path in (tmp_path / "head").iterdir()} == {
        "head.json", "head.safetensors", "README.md", "metrics.json",
    }  # fmt: skip
    head = Head.load(tmp_path / "head")
    assert head.settings.backbone == features.backbone
    assert np.isfinite(predict_logits(head, features)).all()
    metrics = json.loads((tmp_path / "head/metrics.json").read_text())
    assert metrics["lineage"]["data"] == features.digest
    assert metrics["val_metrics"]["n"] + metrics["train_metrics"]["n"] == report.items == 240
    card = (tmp_path / "head/README.md").read_text()
    for part in (
        "clouds, MIT",
        "240 items",
        "40 groups",
        features.digest,
        "roadwork train-head --data here",
        "seed 72",
    ):
        assert part in card, part


def test_a_linear_head_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    features = clouds(apart=3.0)
    report = train_head(features, replace(QUICK, hidden=0, epochs=60, lr=0.02), tmp_path / "head", command="x")
    assert report.val_metrics.auc > 0.9
    assert [tuple(p.shape) for p in Head.load(tmp_path / "head").parameters()] == [(1, features.x.shape[1]), (1,)]
    assert "| layers | linear, roadwork |" in (tmp_path / "head/README.md").read_text()


def test_the_model_card_states_a_missing_text_output(tmp_path: Path) -> None:
    train_head(replace(clouds(), metadata=()), QUICK, tmp_path / "head", command="x")
    card = (tmp_path / "head/README.md").read_text()
    assert "It has no output for readable text" in card


def test_an_existing_head_is_replaced_only_on_request(tmp_path: Path) -> None:
    train_head(clouds(), QUICK, tmp_path / "head", command="first")
    with pytest.raises(ConfigError, match="already exists; give another --out, or pass --replace"):
        train_head(clouds(), QUICK, tmp_path / "head", command="second")
    train_head(clouds(), QUICK, tmp_path / "head", replace=True, command="third")
    assert "`third`" in (tmp_path / "head/README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_a_head_is_never_partially_visible(tmp_path: Path) -> None:
    out = tmp_path / "head"
    with pytest.raises(RuntimeError, match="killed"), replace_folder(out, overwrite=False) as draft:
        (draft / "head.json").write_text("{}")
        assert not out.exists()
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []


def test_too_few_groups_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Add data from other places"):
        train_head(clouds(groups=2), QUICK, tmp_path / "head")
    assert list(tmp_path.iterdir()) == []


def test_the_server_accepts_it_for_its_own_backbone_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path))
    engine = FeatureEngine(tiny_dino(tmp_path / "tiny"), side=32)
    features = replace(clouds(width=24), backbone=engine.fingerprint)
    train_head(features, QUICK, tmp_path / "heads/own", command="x")
    train_head(clouds(width=24), QUICK, tmp_path / "heads/strange", command="x")
    extracted = engine.extract(np.zeros((2, 32, 32, 3), np.uint8))
    assert engine.apply_heads(extracted, "own")["roadwork"].shape == (2,)
    with pytest.raises(ModelError, match="trained on another backbone"):
        engine.apply_heads(extracted, "strange")


def test_the_revision_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert code_revision(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    clean = code_revision(tmp_path)
    (tmp_path / "a").write_text("2")
    assert len(clean) == 40
    assert code_revision(tmp_path) == clean + "+"
