"""Backbones small enough to compile and export in a second or two, in the layout of the released checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
)

from roadwork_serve.engines.features import Head, HeadSettings

# Not those of ImageNet: a checkpoint's own must be found.
MEAN, STD = (0.43, 0.41, 0.3), (0.21, 0.16, 0.14)
VIT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def tiny_dino(folder: Path, **more: object) -> str:
    """Write a one-layer backbone and a head, for thumbnails of 32 pixels, in the layout of released checkpoints."""
    torch.manual_seed(0)
    config = DINOv3ViTConfig(**VIT, intermediate_size=48, num_register_tokens=4, image_size=32, **more)
    DINOv3ViTModel(config).save_pretrained(folder)
    Head(HeadSettings(width=24)).save(folder)
    return str(folder)


def tiny_backbone(name: str, folder: Path) -> str:
    """Write a backbone of one of ARCHITECTURES with random weights and its own mean and deviation, and no head."""
    torch.manual_seed(0)
    ARCHITECTURES[name](folder)
    return str(folder)


def _dinov3_vit(folder: Path) -> None:
    config = DINOv3ViTConfig(**VIT, intermediate_size=96, num_register_tokens=4, image_size=64)
    _save(DINOv3ViTModel(config), DINOv3ViTImageProcessor, folder, size={"height": 64, "width": 64})


def _dinov3_convnext(folder: Path) -> None:
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])
    _save(DINOv3ConvNextModel(config), DINOv3ViTImageProcessor, folder, size={"height": 64, "width": 64})


def _dinov2(folder: Path) -> None:
    _save_dinov2(Dinov2Model(Dinov2Config(**VIT, image_size=70)), folder)


def _dinov2_with_registers(folder: Path) -> None:
    _save_dinov2(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**VIT, image_size=70, patch_size=14)), folder)


def _save_dinov2(model: Any, folder: Path) -> None:
    """Save it as released: its position embeddings are for larger pictures than its processor makes."""
    size = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    _save(model, BitImageProcessor, folder, **size)


def _save(model: Any, processor: Any, folder: Path, **sizes: object) -> None:
    _disturb(model).save_pretrained(folder)
    processor(image_mean=MEAN, image_std=STD, **sizes).save_pretrained(folder)


def _timm(architecture: str, side: int, **arguments: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        model = _disturb(timm.create_model(architecture, num_classes=0, **arguments))
        save_for_hf(model, folder, safe_serialization=True)
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_cfg"] |= {"input_size": (3, side, side), "mean": MEAN, "std": STD, "crop_pct": 1.0}
        # As earlier versions of timm wrote those on the hub: without the arguments that every model has.
        (folder / "config.json").write_text(json.dumps(config | {"model_args": arguments}))

    return write


def _disturb(model: Any) -> Any:
    """Add noise to all weights, since the layer scales of some start near zero."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


_SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 2}
ARCHITECTURES: dict[str, Callable[[Path], None]] = {
    "dinov3_vit": _dinov3_vit,
    "dinov3_convnext": _dinov3_convnext,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "timm_dinov3_vit": _timm("vit_small_patch16_dinov3.lvd1689m", 64, **_SMALL),
    "timm_dinov3_convnext": _timm(
        "convnext_tiny.dinov3_lvd1689m", 64, depths=(1, 1, 1, 1), dims=(8, 8, 16, 24), use_grn=False
    ),
    "timm_dinov2": _timm("vit_small_patch14_reg4_dinov2.lvd142m", 56, img_size=70, **_SMALL),
    "timm_efficientnet": _timm("test_efficientnet", 64),
}
