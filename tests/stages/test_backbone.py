from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import EngineSpec, StageSpec
from roadwork_serve.stages.backbone import Backbone
from tests import untrained
from tests.stages.items import clip, photo


def backbone(folder: Path, **features: object) -> Backbone:
    model = {"runs": "transformers", "model": str(folder), "miniature": True, "features": features}
    return Backbone(StageSpec(engine="dinov3"), EngineSpec.model_validate(model))


def test_every_frame_of_a_clip_is_judged() -> None:
    stage = backbone(untrained.backbone())
    still, moving = stage.judge([photo(1).slim("thumbs"), clip(2).slim("thumbs")])
    assert still.saw.frames == []
    assert len(moving.saw.frames) == 8
    logits = sorted(np.log(p / (1 - p)) for p in moving.saw.frames)
    assert moving.logit == pytest.approx((logits[-1] + logits[-2]) / 2, abs=1e-4)
    assert still.miniature and still.compute_ms > 0
    assert still.saw.words_likely is not None


def test_batched_items_are_judged_as_alone() -> None:
    stage = backbone(untrained.backbone())
    items = [photo(1), clip(2), photo(3)]
    together = [o.logit for o in stage.judge(items)]
    assert together == pytest.approx([stage.judge([item])[0].logit for item in items], abs=1e-4)


def test_abstains_without_a_head_until_one_is_named() -> None:
    bare = backbone(untrained.backbone(head=False))
    bare.warm()
    assert bare.judge([photo(1)])[0].logit is None
    headed = backbone(untrained.backbone(head=False), head=str(untrained.backbone()))
    assert headed.judge([photo(1)])[0].logit is not None


def test_unknown_options_are_refused() -> None:
    model = EngineSpec(runs="transformers", model=str(untrained.backbone()))
    with pytest.raises(ConfigError, match="no option 'max_pixels'"):
        Backbone(StageSpec(engine="dinov3", options={"max_pixels": 3}), model)


def test_an_engine_that_runs_no_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="rapidocr runs no backbone"):
        Backbone(StageSpec(engine="ocr"), EngineSpec(runs="rapidocr", model="PP-OCRv6-small"))
