from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.engines.export import Exported, export_onnx
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.onnx import OnnxBackbone
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.profile import EngineSpec, StageSpec
from roadwork_serve.stages.backbone import Backbone
from tests import untrained
from tests.stages.items import clip, photo


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_onnx(str(untrained.backbone()), tmp_path_factory.mktemp("onnx") / "glance.onnx")


def thumbs(n: int, side: int = 224) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), np.uint8)


def test_the_file_answers_as_torch_does_for_any_batch(exported: Exported) -> None:
    torch, onnx = FeatureEngine(str(untrained.backbone())), OnnxBackbone(exported.file)
    assert exported.difference < 1e-3
    for n in (1, 3, 16):
        wanted, told = torch.logits(thumbs(n)), onnx.logits(thumbs(n))
        assert list(told) == list(wanted) == ["roadwork", "words"]
        for name in told:
            assert told[name] == pytest.approx(wanted[name], abs=1e-3)


def test_stage_1_says_the_same_from_the_file(exported: Exported) -> None:
    of_torch = Backbone(StageSpec(engine="e"), EngineSpec(runs="transformers", model=str(untrained.backbone())))
    of_file = Backbone(StageSpec(engine="e"), EngineSpec(runs="onnx", model=str(exported.file)))
    of_file.warm()
    items = [photo(1), clip(2)]
    for wanted, told in zip(of_torch.judge(items), of_file.judge(items), strict=True):
        assert told.logit == pytest.approx(wanted.logit, abs=1e-3)
        assert told.saw.words_likely == pytest.approx(wanted.saw.words_likely, abs=1e-3)
        assert told.saw.frames == pytest.approx(wanted.saw.frames, abs=1e-3)


def test_thumbs_of_another_size_are_refused_with_what_to_set(exported: Exported) -> None:
    with pytest.raises(ModelError, match=r"media\.thumb_side to 224"):
        OnnxBackbone(exported.file).logits(thumbs(1, side=160))


def test_a_file_that_is_not_there_or_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="roadwork export"):
        OnnxBackbone(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match="cannot be opened"):
        OnnxBackbone(tmp_path / "text.onnx")


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no head"):
        export_onnx(str(untrained.backbone(head=False)), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match="multiple"):
        export_onnx(str(untrained.backbone()), tmp_path / "a.onnx", side=100)
    assert list(tmp_path.iterdir()) == []
