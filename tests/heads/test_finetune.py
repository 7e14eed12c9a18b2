from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer

from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.engines.backbones import load_backbone
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.heads.finetune import FinetuneSettings, TrainingImages, finetune, load_images
from roadwork_serve.heads.fit import HeadTraining
from roadwork_serve.profiles.media_limits import MediaLimits
from tests.engines.tiny import ARCHITECTURES, tiny_backbone, tiny_dino
from tests.evaluation.fakes import BLUE, GREY, RED, mp4, write_jpeg

LIMITS = MediaLimits(thumb_side=32, frames=2)
SETTINGS = HeadTraining(hidden=8, lr=0.01)
QUICK = FinetuneSettings(epochs=8, batch=8, lr=1e-3)


@pytest.fixture
def shown(tmp_path: Path) -> TrainingImages:
    rng = np.random.default_rng(0)
    for at in range(12):
        for label, colour in (("roadwork", RED), ("none", BLUE)):
            shade = tuple(int(c) for c in np.clip(np.array(colour) + rng.integers(-20, 20, 3), 0, 255))
            write_jpeg(tmp_path / f"data/{label}/site-{at}/{label}.jpg", shade)  # type: ignore[arg-type]
    return load_images([open_dataset(str(tmp_path / "data"))], LIMITS)


def test_backbone_and_head_are_trained_and_served(shown: TrainingImages, tmp_path: Path) -> None:
    model = tiny_dino(tmp_path / "tiny")
    report = finetune(model, shown, SETTINGS, QUICK, tmp_path / "tuned", device="cpu")
    assert report.steps == 8 * (report.train_metrics.n // 8)
    assert report.val_metrics.log_loss < report.val_metrics_before.log_loss
    assert report.val_metrics.accuracy == 1.0
    engine = FeatureEngine(str(tmp_path / "tuned"), side=32)
    assert engine.head is not None
    assert engine.head.settings.backbone == engine.fingerprint == report.fingerprint != fingerprint(model)
    before = FeatureEngine(model, side=32).features(shown.thumbs[:4])
    assert not torch.allclose(engine.features(shown.thumbs[:4]), before)
    logits = engine.logits(shown.thumbs)["roadwork"]
    assert ((logits > 0) == (shown.known.target > 0.5)).mean() == 1.0
    assert "trained together" in (tmp_path / "tuned/README.md").read_text()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_trained_and_served_or_rejected(name: str, tmp_path: Path) -> None:
    side = 56 if "dinov2" in name else 64
    for at in range(8):
        write_jpeg(tmp_path / f"data/roadwork/site-{at}/a.jpg", RED)
        write_jpeg(tmp_path / f"data/none/site-{at}/a.jpg", BLUE)
    shown = load_images([open_dataset(str(tmp_path / "data"))], MediaLimits(thumb_side=side))
    model, few = tiny_backbone(name, tmp_path / "tiny"), FinetuneSettings(2, 8, 1e-4)
    if name == "timm_efficientnet":
        with pytest.raises(ModelError, match=r"fine-tuning of test_efficientnet is not supported: train a head"):
            finetune(model, shown, SETTINGS, few, tmp_path / "tuned", device="cpu")
        return
    report = finetune(model, shown, SETTINGS, few, tmp_path / "tuned", device="cpu")
    before, after = (FeatureEngine(folder, side=side) for folder in (model, str(tmp_path / "tuned")))
    assert after.fingerprint == report.fingerprint != before.fingerprint
    assert (after.backbone.mean, after.backbone.std) == (before.backbone.mean, before.backbone.std)
    assert not torch.allclose(after.features(shown.thumbs[:4]), before.features(shown.thumbs[:4]))
    assert np.isfinite(after.logits(shown.thumbs)["roadwork"]).all()


def test_a_few_steps_are_reproducible(shown: TrainingImages, tmp_path: Path) -> None:
    model = tiny_dino(tmp_path / "tiny")
    marks = {
        finetune(model, shown, SETTINGS, FinetuneSettings(1, 8, 1e-3), tmp_path / name, device="cpu").fingerprint
        for name in ("one", "two")
    }
    assert len(marks) == 1


def test_an_existing_output_prevents_training(shown: TrainingImages, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/mine").write_text("")
    with pytest.raises(ConfigError, match="already exists"):
        finetune("nowhere", shown, SETTINGS, QUICK, tmp_path / "tuned", device="cpu")
    assert (tmp_path / "tuned/mine").exists()


def test_on_gpus_it_is_sharded(shown: TrainingImages, tmp_path: Path, monkeypatch) -> None:
    """Check the arguments of the Lightning trainer; not yet run on hardware."""
    asked: dict = {}

    class Asked(Exception):
        pass

    def trainer(**settings: object) -> None:
        asked.update(settings)
        raise Asked

    monkeypatch.setattr("lightning.Trainer", trainer)
    with pytest.raises(Asked):
        finetune(tiny_dino(tmp_path / "tiny"), shown, SETTINGS, QUICK, tmp_path / "tuned", device="cuda")
    assert isinstance(asked["strategy"], FSDPStrategy)
    assert load_backbone(str(tmp_path / "tiny")).blocks() == {DINOv3ViTLayer}
    assert (asked["accelerator"], asked["devices"], asked["precision"]) == ("cuda", "auto", "bf16-mixed")
    assert asked["gradient_clip_val"] is None
    assert not (tmp_path / "tuned").exists()


def test_images_match_those_of_serving(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "data/roadwork/a.jpg", RED)
    (tmp_path / "data/none").mkdir()
    (tmp_path / "data/none/b.mp4").write_bytes(mp4(GREY))
    (tmp_path / "data/none/c.jpg").write_bytes(b"")
    shown = load_images([open_dataset(str(tmp_path / "data"))], LIMITS)
    assert shown.thumbs.shape == (3, 32, 32, 3)
    assert shown.known.weight.tolist() == [1, 0.5, 0.5]
    assert [each.name for each in shown.skipped] == ["none/c.jpg"]
    with pytest.raises(ConfigError, match="more than 0 files cannot be used"):
        load_images([open_dataset(str(tmp_path / "data"))], LIMITS, max_skipped=0)
