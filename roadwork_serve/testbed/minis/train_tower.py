"""Pre-trains the vision tower of stages 2B and 3A on crops: it predicts the kinds of thing in each patch."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from roadwork_serve.engines.onnx_folder import PIXEL_MEAN, PIXEL_STD
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.data import Cache, in_batches
from roadwork_serve.testbed.minis.describe import KINDS, coverage
from roadwork_serve.testbed.minis.train_backbone import GRID, color_jitter
from roadwork_serve.testbed.minis.train_vlm import dense_loss
from roadwork_serve.testbed.scenes.truth import Thing, Truth

BATCH = 32
SIDE = 16 * GRID
CROPS_AT_THINGS = 0.7  # fraction of the crops centred near a relevant thing; the others are random
TRAFFIC = ("car", "lorry")


class TowerTrainingModule(nn.Module):
    """A DINOv3 as deep as the vision tower, and an auxiliary layer that classifies each patch."""

    def __init__(self, teacher: DINOv3ViTModel | None) -> None:
        super().__init__()
        self.backbone: Any = architectures.backbone(architectures.VLM_LAYERS)
        if teacher:
            self.backbone.load_state_dict(teacher.state_dict(), strict=False)
        self.patches = nn.Linear(architectures.WIDTH, len(KINDS))
        nn.init.constant_(self.patches.bias, -4.0)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops, uint8 or float [n, 224, 224, 3], to logits [n, 196, kinds]."""
        mean, std = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), torch.tensor(PIXEL_STD).view(1, 3, 1, 1)
        tokens = self.backbone((crops.permute(0, 3, 1, 2) / 255 - mean) / std).last_hidden_state
        return self.patches(tokens[:, 1 + self.backbone.config.num_register_tokens :])


@dataclass(frozen=True)
class Batch:
    """A batch of crops."""

    #: float [n, 224, 224, 3].
    crops: Tensor
    #: Kinds of thing in each patch, [n, 196, kinds].
    dense: Tensor


class TowerTask:
    """See `TrainingTask`."""

    name = "tower"

    def __init__(self, scenes: Cache, check: Cache, teacher: DINOv3ViTModel | None, compiled: bool = False) -> None:
        self.scenes, self.checks = scenes, check
        self.module = TowerTrainingModule(teacher)
        self._run = torch.compile(self.module, dynamic=False) if compiled else self.module

    def size(self, batch: Batch) -> int:
        """See `TrainingTask`."""
        return len(batch.crops)

    def batches(self, seed: int) -> Iterator[Batch]:
        """See `TrainingTask`."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.scenes))
            for chosen in in_batches(order, BATCH):
                yield batch(self.scenes, chosen, rng)

    def loss(self, batch: Batch, progress: float) -> Tensor:
        """See `TrainingTask`."""
        with torch.autocast("cpu", torch.bfloat16):
            dense = self._run(batch.crops)
        return dense_loss(
            dense.float().flatten(0, 1), batch.dense.flatten(0, 1), torch.ones(batch.dense[..., 0].numel())
        )

    @torch.inference_mode()
    def check(self, module: Any) -> str:
        """Return the average precision of the patch classifier: the mean over the kinds, and the lowest four."""
        from sklearn.metrics import average_precision_score

        rng = np.random.default_rng(0)
        predicted, targets = [], []
        for start in range(0, min(320, len(self.checks)), BATCH):
            part = batch(self.checks, np.arange(start, min(start + BATCH, len(self.checks))), rng)
            with torch.autocast("cpu", torch.bfloat16):
                predicted.append(module(part.crops).float().flatten(0, 1).numpy())
            targets.append(part.dense.flatten(0, 1).numpy())
        p, truth = np.concatenate(predicted), np.concatenate(targets)
        found = {k: average_precision_score(truth[:, i], p[:, i]) for i, k in enumerate(KINDS) if truth[:, i].any()}
        worst = sorted(found, key=lambda kind: found[kind])[:4]
        named = " ".join(f"{kind} {found[kind]:.2f}" for kind in worst)
        return f"average precision {np.mean(list(found.values())):.3f}, lowest {named}"

    def save(self, module: Any, out: Path) -> None:
        """See `TrainingTask`."""
        module.backbone.save_pretrained(out)

    def load_weights(self, folder: Path) -> None:
        """See `TrainingTask`."""
        self.module.backbone.load_state_dict(DINOv3ViTModel.from_pretrained(folder).float().state_dict())


def batch(scenes: Cache, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
    """Return a crop of each chosen photo, at the scale at which the tower sees the whole photo."""
    crops, dense = [], []
    for i in chosen:
        crop, truth = crop_of(Image.open(io.BytesIO(scenes.jpegs[i])), scenes.truths[i], rng)
        pixels, targets = np.asarray(crop), coverage(truth, GRID, GRID).reshape(GRID, GRID, -1)
        if rng.random() < 0.5:
            pixels, targets = pixels[:, ::-1], targets[:, ::-1]
        crops.append(pixels)
        dense.append(targets)
    jittered = color_jitter(torch.from_numpy(np.stack(crops)), rng)
    return Batch(jittered, torch.from_numpy(np.stack(dense)).flatten(1, 2))


def crop_of(image: Image.Image, truth: Truth, rng: np.random.Generator) -> tuple[Image.Image, Truth]:
    """Return a random crop, 224 pixels square and slightly rescaled, with its ground truth."""
    side = min(round(SIDE * rng.uniform(0.85, 1.25)), *image.size)
    things = [thing for thing in truth.things if thing.kind not in TRAFFIC]
    room = np.array([image.width - side, image.height - side])
    corner = rng.uniform(0, 1, 2) * room
    if things and rng.random() < CROPS_AT_THINGS:
        x0, y0, x1, y1 = things[int(rng.integers(len(things)))].box
        middle = np.array([(x0 + x1) / 2 * image.width, (y0 + y1) / 2 * image.height])
        corner = np.clip(middle - rng.uniform(0.1, 0.9, 2) * side, 0, room)
    x, y = (int(value) for value in corner)
    crop = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    inside = tuple(_in_crop(thing, image.size, x, y, side) for thing in truth.things)
    return crop, replace(truth, things=inside)


def _in_crop(thing: Thing, size: tuple[int, int], x: int, y: int, side: int) -> Thing:
    x0, y0, x1, y1 = thing.box
    box = ((x0 * size[0] - x) / side, (y0 * size[1] - y) / side, (x1 * size[0] - x) / side, (y1 * size[1] - y) / side)
    return replace(thing, box=box)
