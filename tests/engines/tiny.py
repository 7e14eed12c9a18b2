"""A DINOv3 small enough to compile and export in a second or two."""

from pathlib import Path

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from roadwork_serve.engines.features import Head, HeadSettings


def tiny_dino(folder: Path, **more: object) -> str:
    """Write a one-layer backbone and a head, for thumbnails of 32 pixels, in the layout of released checkpoints."""
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_register_tokens=4,
        image_size=32, **more,
    )  # fmt: skip
    DINOv3ViTModel(config).save_pretrained(folder)
    Head(HeadSettings(width=24)).save(folder)
    return str(folder)
