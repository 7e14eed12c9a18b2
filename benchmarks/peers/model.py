"""What every server here serves: the same decoding, the same backbones, the same head."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from roadwork_serve import media
from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.engines.weights import folder
from roadwork_serve.media import Photo
from roadwork_serve.profiles.load import load_profile

BATCH = 16
BUNDLED, SMALL, LARGE = "bundled", "vit-s", "vit-l"
# Widths, MLPs, layers and attention heads of DINOv3 ViT-S/16 and ViT-L/16, as their published config.json has them.
SIZES = {SMALL: (384, 1536, 12, 6), LARGE: (1024, 4096, 24, 16)}
_WHERE = Path("build/peers")


def weights(name: str) -> str:
    """A folder with the checkpoint: the miniature that ships, or random weights of a size, written when missing."""
    if name == BUNDLED:
        return folder("mini:backbone")
    path = _WHERE / name
    if not (path / "head.json").is_file():
        width, mlp, layers, heads = SIZES[name]
        torch.manual_seed(0)
        config = DINOv3ViTConfig(
            hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
            image_size=224, patch_size=16, num_register_tokens=4,
        )  # fmt: skip
        DINOv3ViTModel(config).save_pretrained(path)
        Head(HeadSettings(width=width)).save(path)
    return str(path)


class Judge:
    """A backbone and its head."""

    def __init__(self, name: str, threads: int) -> None:
        self._limits = load_profile("mini").media
        self._engine = FeatureEngine(weights(name), threads=threads, max_thumbs=BATCH, side=self._limits.thumb_side)
        self._engine.warm()

    def thumb(self, data: bytes) -> NDArray[np.uint8]:
        """An encoded photo as the backbone sees it, uint8 [side, side, 3]."""
        read = media.read(data, self._limits)
        if not isinstance(read, Photo):
            raise TypeError("it is a clip")
        return read.thumb

    def judge(self, thumbs: Sequence[NDArray[np.uint8]]) -> list[float]:
        """The probability of road work of each."""
        logits = self._engine.say(self._engine.look(np.stack(thumbs)))["roadwork"]
        return [float(p) for p in 1 / (1 + np.exp(-logits))]
