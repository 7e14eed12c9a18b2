"""Teaches the vision tower of stages 2B and 3A, before it has words: what each patch shows, seen from close up."""

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

from roadwork_serve.engines.features import PIXEL_MEAN, PIXEL_STD
from roadwork_serve.testbed.minis import architectures
from roadwork_serve.testbed.minis.data import Cache
from roadwork_serve.testbed.minis.describe import KINDS, coverage
from roadwork_serve.testbed.minis.train_backbone import GRID, wear
from roadwork_serve.testbed.minis.train_vlm import dense_loss
from roadwork_serve.testbed.scenes.truth import Thing, Truth

BATCH = 32
SIDE = 16 * GRID
AT_A_THING = 0.7  # share of the crops that have a thing in them which could matter; the others are anywhere
TRAFFIC = ("car", "lorry")


class TowerTrainingModule(nn.Module):
    """As many layers of a DINOv3 as the vision tower is deep, and a helper that names what each patch shows."""

    def __init__(self, teacher: DINOv3ViTModel | None) -> None:
        super().__init__()
        self.backbone: Any = architectures.backbone(architectures.VLM_LAYERS)
        if teacher:
            self.backbone.load_state_dict(teacher.state_dict(), strict=False)
        self.patches = nn.Linear(architectures.WIDTH, len(KINDS))
        nn.init.constant_(self.patches.bias, -4.0)

    def forward(self, crops: Tensor) -> Tensor:
        """uint8 or float [n, 224, 224, 3] -> [n, 196, kinds]."""
        mean, std = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), torch.tensor(PIXEL_STD).view(1, 3, 1, 1)
        tokens = self.backbone((crops.permute(0, 3, 1, 2) / 255 - mean) / std).last_hidden_state
        return self.patches(tokens[:, 1 + self.backbone.config.num_register_tokens :])


@dataclass(frozen=True)
class Batch:
    """crops: float [n, 224, 224, 3]; dense: [n, 196, kinds]."""

    crops: Tensor
    dense: Tensor


class TowerTask:
    """See `loop.Course`."""

    name = "tower"

    def __init__(self, scenes: Cache, check: Cache, teacher: DINOv3ViTModel | None, compiled: bool = False) -> None:
        self.scenes, self.checks = scenes, check
        self.learner = TowerTrainingModule(teacher)
        self._run = torch.compile(self.learner, dynamic=False) if compiled else self.learner

    def size(self, batch: Batch) -> int:
        return len(batch.crops)

    def batches(self, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.scenes))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield batch(self.scenes, order[start : start + BATCH], rng)

    def loss(self, batch: Batch, progress: float) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            dense = self._run(batch.crops)
        return dense_loss(
            dense.float().flatten(0, 1), batch.dense.flatten(0, 1), torch.ones(batch.dense[..., 0].numel())
        )

    @torch.inference_mode()
    def check(self, learner: Any) -> str:
        """How well each kind is found among the patches: mean over the kinds of the average precision."""
        from sklearn.metrics import average_precision_score

        rng = np.random.default_rng(0)
        told, shown = [], []
        for start in range(0, min(320, len(self.checks)), BATCH):
            some = batch(self.checks, np.arange(start, min(start + BATCH, len(self.checks))), rng)
            with torch.autocast("cpu", torch.bfloat16):
                told.append(learner(some.crops).float().flatten(0, 1).numpy())
            shown.append(some.dense.flatten(0, 1).numpy())
        p, truth = np.concatenate(told), np.concatenate(shown)
        found = {k: average_precision_score(truth[:, i], p[:, i]) for i, k in enumerate(KINDS) if truth[:, i].any()}
        worst = sorted(found, key=lambda kind: found[kind])[:4]
        named = " ".join(f"{kind} {found[kind]:.2f}" for kind in worst)
        return f"average precision {np.mean(list(found.values())):.3f}, least {named}"

    def save(self, learner: Any, out: Path) -> None:
        learner.backbone.save_pretrained(out)

    def take_up(self, folder: Path) -> None:
        self.learner.backbone.load_state_dict(DINOv3ViTModel.from_pretrained(folder).float().state_dict())


def batch(scenes: Cache, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
    """A crop of each chosen still at the scale at which the tower sees the whole."""
    crops, dense = [], []
    for i in chosen:
        crop, truth = crop_of(Image.open(io.BytesIO(scenes.jpegs[i])), scenes.truths[i], rng)
        pixels, shown = np.asarray(crop), coverage(truth, GRID, GRID).reshape(GRID, GRID, -1)
        if rng.random() < 0.5:
            pixels, shown = pixels[:, ::-1], shown[:, ::-1]
        crops.append(pixels)
        dense.append(shown)
    worn = wear(torch.from_numpy(np.stack(crops)), rng)
    return Batch(worn, torch.from_numpy(np.stack(dense)).flatten(1, 2))


def crop_of(image: Image.Image, truth: Truth, rng: np.random.Generator) -> tuple[Image.Image, Truth]:
    """224 pixels square out of a still, a little larger or smaller than life, with the truth of what is in it."""
    side = min(round(SIDE * rng.uniform(0.85, 1.25)), *image.size)
    things = [thing for thing in truth.things if thing.kind not in TRAFFIC]
    room = np.array([image.width - side, image.height - side])
    corner = rng.uniform(0, 1, 2) * room
    if things and rng.random() < AT_A_THING:
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
