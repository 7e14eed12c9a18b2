"""The workload of all servers: the same decoding, backbones and head, and the same two stages of a cascade."""

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
# Widths, MLPs, layers and attention heads of DINOv3 ViT-S/16 and ViT-L/16, from their published config.json.
SIZES = {SMALL: (384, 1536, 12, 6), LARGE: (1024, 4096, 24, 16)}
UNSURE = (0.1, 0.9)  # within this band the cascade runs its second stage
_FOLDER = Path("build/peers")


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a server with one model."""

    #: Photos per forward pass.
    batch: int
    #: Latency above which an answer is late.
    limit_s: float

    def clients(self, workers: int, per_s: float) -> int:
        """Return the number of closed-loop clients that saturate this many workers.

        A batch in each worker, one being formed, and two requests on their way. But no more than can be answered in
        half the limit at the throughput of the bare loop, because this does not measure how a server sheds load.
        """
        return max(workers + 2, min(self.batch * (workers + 1) + 2, round(0.5 * self.limit_s * per_s)))


# 500 ms where a core of a small machine can meet it; batches that take a core well under half the limit.
WORKLOADS = {BUNDLED: Workload(8, 0.5), SMALL: Workload(1, 0.5), LARGE: Workload(1, 10.0), CASCADE: Workload(8, 2.0)}


def weights(name: str) -> str:
    """Return the folder of the checkpoint: the shipped miniature, or random weights, created if missing."""
    if name not in SIZES:
        return weights_folder("bundled:backbone")
    path = _FOLDER / name
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


class Classifier:
    """A backbone and its head."""

    def __init__(self, name: str, threads: int) -> None:
        self._limits = load_profile("mini").media
        batch = WORKLOADS[name].batch
        options, side = LoadOptions(threads=threads), self._limits.thumb_side
        self._engine = FeatureEngine(weights(name), options, max_thumbs=batch, side=side)
        self._engine.warm()

    def thumb(self, data: bytes) -> NDArray[np.uint8]:
        """Return the input of the backbone for an encoded photo, uint8 [side, side, 3]."""
        read = media.read(data, self._limits)
        if not isinstance(read, Photo):
            raise TypeError("the photo is a clip")
        return read.thumb

    def classify(self, thumbs: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Return the probability of road work of each photo."""
        logits = self._engine.apply_heads(self._engine.extract(np.stack(thumbs)))["roadwork"]
        return [_probability(logit) for logit in logits]


class SignReader:
    """The second stage of the cascade, for photos on which stage 1 is unsure."""

    def __init__(self, threads: int) -> None:
        profile = load_profile("mini")
        engine = profile.engine_of("signs").model_copy(update={"threads": threads})
        self._stage = Signs(profile.stages["signs"], engine)
        self._stage.warm()

    def read(self, data: bytes, prior: float) -> float:
        """Return the probability of road work, or `prior`, that of stage 1, if there is no text."""
        item = Item("", "photo", (data,), np.empty((0, 0, 0, 3), np.uint8), (0.0,), float("inf"))
        logit = self._stage.predict([item])[0].logit
        return prior if logit is None else _probability(logit)


class Pipeline:
    """All models in one process: the backbone, and in the cascade the sign reader."""

    def __init__(self, name: str, threads: int) -> None:
        self.classifier = Classifier(name, threads)
        self._reader = SignReader(threads) if name == CASCADE else None

    def predict(self, bodies: Sequence[bytes], thumbs: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Return the probability of road work of each photo, given its thumbnail."""
        probabilities = self.classifier.classify(thumbs)
        if self._reader is None:
            return probabilities
        return [self._reader.read(data, p) if unsure(p) else p for data, p in zip(bodies, probabilities, strict=True)]


def unsure(probability: float) -> bool:
    """Return whether the second stage of the cascade runs."""
    return UNSURE[0] <= probability <= UNSURE[1]


def _probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
