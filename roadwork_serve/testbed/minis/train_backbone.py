"""Trains the miniature of stage 1: is there active road work, and is there readable text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DINOv3ViTModel

from roadwork_serve.engines.backbones import Backbone
from roadwork_serve.engines.features import Head, HeadSettings, pool_features
from roadwork_serve.engines.onnx_folder import PIXEL_MEAN, PIXEL_STD
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.accuracy import by_needs
from roadwork_serve.testbed.minis.data import Cache, RealPhoto, in_batches, real_crop, some_real
from roadwork_serve.testbed.minis.describe import KINDS, coverage, presence
from roadwork_serve.testbed.scene_dataset import has_readable_text

BATCH = 32
REAL_SHARE = 0.03
GRID = 14
UNKNOWN = -1.0


class BackboneTrainingModule(nn.Module):
    """The backbone, its head, and two auxiliary layers that classify each patch and the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone: Any = Backbone(architectures.backbone())
        width = self.backbone.width
        self.head = Head(HeadSettings(width=width, recipe="cls+mean+max"))
        self.patches = nn.Linear(width, len(KINDS))
        self.whole = nn.Linear(3 * width, len(KINDS))
        nn.init.constant_(self.patches.bias, -4.0)

    def forward(self, thumbs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map thumbs, uint8 [n, 224, 224, 3], to logits [n, 2], of each patch [n, 196, kinds] and whole [n, kinds]."""
        mean, std = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), torch.tensor(PIXEL_STD).view(1, 3, 1, 1)
        tokens = self.backbone((thumbs.permute(0, 3, 1, 2) / 255 - mean) / std)
        seen = pool_features(tokens, "cls+mean+max")
        return self.head(seen), self.patches(tokens[:, 1:]), self.whole(seen)


@dataclass(frozen=True)
class Batch:
    """A batch of thumbnails with their targets."""

    #: [n, 224, 224, 3].
    thumbs: Tensor
    #: Road work and readable text, [n, 2]; -1 when unknown.
    labels: Tensor
    #: Kinds of thing in each patch, [n, 196, kinds].
    dense: Tensor
    #: Kinds of thing in the whole picture, [n, kinds].
    whole: Tensor
    #: Whether dense and whole are known, [n].
    known: Tensor


class BackboneTask:
    """See `TrainingTask`."""

    name = "backbone"

    def __init__(self, scenes: Cache, check: Cache, real: list[RealPhoto], compiled: bool = False) -> None:
        self.scenes, self.checks, self.real = scenes, check, real
        self.module = BackboneTrainingModule()
        # Compiling takes a minute and a C++ compiler, then gives half again as many images a second.
        self._run = torch.compile(self.module, dynamic=False) if compiled else self.module
        self._dense = [np.packbits(coverage(t, GRID, GRID).astype(bool)) for t in scenes.truths]
        self._labels = [(float(t.label), float(has_readable_text(t))) for t in scenes.truths]
        self._whole = [presence(t) for t in scenes.truths]

    def size(self, batch: Batch) -> int:
        """See `TrainingTask`."""
        return len(batch.thumbs)

    def batches(self, seed: int) -> Iterator[Batch]:
        """See `TrainingTask`."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.scenes))
            for chosen in in_batches(order, BATCH):
                yield self._batch(chosen, rng)

    def _batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        kinds = len(KINDS)
        thumbs = np.stack([self.scenes.frame(int(i)) for i in chosen])
        labels = np.array([self._labels[i] for i in chosen], np.float32)
        dense = np.stack([np.unpackbits(self._dense[i], count=GRID * GRID * kinds) for i in chosen])
        dense = dense.reshape(-1, GRID, GRID, kinds).astype(np.float32)
        whole = np.stack([self._whole[i] for i in chosen])
        known = np.ones(len(chosen), np.float32)
        for i in range(len(chosen)):
            if self.real and rng.random() < REAL_SHARE:
                photo = some_real(self.real, rng)
                thumbs[i] = np.asarray(real_crop(photo.image, (224, 224), rng))
                labels[i], known[i] = (float(photo.label), UNKNOWN), 0.0
            if rng.random() < 0.5:
                thumbs[i], dense[i] = thumbs[i, :, ::-1].copy(), dense[i, :, ::-1].copy()
        jittered = color_jitter(torch.from_numpy(thumbs), rng)
        return Batch(
            jittered,
            torch.from_numpy(labels),
            torch.from_numpy(dense).flatten(1, 2),
            torch.from_numpy(whole),
            torch.from_numpy(known),
        )

    def loss(self, batch: Batch, progress: float) -> Tensor:
        """See `TrainingTask`."""
        with torch.autocast("cpu", torch.bfloat16):
            logits, dense, whole = self._run(batch.thumbs)
        return losses(batch, logits.float(), dense.float(), whole.float())

    @torch.inference_mode()
    def check(self, module: Any) -> str:
        """See `TrainingTask`."""
        probabilities = []
        for start in range(0, len(self.checks), 50):
            thumbs = np.stack([self.checks.frame(i) for i in range(start, min(start + 50, len(self.checks)))])
            with torch.autocast("cpu", torch.bfloat16):
                logits = module(torch.from_numpy(thumbs))[0]
            probabilities.append(torch.sigmoid(logits.float()).numpy())
        p = np.concatenate(probabilities)
        words = np.array([has_readable_text(t) for t in self.checks.truths])
        return f"{by_needs(p[:, 0], self.checks.truths)} words {np.mean((p[:, 1] > 0.5) == words):.3f}"

    def save(self, module: Any, out: Path) -> None:
        """See `TrainingTask`."""
        module.backbone.half().save_pretrained(out)
        module.head.save(out, torch.float16)

    def load_weights(self, folder: Path) -> None:
        """See `TrainingTask`."""
        self.module.backbone.model.load_state_dict(DINOv3ViTModel.from_pretrained(folder).float().state_dict())
        self.module.head.load_state_dict(Head.load(folder).state_dict())


def losses(batch: Batch, logits: Tensor, dense: Tensor, whole: Tensor) -> Tensor:
    """Return the loss of labels, patches and whole pictures; unknown targets do not count."""
    labelled = batch.labels != UNKNOWN
    answers = F.binary_cross_entropy_with_logits(logits, batch.labels.clamp(min=0), reduction="none") * labelled
    answers = (answers * torch.tensor([1.0, 0.4])).sum(1).mean()
    weight = 1 + 3 * batch.dense
    patches = F.binary_cross_entropy_with_logits(dense, batch.dense, weight, reduction="none").sum(2).mean(1)
    overall = F.binary_cross_entropy_with_logits(whole, batch.whole, reduction="none").mean(1)
    known = batch.known
    return answers + (known * (1.5 * patches + overall)).mean()


def color_jitter(thumbs: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary brightness, contrast and tint slightly, one draw an image. uint8 in, float 0 to 255 out."""
    n = len(thumbs)
    gain = torch.from_numpy(rng.uniform(0.82, 1.2, (n, 1, 1, 1)) * rng.uniform(0.95, 1.05, (n, 1, 1, 3))).float()
    lift = torch.from_numpy(rng.uniform(-14, 14, (n, 1, 1, 1))).float()
    return (thumbs * gain + lift).clamp_(0, 255)
