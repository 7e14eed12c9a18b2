"""Stage 1 in numpy computes what PyTorch does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from roadwork_serve.engines.array_heads import ArrayHead
from roadwork_serve.engines.export_graphs import export_graphs
from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.head_settings import head_files
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx_features import OnnxFeatures
from roadwork_serve.engines.thumbnails import SECOND, reference_thumbs
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError

LITE2 = weights_folder("bundled:efficientnet-lite2")
THUMBS = reference_thumbs(224, 3)


def trained(folder: Path, width: int = 1280, **settings: object) -> Path:
    """Write a head whose weights are not those that PyTorch starts with."""
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    head = Head(HeadSettings(width, **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for weights in head.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    head.save(folder)
    return folder


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=2e-4)


def test_logits_features_and_evidence_are_those_of_pytorch(tmp_path: Path) -> None:
    second = trained(tmp_path / "second", recipe="cls+mean+max")
    heads = tmp_path / "heads"
    trained(heads / "linear", recipe="cls+mean", hidden=0)
    more = {"second_head_folder": second, "policy_heads": heads, "max_thumbs": 2}
    engine, wanted = OnnxFeatures(LITE2, **more), FeatureEngine(LITE2, **more)  # type: ignore[arg-type]
    engine.warm()
    features, of_torch = engine.extract(THUMBS), wanted.extract(THUMBS)
    np.testing.assert_allclose(features, of_torch.numpy(), atol=1e-4)
    same(engine.apply_heads(features), wanted.apply_heads(of_torch))
    assert SECOND in engine.apply_heads(features)
    same(engine.apply_heads(features, "linear"), wanted.apply_heads(of_torch, "linear"))
    np.testing.assert_allclose(engine.stored_features(features), wanted.stored_features(of_torch), atol=2e-3)
    found, expected = engine.patch_evidence(features), wanted.patch_evidence(of_torch)
    assert found is not None and expected is not None and found.classes == expected.classes
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-4)


def test_graphs_of_a_vit_read_its_checkpoint_and_take_its_heads(tmp_path: Path) -> None:
    bundled = weights_folder("bundled:backbone")
    engine, wanted = OnnxFeatures(bundled, max_thumbs=2), FeatureEngine(bundled, max_thumbs=2)
    features, of_torch = engine.extract(THUMBS), wanted.extract(THUMBS)
    np.testing.assert_allclose(features, of_torch.numpy(), atol=1e-4)
    same(engine.apply_heads(features), wanted.apply_heads(of_torch))
    folder = Path(shutil.copytree(bundled, tmp_path / "vit", ignore=shutil.ignore_patterns("*.onnx")))
    with pytest.raises(ModelError, match="holds no ONNX backbone"):
        OnnxFeatures(str(folder))
    (graph,) = export_graphs(folder)
    assert graph.stat().st_size < (folder / "model.safetensors").stat().st_size / 10
    assert fingerprint(str(folder)) == fingerprint(bundled), "the graph has no weights of its own"
    np.testing.assert_allclose(OnnxFeatures(str(folder), max_thumbs=2).extract(THUMBS), features, atol=1e-5)


def test_heads_of_other_backbones_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    for name, settings, message in (
        ("narrow", {"width": 640}, "features of width 640"),
        ("other", {"backbone": "0" * 64}, "another backbone of the same width"),
        ("blind", {"outputs": ("words",)}, "no output roadwork"),
    ):
        with pytest.raises(ModelError, match=message):
            OnnxFeatures(LITE2, head_folder=trained(tmp_path / name, **settings))  # type: ignore[arg-type]
    damaged = trained(tmp_path / "damaged")
    settings = json.loads((damaged / "head.json").read_text())
    (damaged / "head.json").write_text(json.dumps(settings | {"hidden": 8}))
    with pytest.raises(ModelError, match=r"cannot be read: its weights are .* For a miniature run"):
        ArrayHead.parse(head_files(damaged), "damaged")
    with pytest.raises(ModelError, match=r"The head in .*gone cannot be read"):
        OnnxFeatures(LITE2, head_folder=tmp_path / "gone")


def test_settings_that_the_file_cannot_follow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"set media\.thumb_side to 224"):
        OnnxFeatures(LITE2, side=256)
    with pytest.raises(ModelError, match="set device: cpu"):
        OnnxFeatures(LITE2, LoadOptions(dtype="float16"))
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(ModelError, match="set backend: transformers"):
        OnnxFeatures(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        OnnxFeatures(str(tmp_path))
