"""What every server here serves: the same decoding, backbones and head, and the same two stages of a cascade."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from roadwork_serve import media
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.engines.features import FeatureEngine, Head, HeadSettings
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.media import Photo
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.stages.signs import Signs

BUNDLED, SMALL, LARGE, CASCADE = "bundled", "vit-s", "vit-l", "cascade"
# Widths, MLPs, layers and attention heads of DINOv3 ViT-S/16 and ViT-L/16, as their published config.json has them.
SIZES = {SMALL: (384, 1536, 12, 6), LARGE: (1024, 4096, 24, 16)}
UNSURE = (0.1, 0.9)  # between these a cascade asks its second stage
_WHERE = Path("build/peers")


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of a server. batch: photos in one pass. limit_s: an answer that takes longer is late."""

    batch: int
    limit_s: float

    def clients(self, workers: int, per_s: float) -> int:
        """So many that they never let so many workers rest: a batch in each, one that forms, two on their way.

        But no more than have their answers in half of the limit, at the pace of the bare loop: nothing here measures
        how a server gets rid of those it cannot serve.
        """
        return max(workers + 2, min(self.batch * (workers + 1) + 2, round(0.5 * self.limit_s * per_s)))


# 500 ms, where a core of a small machine can keep that; batches that a core takes well under half of the limit for.
WORKS = {BUNDLED: Work(8, 0.5), SMALL: Work(1, 0.5), LARGE: Work(1, 10.0), CASCADE: Work(8, 2.0)}


def weights(name: str) -> str:
    """Return the folder of the checkpoint: the shipped miniature, or random weights, written if missing."""
    if name not in SIZES:
        return weights_folder("mini:backbone")
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
        batch = WORKS[name].batch
        options, side = LoadOptions(threads=threads), self._limits.thumb_side
        self._engine = FeatureEngine(weights(name), options, max_thumbs=batch, side=side)
        self._engine.warm()

    def thumb(self, data: bytes) -> NDArray[np.uint8]:
        """Return an encoded photo as the backbone sees it, uint8 [side, side, 3]."""
        read = media.read(data, self._limits)
        if not isinstance(read, Photo):
            raise TypeError("it is a clip")
        return read.thumb

    def judge(self, thumbs: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Return the probability of road work of each."""
        logits = self._engine.apply_heads(self._engine.extract(np.stack(thumbs)))["roadwork"]
        return [_probability(logit) for logit in logits]


class SignReader:
    """The second stage of the cascade: what signs say, where stage 1 is not sure."""

    def __init__(self, threads: int) -> None:
        profile = load_profile("mini")
        engine = profile.engine_of("signs").model_copy(update={"threads": threads})
        self._stage = Signs(profile.stages["signs"], engine)
        self._stage.warm()

    def read(self, data: bytes, before: float) -> float:
        """Return the probability of road work, before being what stage 1 said, which stays where there are no words."""
        item = Item("", "photo", (data,), np.empty((0, 0, 0, 3), np.uint8), (0.0,), float("inf"))
        logit = self._stage.predict([item])[0].logit
        return before if logit is None else _probability(logit)


class Whole:
    """All of it in one process: the backbone, and, in the cascade, the sign reader behind it."""

    def __init__(self, name: str, threads: int) -> None:
        self.judge = Judge(name, threads)
        self._reader = SignReader(threads) if name == CASCADE else None

    def answers(self, bodies: Sequence[bytes], thumbs: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Return the probability of road work of each photo, given with what stage 1 sees of it."""
        said = self.judge.judge(thumbs)
        if self._reader is None:
            return said
        return [self._reader.read(data, p) if unsure(p) else p for data, p in zip(bodies, said, strict=True)]


def unsure(probability: float) -> bool:
    """Whether the second stage of the cascade is to be asked."""
    return UNSURE[0] <= probability <= UNSURE[1]


def _probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
