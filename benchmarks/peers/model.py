"""The models of all servers: the same decoding, backbones and head, and the same two stages of a cascade."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.workloads import LARGE, SMALL, WORKLOADS
from roadwork_serve import media
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.engines.registry import open_feature_extractor
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.media import Photo
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.stages.signs import Signs

# Widths, MLPs, layers and attention heads of DINOv3 ViT-S/16 and ViT-L/16, from their published config.json.
SIZES = {SMALL: (384, 1536, 12, 6), LARGE: (1024, 4096, 24, 16)}
UNSURE = (0.1, 0.9)  # within this band the cascade runs its second stage
PROFILE = "cpu"  # the default without a GPU
_FOLDER = Path("build/peers")


def weights(backbone: str) -> str:
    """Return the folder of the checkpoint: that of the profile cpu, or random weights, created if missing."""
    if backbone not in SIZES:
        return weights_folder("bundled:efficientnet-lite2")
    path = _FOLDER / backbone
    if not (path / "head.json").is_file():
        _write_random(path, *SIZES[backbone])
    return str(path)


def _write_random(path: Path, width: int, mlp: int, layers: int, heads: int) -> None:
    import torch  # only here: where ONNX Runtime runs the backbone, no server loads PyTorch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    from roadwork_serve.engines.features import Head, HeadSettings

    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=224, patch_size=16, num_register_tokens=4,
    )  # fmt: skip
    DINOv3ViTModel(config).save_pretrained(path)
    Head(HeadSettings(width=width)).save(path)


class Classifier:
    """A backbone and its head, in the engine of the workload."""

    def __init__(self, model: str, threads: int) -> None:
        workload, profile = WORKLOADS[model], load_profile(PROFILE)
        self._limits = profile.media
        engine = profile.engine_of("backbone")
        settings = {
            **asdict(workload.engine),
            "model": weights(workload.backbone),
            "threads": threads,
            "features": engine.features.model_copy(update={"max_thumbs": workload.batch}),
        }
        self._engine = open_feature_extractor(engine.model_copy(update=settings))
        self._engine.warm()

    def thumb(self, data: bytes) -> NDArray[np.uint8]:
        """Return the input of the backbone for an encoded photo, uint8 [side, side, 3]."""
        read = media.read(data, self._limits)
        if not isinstance(read, Photo):
            raise TypeError("the photo is a clip")
        return read.thumb

    def classify(self, thumbs: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Return the probability of road work of each photo."""
        logits = self._engine.apply_heads(self._engine.extract(np.stack(thumbs)))[ROADWORK]
        return [_probability(logit) for logit in logits]


class SignReader:
    """The second stage of the cascade, for photos on which stage 1 is unsure."""

    def __init__(self, threads: int) -> None:
        profile = load_profile(PROFILE)
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

    def __init__(self, model: str, threads: int) -> None:
        self.classifier = Classifier(model, threads)
        self._reader = SignReader(threads) if WORKLOADS[model].reads_signs else None

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
