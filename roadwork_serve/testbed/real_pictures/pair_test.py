"""Test pairs from sources that training has not seen: works painted out of a picture, or cones pasted on it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.testbed.real_pictures.compose import paint_out, paste_row, shrink, square
from roadwork_serve.testbed.real_pictures.cutouts import Cutout, cut_out
from roadwork_serve.testbed.real_pictures.sources import Box, Picture, read_boxes

HELDOUT_BOXES = Path(__file__).with_name("heldout_boxes.jsonl")
SEED = 2121
LONG_SIDE = 512
# Thumbnails uint8 [n, side, side, 3] -> log-odds of road work [n].
Score = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
COMPLETE = ("roadwork/fconeb", "roadwork/css_")  # of tier B: their boxes cover what makes them road work


@dataclass(frozen=True)
class HeldOutPair:
    """Two pictures that differ in the works."""

    name: str
    source: str
    before: Image.Image
    after: Image.Image
    #: -1 if works were painted out, +1 if they were pasted.
    order: int


def painted_pairs(photos: Path, opendata: Path) -> list[HeldOutPair]:
    """Boxed pictures of unseen sources and of the two held-out clips, with every box painted out."""
    pairs = []
    for picture in heldout_pictures(photos) + _tier_b_pictures(opendata, COMPLETE):
        if picture.boxes:
            before = shrink(picture.image, LONG_SIDE)
            pairs.append(HeldOutPair(picture.key, picture.group, before, paint_out(before, picture.boxes), -1))
    return pairs


def pasted_pairs(streets: Sequence[Path], opendata: Path, photos: Path) -> list[HeldOutPair]:
    """Unseen pictures without works, with one to four cones on their ground; the cones are of unseen sources too."""
    rng = np.random.default_rng(SEED)
    cones = heldout_cones(photos, opendata)
    pairs = []
    for path in streets:
        before = shrink(Image.open(path).convert("RGB"), LONG_SIDE)
        after = paste_row(before, cones[int(rng.integers(len(cones)))], int(rng.integers(1, 5)), rng)
        pairs.append(HeldOutPair(path.name, path.name.split("_")[0], before, after, 1))
    return pairs


def heldout_cones(photos: Path, opendata: Path) -> list[Cutout]:
    """Cutouts of cones from sources that training has not seen."""
    pictures = heldout_pictures(photos) + _tier_b_pictures(opendata, "objects/fcone")
    return [cutout for picture in pictures for cutout in cut_out(picture) if cutout.kind == "cone"]


def heldout_pictures(photos: Path) -> list[Picture]:
    """Pictures and clip frames that teach nothing, with boxes drawn by eye."""
    pictures = []
    for line in HELDOUT_BOXES.read_text().splitlines():
        row = json.loads(line)
        path = photos / row["file"]
        boxes = tuple(Box(kind, *corners) for kind, *corners in row["boxes"])
        group = f"clip_{path.stem}" if row["frame"] is not None else path.name.split("_")[0]
        pictures.append(Picture(path, True, group, "", "", boxes, row["frame"], complete=True))
    return pictures


def _tier_b_pictures(opendata: Path, start: str | tuple[str, ...]) -> list[Picture]:
    tiers = {line.split(",", 1)[0]: "tier=A" in line for line in (opendata / "manifest.csv").read_text().splitlines()}
    pictures = []
    for file, boxes in sorted(read_boxes(opendata / "boxes.jsonl").items()):
        if file.startswith(start) and boxes and not tiers[file]:
            pictures.append(
                Picture(opendata / file, True, file.split("/")[1].split("_")[0], "", "", boxes, complete=True)
            )
    return pictures


def score_pairs(pairs: Sequence[HeldOutPair], score: Score, side: int) -> NDArray[np.float64]:
    """Return the rise of each score from before to after, times the order: positive if it moved as it should, [n]."""
    before = score(np.stack([square(pair.before, side) for pair in pairs]))
    after = score(np.stack([square(pair.after, side) for pair in pairs]))
    return (after - before) * np.array([pair.order for pair in pairs])
