from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from roadwork_serve.engines import export
from roadwork_serve.engines.export import Exported, export_onnx
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.onnx import OnnxBackbone, data_of, read_metadata
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.backbone import Backbone
from tests import untrained
from tests.engines.tiny import tiny_dino
from tests.stages.items import clip, photo


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_onnx(str(untrained.backbone()), tmp_path_factory.mktemp("onnx") / "stage1.onnx")


def thumbs(n: int, side: int = 224) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), np.uint8)


def test_the_exported_file_matches_torch_for_any_batch(exported: Exported) -> None:
    torch, onnx = FeatureEngine(str(untrained.backbone())), OnnxBackbone(exported.file)
    assert exported.difference < 1e-3
    for n in (1, 3, 16):
        wanted, found = torch.logits(thumbs(n)), onnx.logits(thumbs(n))
        assert list(found) == list(wanted) == ["roadwork", "words"]
        for name in found:
            assert found[name] == pytest.approx(wanted[name], abs=1e-3)


def test_fp16_halves_the_weights_and_nearly_gives_the_same_logits(exported: Exported, tmp_path: Path) -> None:
    half = export_onnx(str(untrained.backbone()), tmp_path / "half.onnx", precision="fp16")
    assert half.megabytes < 0.6 * exported.megabytes
    assert 0 < half.difference < 0.05
    assert read_metadata(half.file).precision == "fp16"


def test_the_file_contains_its_metadata_and_reference_logits(exported: Exported) -> None:
    about = read_metadata(exported.file)
    assert (about.side, about.precision, about.outputs) == (224, "fp32", ("roadwork", "words"))
    assert about.model == str(untrained.backbone())
    found = OnnxBackbone(exported.file).logits(reference_thumbs(224))
    assert about.expected[:, 0] == pytest.approx(found["roadwork"], abs=1e-3)


def test_the_uint8_input_is_only_cast(exported: Exported) -> None:
    """TensorRT takes uint8 at the edge of a network only."""
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(exported.file).graph.node
    assert [node.op_type for node in nodes if "thumbs" in node.input] == ["Cast"]


def test_large_weights_are_stored_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_EMBEDDED_BYTES", 10_000)
    model, file = tiny_dino(tmp_path / "model"), tmp_path / "out/large.onnx"
    done = export_onnx(model, file, side=32)
    assert done.data == data_of(file) == tmp_path / "out/large.onnx.data"
    assert sorted(file.parent.iterdir()) == [file, done.data]
    assert done.data.stat().st_size > 100_000
    assert done.megabytes == (file.stat().st_size + done.data.stat().st_size) / 1e6
    wanted = FeatureEngine(model).logits(thumbs(3, 32))["roadwork"]
    assert OnnxBackbone(file).logits(thumbs(3, 32))["roadwork"] == pytest.approx(wanted, abs=1e-3)
    done.data.unlink()
    with pytest.raises(ModelError, match=r"Put large\.onnx\.data, which was written with it, beside it"):
        OnnxBackbone(file)


def test_a_small_export_over_a_large_one_leaves_no_data_behind(tmp_path: Path) -> None:
    model, file = tiny_dino(tmp_path / "model"), tmp_path / "a.onnx"
    data_of(file).write_bytes(b"old")
    assert export_onnx(model, file, side=32).data is None
    assert sorted(tmp_path.iterdir()) == [file, tmp_path / "model"]


def test_an_export_that_differs_from_torch_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export.MAX_DIFFERENCE, "fp16", 1e-9)
    with pytest.raises(ModelError, match=r"differ from PyTorch's.*nothing was written; export it in fp32"):
        export_onnx(tiny_dino(tmp_path / "model"), tmp_path / "a.onnx", precision="fp16", side=32)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_large_batches_are_split_into_passes(exported: Exported) -> None:
    engine = OnnxBackbone(exported.file, max_thumbs=2)
    engine.warm()
    whole = OnnxBackbone(exported.file).logits(thumbs(5))["words"]
    assert engine.logits(thumbs(5))["words"] == pytest.approx(whole, abs=1e-4)


def test_stage_1_predicts_the_same_from_the_exported_file(exported: Exported) -> None:
    of_torch = Backbone(StageSpec(engine="e"), EngineSpec(backend="transformers", model=str(untrained.backbone())))
    of_file = Backbone(StageSpec(engine="e"), EngineSpec(backend="onnx", model=str(exported.file)))
    of_file.warm()
    items = [photo(1), clip(2)]
    for wanted, found in zip(of_torch.predict(items), of_file.predict(items), strict=True):
        assert found.logit == pytest.approx(wanted.logit, abs=1e-3)
        assert found.evidence.text_probability == pytest.approx(wanted.evidence.text_probability, abs=1e-3)
        assert found.evidence.frame_probabilities == pytest.approx(wanted.evidence.frame_probabilities, abs=1e-3)


def test_thumbnails_of_another_size_are_rejected_with_the_setting_to_change(exported: Exported) -> None:
    with pytest.raises(ModelError, match=r"media\.thumb_side to 224, or export it with --side 160"):
        OnnxBackbone(exported.file, side=160)
    with pytest.raises(ModelError, match=r"media\.thumb_side to 224"):
        OnnxBackbone(exported.file).logits(thumbs(1, side=160))


def test_a_missing_or_invalid_export_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="roadwork export"):
        OnnxBackbone(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match="cannot be opened"):
        OnnxBackbone(tmp_path / "text.onnx")
    onnx = pytest.importorskip("onnx")
    other = onnx.helper.make_graph([], "g", [], [onnx.helper.make_tensor_value_info("x", 1, [1])])
    other.initializer.append(onnx.helper.make_tensor("x", 1, [1], [0.0]))
    model = onnx.helper.make_model(other, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"not written by this version of `roadwork export`"):
        OnnxBackbone(tmp_path / "other.onnx")


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no head"):
        export_onnx(str(untrained.backbone(head=False)), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match="multiple"):
        export_onnx(str(untrained.backbone()), tmp_path / "a.onnx", side=100)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_failing_cuda_provider_is_an_error(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no CUDAExecutionProvider: install onnxruntime-gpu"):
        OnnxBackbone(exported.file, device="cuda")
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    started = SimpleNamespace(get_providers=lambda: there[1:])  # the remaining provider when the first does not start
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: started)
    with pytest.raises(ModelError, match="could not start its CUDAExecutionProvider: install the CUDA"):
        OnnxBackbone(exported.file, device="cuda")
