"""Every architecture of the family, tiny: read by our code and by its own library, served, exported, with a head."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from roadwork_serve.engines.backbones import Backbone, load_backbone
from roadwork_serve.engines.export import export_onnx
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import OnnxBackbone
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.errors import ModelError
from roadwork_serve.heads.collect_features import FeatureRequest, collect_features
from roadwork_serve.heads.fit import HeadTraining
from roadwork_serve.heads.train import train_head
from roadwork_serve.profiles.load import load_profile
from tests.engines.tiny import ARCHITECTURES, MEAN, STD, tiny_backbone
from tests.evaluation.fakes import BLUE, RED, write_jpeg

PATCHES = {"dinov3_vit": 16, "dinov2": 14, "dinov2_with_registers": 14, "timm_dinov3_vit": 16, "timm_dinov2": 14}
WIDTHS = {"timm_efficientnet": 256}


@dataclass(frozen=True)
class Checkpoint:
    name: str
    folder: str

    @property
    def patch(self) -> int:
        return PATCHES.get(self.name, 32)

    @property
    def side(self) -> int:
        """The side that the checkpoint's own preprocessing produces."""
        return 56 if self.patch == 14 else 64


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(request.param, tiny_backbone(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def head(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a head that was trained as `roadwork train-head --model FOLDER` does it."""
    folder = tmp_path_factory.mktemp(f"head-{checkpoint.name}")
    rng = np.random.default_rng(0)
    for at in range(12):
        for label, colour in (("roadwork", RED), ("none", BLUE)):
            red, green, blue = (int(c) for c in np.clip(np.array(colour) + rng.integers(-20, 20, 3), 0, 255))
            write_jpeg(folder / f"data/{label}/site-{at}/{label}.jpg", (red, green, blue))
    profile = load_profile("mini", {"media": {"thumb_side": checkpoint.side}})
    wanted = FeatureRequest(data=[str(folder / "data")], model=checkpoint.folder, cache=folder / "cache")
    features = collect_features(wanted, profile).features
    report = train_head(features, HeadTraining(hidden=8, epochs=30, batch=8), folder / "head", command="x")
    assert report.val_metrics.accuracy == 1.0
    return folder / "head"


def own_tokens(checkpoint: Checkpoint, picture: Image.Image) -> Tensor:
    """Return [1 + patches, width] from the library that wrote the checkpoint, after its own preprocessing."""
    if not checkpoint.name.startswith("timm"):
        processor, model = (
            AutoImageProcessor.from_pretrained(checkpoint.folder),
            AutoModel.from_pretrained(checkpoint.folder),
        )
        seen = model.eval()(**processor(picture, return_tensors="pt"))
        registers = getattr(model.config, "num_register_tokens", 0)
        return torch.cat([seen.pooler_output, seen.last_hidden_state[0, 1 + registers :]])
    config = json.loads(Path(checkpoint.folder, "config.json").read_text())
    sized = {"dynamic_img_size": True} if "dinov2" in checkpoint.name else {}
    model = timm.create_model(f"local-dir:{checkpoint.folder}", pretrained=True, **sized).eval()
    pixels = create_transform(**resolve_data_config({}, config["pretrained_cfg"]))(picture)[None]
    seen = model.forward_features(pixels)
    if seen.ndim == 3:
        return torch.cat([seen[:, 0], seen[0, model.num_prefix_tokens :]])
    cells = model.head.norm(seen) if "convnext" in checkpoint.name else seen
    return torch.cat([model.forward_head(seen, pre_logits=True), cells[0].flatten(1).T])


@torch.inference_mode()
def test_tokens_are_those_of_its_own_library(checkpoint: Checkpoint) -> None:
    thumbs = reference_thumbs(checkpoint.side, 1)
    wanted = own_tokens(checkpoint, Image.fromarray(thumbs[0]))
    engine = FeatureEngine(checkpoint.folder)
    assert (engine.side, engine.patch) == (checkpoint.side, checkpoint.patch)
    assert engine.backbone.mean == pytest.approx(MEAN)
    assert engine.backbone.std == pytest.approx(STD)
    seen: list[Tensor] = []
    engine.backbone.register_forward_hook(lambda _, __, tokens: seen.append(tokens[0]))
    pooled = engine.features(thumbs, "cls+mean+max")[0]
    assert torch.allclose(seen[0], wanted, atol=1e-4)
    assert torch.allclose(pooled, torch.cat([wanted[0], wanted[1:].mean(0), wanted[1:].amax(0)]), atol=1e-4)


@torch.inference_mode()
def test_any_side_of_whole_patches_will_do(checkpoint: Checkpoint) -> None:
    backbone = load_backbone(checkpoint.folder)
    for cells in (2, 3, 6):
        tokens = backbone(torch.rand(2, 3, cells * checkpoint.patch, cells * checkpoint.patch))
        assert tokens.shape == (2, 1 + cells**2, backbone.width)
    assert backbone.width == WIDTHS.get(checkpoint.name, 24)
    with pytest.raises(ModelError, match=rf"patches of {checkpoint.patch} pixels.*100,.*media\.thumb_side"):
        FeatureEngine(checkpoint.folder, side=100)


def test_a_trained_head_is_served_in_any_batch_and_from_a_file(
    checkpoint: Checkpoint, head: Path, tmp_path: Path
) -> None:
    engine = FeatureEngine(checkpoint.folder, head_folder=head, side=2 * checkpoint.side)
    thumbs = reference_thumbs(2 * checkpoint.side, 3)
    together = engine.logits(thumbs)["roadwork"]
    assert together == pytest.approx([engine.logits(thumb[None])["roadwork"][0] for thumb in thumbs], abs=1e-4)
    done = export_onnx(checkpoint.folder, tmp_path / "a.onnx", side=2 * checkpoint.side, head=head)
    assert done.difference < 1e-3
    assert OnnxBackbone(done.file).logits(thumbs)["roadwork"] == pytest.approx(together, abs=1e-3)


def test_it_compiles_into_one_graph(checkpoint: Checkpoint, head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    engine, plain = (
        FeatureEngine(checkpoint.folder, head_folder=head, side=checkpoint.side, max_thumbs=1, compile=compile)
        for compile in (True, False)
    )
    engine.warm()
    thumbs = reference_thumbs(checkpoint.side, 3)
    assert engine.logits(thumbs)["roadwork"] == pytest.approx(plain.logits(thumbs)["roadwork"], abs=1e-4)


def test_half_precision_says_nearly_the_same(checkpoint: Checkpoint) -> None:
    half, full = (FeatureEngine(checkpoint.folder, LoadOptions(dtype=kind)) for kind in ("bfloat16", "float32"))
    thumbs = reference_thumbs(checkpoint.side, 2)
    assert half.backbone.dtype is torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.features(thumbs), full.features(thumbs)).min() > 0.999


@torch.inference_mode()
def test_a_mirror_of_timm_computes_as_the_original(tmp_path: Path) -> None:
    """The weights of one under the names of the other give the same tokens, at two sides."""
    original = load_backbone(tiny_backbone("dinov3_vit", tmp_path / "original"))
    mirror = load_backbone(tiny_backbone("timm_dinov3_vit", tmp_path / "mirror"))
    ours, theirs = original.model, mirror.model.timm_model
    layer, block = ours.model.layer[0], theirs.blocks[0]
    attention = layer.attention
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        if projection.bias is not None:  # all are zero in the released weights, and timm has none
            projection.bias.zero_()
    pairs = (
        (theirs.cls_token, ours.embeddings.cls_token),
        (theirs.reg_token, ours.embeddings.register_tokens),
        (block.gamma_1, layer.layer_scale1.lambda1),
        (block.gamma_2, layer.layer_scale2.lambda1),
        (block.attn.qkv.weight, torch.cat([p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)])),
    )
    for copy, weight in pairs:
        copy.copy_(weight)
    modules = (
        (theirs.patch_embed.proj, ours.embeddings.patch_embeddings),
        (block.norm1, layer.norm1),
        (block.norm2, layer.norm2),
        (block.attn.proj, attention.o_proj),
        (block.mlp.fc1, layer.mlp.up_proj),
        (block.mlp.fc2, layer.mlp.down_proj),
        (theirs.norm, ours.norm),
    )
    for copy, module in modules:
        copy.load_state_dict(module.state_dict())
    for side in (64, 160):
        pixels = torch.rand(2, 3, side, side)
        assert torch.allclose(mirror(pixels), original(pixels), atol=1e-5)


def test_a_checkpoint_without_preprocessing_has_that_of_imagenet(tmp_path: Path) -> None:
    folder = tiny_backbone("dinov2", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    backbone = load_backbone(folder)
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert backbone.image_size == 70


def test_what_is_saved_is_read_again_with_its_preprocessing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = load_backbone(checkpoint.folder)
    before.save_pretrained(tmp_path)
    after = load_backbone(str(tmp_path))
    assert isinstance(after, Backbone)
    assert (after.mean, after.std, after.image_size) == (before.mean, before.std, before.image_size)
    weights = after.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in before.state_dict().items())


def test_timms_newest_layout_is_read_too(tmp_path: Path) -> None:
    """Since timm 1.0.31 config.json has every argument, num_classes among them, which the wrapper also gives."""
    folder = tiny_backbone("timm_dinov3_vit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] |= {"num_classes": 0, "in_chans": 3, "global_pool": "avg", "img_size": [256, 256]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_backbone(folder).width == 24


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "vit"}, "of the model type vit"),
        ({"hidden_size": 24}, r"not a checkpoint: its config\.json has no model_type"),
        ({"architecture": "swin_tiny_patch4_window7_224", "pretrained_cfg": {}}, "timm's swin_tiny"),
        ({"architecture": "no_such_net", "pretrained_cfg": {}}, "timm's no_such_net"),
    ],
)
def test_other_architectures_are_refused_with_those_that_are_supported(
    tmp_path: Path, config: dict[str, object], told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{told}.* must be one of: DINOv3 ViT and ConvNeXt, DINOv2 with and without"):
        load_backbone(str(tmp_path))
