"""A cache of composed pairs, in shards that are written atomically."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.testbed.real_pictures.compose import Composer, square
from roadwork_serve.testbed.real_pictures.crops import SIDE
from roadwork_serve.testbed.real_pictures.sources import EVIDENCE, Box

SHARD = 100


@dataclass(frozen=True)
class PairRow:
    """Facts about one pair; see `compose.Pair`."""

    kind: str
    labels: list[int]
    order: int
    #: Evidence in each side as [class index, x0, y0, x1, y1]; None where it is not known.
    boxes: list[list[list[float]] | None]
    words: list[int]
    groups: list[str]


def build_pairs(composer: Composer, folder: Path, shards: int, seed: int = 72) -> None:
    """Compose what the folder misses. A shard depends on its number and the seed alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.draft"):
        shutil.rmtree(stale)
    for number in range(shards):
        target = folder / f"{number:04d}"
        if target.exists():
            continue
        rng = np.random.default_rng([seed, number])
        pixels, rows = [], []
        for _ in range(SHARD):
            pair = composer.pair(rng)
            pixels.append(np.stack([square(pair.before, SIDE), square(pair.after, SIDE)]))
            boxes = [None if side is None else [_row(box) for box in side] for side in pair.boxes]
            row = PairRow(pair.kind, list(pair.labels), pair.order, boxes, list(pair.words), sorted(pair.groups))
            rows.append(vars(row))
        draft = target.with_suffix(".draft")
        draft.mkdir()
        np.save(draft / "pixels.npy", np.stack(pixels))
        (draft / "rows.json").write_text(json.dumps(rows))
        draft.rename(target)
        print(f"pairs: {number + 1} of {shards} shards", flush=True)


def _row(box: Box) -> list[float]:
    return [float(EVIDENCE.index(box.kind)), box.x0, box.y0, box.x1, box.y1]


class PairCache:
    """All shards in a folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        shards = sorted(path for path in folder.iterdir() if not path.name.endswith(".draft"))
        self.pixels = [np.load(shard / "pixels.npy", mmap_mode="r") for shard in shards]
        self.rows = [PairRow(**row) for shard in shards for row in json.loads((shard / "rows.json").read_text())]

    def __len__(self) -> int:
        return len(self.rows)

    def sides(self, index: int) -> NDArray[np.uint8]:
        """Return before and after, uint8 [2, SIDE, SIDE, 3]."""
        return np.array(self.pixels[index // SHARD][index % SHARD])
