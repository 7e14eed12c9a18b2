"""A cache of crops of the training pictures, in shards that are written atomically."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.testbed.real_pictures.sources import EVIDENCE, Box, Picture

SIDE = 224
SHARD = 256
UNKNOWN = -1


@dataclass(frozen=True)
class CropRow:
    """Facts about one crop."""

    key: str
    group: str
    #: 1 for road work, 0 for none, or UNKNOWN.
    label: int
    #: Evidence as [class index, x0, y0, x1, y1] in shares of the crop; None where nobody drew boxes.
    boxes: list[list[float]] | None


class CropCache:
    """All shards in a folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        shards = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.endswith(".draft"))
        self.pixels = [np.load(shard / "pixels.npy", mmap_mode="r") for shard in shards]
        self.rows = [CropRow(**row) for shard in shards for row in json.loads((shard / "rows.json").read_text())]
        self._starts = np.cumsum([0, *(len(part) for part in self.pixels)])

    def __len__(self) -> int:
        return len(self.rows)

    def crop(self, index: int) -> NDArray[np.uint8]:
        """Return one crop, uint8 [SIDE, SIDE, 3]."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return np.array(self.pixels[part][index - int(self._starts[part])])


def build_crops(pictures: Sequence[Picture], folder: Path, rounds: int, seed: int = 72) -> None:
    """Add what the folder misses: each round holds one crop of every picture; a rerun goes on where it stopped.

    Round 0 is the whole picture, odd rounds are large crops that keep the label, even rounds are small crops.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.draft"):
        shutil.rmtree(stale)
    for number in range(rounds):
        for start in range(0, len(pictures), SHARD):
            part = pictures[start : start + SHARD]
            target = folder / f"r{number:02d}-{start:05d}-{_version(part, seed)}"
            if target.exists():
                continue
            _write_shard(target, part, number, seed)
            print(f"crops: round {number}, {start + len(part)} of {len(pictures)} pictures", flush=True)


def _version(part: Sequence[Picture], seed: int) -> str:
    content = json.dumps([seed, [(p.key, p.label, p.group) for p in part]])
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _write_shard(target: Path, part: Sequence[Picture], number: int, seed: int) -> None:
    pixels, rows = [], []
    for picture in part:
        rng = np.random.default_rng([seed, number, int(hashlib.sha256(picture.key.encode()).hexdigest()[:8], 16)])
        crop, row = draw_crop(picture, number, rng)
        pixels.append(crop)
        rows.append(row)
    draft = target.with_name(target.name + ".draft")
    draft.mkdir()
    np.save(draft / "pixels.npy", np.stack(pixels))
    (draft / "rows.json").write_text(json.dumps([vars(row) for row in rows]))
    draft.rename(target)


def draw_crop(picture: Picture, number: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], CropRow]:
    """Cut the crop of a round, squashed to a square as the server squashes its thumbnails.

    A crop of a picture without works has none either; a small crop of one with works may have lost them.
    """
    image, label = picture.image, int(picture.label)
    if number == 0:
        region = (0.0, 0.0, 1.0, 1.0)
    else:
        low, high = (0.75, 1.0) if number % 2 else (0.35, 0.7)
        w, h = rng.uniform(low, high), rng.uniform(low, high)
        x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
        region = (x, y, x + w, y + h)
        if picture.label and number % 2 == 0:
            label = UNKNOWN
    boxes = None if picture.boxes is None else crop_boxes(picture.boxes, region)
    if label == UNKNOWN and boxes:
        label = 1
    x0, y0, x1, y1 = region
    box = (x0 * image.width, y0 * image.height, x1 * image.width, y1 * image.height)
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small), CropRow(picture.key, picture.group, label, boxes)


def crop_boxes(boxes: Sequence[Box], region: tuple[float, float, float, float]) -> list[list[float]]:
    """Move boxes into a crop's shares; those with less than half inside are dropped."""
    left, top, right, bottom = region
    kept = []
    for box in boxes:
        x0, x1 = ((x - left) / (right - left) for x in (box.x0, box.x1))
        y0, y1 = ((y - top) / (bottom - top) for y in (box.y0, box.y1))
        inside = [min(max(v, 0.0), 1.0) for v in (x0, y0, x1, y1)]
        whole = (x1 - x0) * (y1 - y0)
        if whole > 0 and (inside[2] - inside[0]) * (inside[3] - inside[1]) >= 0.5 * whole:
            kept.append([float(EVIDENCE.index(box.kind)), *inside])
    return kept
