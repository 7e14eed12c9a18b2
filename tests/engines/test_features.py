import numpy as np
import pytest
import torch

from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.errors import ModelError
from tests import untrained

THUMBS = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
TOLD = r"`roadwork minis train backbone`.* engines\.NAME\.features\.head of the profile"


def test_recipes_join_the_parts_in_order() -> None:
    engine = FeatureEngine(str(untrained.backbone()))
    width = engine.model.config.hidden_size
    whole = engine.features(THUMBS, "cls+mean+max")
    assert whole.shape == (3, 3 * width)
    assert torch.allclose(whole[:, :width], engine.features(THUMBS, "cls"))
    assert (whole[:, 2 * width :] >= whole[:, width : 2 * width]).all()


def test_a_batch_scores_as_each_alone() -> None:
    engine = FeatureEngine(str(untrained.backbone()))
    together = engine.logits(THUMBS)
    assert set(together) == {"roadwork", "words"}
    alone = [engine.logits(THUMBS[i : i + 1])["words"][0] for i in range(3)]
    assert together["words"] == pytest.approx(alone, abs=1e-4)


def test_head_is_read_as_it_was_written(tmp_path) -> None:
    head = Head(HeadSettings(width=8, recipe="cls+mean", hidden=4)).eval()
    head.save(tmp_path)
    assert torch.equal(Head.load(tmp_path).eval()(torch.ones(1, 16)), head(torch.ones(1, 16)))


def test_a_head_of_another_backbone_is_refused(tmp_path) -> None:
    Head(HeadSettings(width=8)).save(tmp_path)
    with pytest.raises(ModelError, match="train a head for this backbone"):
        FeatureEngine(str(untrained.backbone(head=False)), head_folder=tmp_path)


def test_a_broken_head_is_refused(tmp_path) -> None:
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"head in {tmp_path} cannot be read.*{TOLD}"):
        Head.load(tmp_path)


def test_without_a_head_there_are_no_logits() -> None:
    with pytest.raises(ModelError, match=rf"no head yet.*{TOLD}"):
        FeatureEngine(str(untrained.backbone(head=False))).logits(THUMBS)
