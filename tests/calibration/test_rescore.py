from pathlib import Path

import numpy as np
import pytest
import torch

from roadwork_serve.calibration.rescore import rescore
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from tests.engines.tiny import tiny_dino


def row(name: str) -> EvaluationRow:
    records = (StageRecord("backbone", 9.0, 0.9, "m", True, 0.9), StageRecord("vlm", -1.0, None, "m", True))
    return EvaluationRow(SampleMetadata(name, "photo", True), 0.9, True, "backbone", "above_band", False, records)


def head(folder: Path, **settings: object) -> Head:
    folder.mkdir()
    torch.manual_seed(3)
    made = Head(HeadSettings(**({"width": 24, "hidden": 8} | settings)))  # type: ignore[arg-type]
    made.save(folder)
    return made


def test_rescored_predictions_match_the_server(tmp_path: Path) -> None:
    made = head(tmp_path / "head")
    engine = FeatureEngine(tiny_dino(tmp_path / "model"), side=32, head_folder=tmp_path / "head")
    thumbs = reference_thumbs(32, 6)
    extracted = engine.extract(thumbs)
    kept, wanted = engine.stored_features(extracted), engine.apply_heads(extracted)
    features = {"photo": kept[:1], "clip": kept[1:]}
    photo, clip = rescore([row("photo"), row("clip"), row("without")], features, made)
    assert photo.record("backbone").logit == pytest.approx(float(wanted["roadwork"][0]), abs=5e-3)
    top = np.sort(wanted["roadwork"][1:])[-2:].mean()
    assert clip.record("backbone").logit == pytest.approx(float(top), abs=5e-3)
    likely = 1 / (1 + np.exp(-wanted["words"][1:].max()))
    assert clip.record("backbone").text_probability == pytest.approx(float(likely), abs=5e-3)
    assert photo.records[1] == row("photo").records[1]


def test_a_head_without_a_text_output_gives_no_text_probability(tmp_path: Path) -> None:
    made = head(tmp_path / "head", outputs=("roadwork",))
    (one,) = rescore([row("a")], {"a": np.ones((1, 24), np.float16)}, made)
    assert one.record("backbone").text_probability is None


def test_a_head_that_needs_more_features_than_stored_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stores features of recipe cls, and this head needs cls\+mean"):
        rescore([row("a")], {"a": np.ones((1, 24), np.float16)}, head(tmp_path / "head", recipe="cls+mean"))
