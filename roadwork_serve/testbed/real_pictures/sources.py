"""Pictures that may train the bundled backbone, with their label, group and licence."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from PIL import Image

# Kept out of all training: the two clips with a frame without works, so that they can be scored.
HELD_OUT = frozenset({"clip_columbus", "clip_minneapolis"})
CLIP_BOXES = Path(__file__).with_name("clip_boxes.jsonl")
PICTURE_BOXES = Path(__file__).with_name("picture_boxes.jsonl")
TRAFFIC_BOXES = Path(__file__).with_name("traffic_boxes.jsonl")
ROADWORK = ("Mi3-Lab/workzone", "ODC-By-1.0 (CMU ROADWork)")  # source and licence of the clips
# Clips whose frames show no works in their upper part; one in UPPER_STEP of these parts trains.
CLEAR_ABOVE = frozenset({"clip_boston", "clip_chicago", "clip_jacksonville"})
UPPER_SHARE, UPPER_STEP = 0.46, 3
# Parts of a boxed picture that no box touches: at most BACKGROUNDS, of these shares of its sides, reaching the ground.
BACKGROUNDS, BACKGROUND_TRIES, BACKGROUND_SIZE = 6, 60, (0.3, 0.7)
FRAME_STEP = 6  # of the stretches without works: nearby frames of a clip are nearly the same picture
# Cones indoors and people in vests on a campus: "objects" in the manifest, and no active road work.
HARD_NEGATIVE_GROUPS = frozenset({"frc", "ayush_ppe"})
EVIDENCE = ("cone", "machine", "worker", "sign")  # classes of the patch head; "cone" includes drums and barriers
BOX_CLASSES = {
    "cone": "cone", "Cone": "cone", "Safety Cone": "cone", "road-cone": "cone", "drum": "cone", "barrier": "cone",
    "machinery": "machine", "machine": "machine", "vest": "worker", "Safety Vest": "worker", "worker": "worker",
    "sign": "sign", "arrow_board": "sign",
}  # fmt: skip


@dataclass(frozen=True)
class Box:
    """One object: an EVIDENCE class, or "car" or "lorry", and its corners, as shares of width and height."""

    kind: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Picture:
    """A picture that may train. label: active road work. boxes: None where nobody drew any."""

    path: Path
    label: bool
    group: str
    source: str
    licence: str
    boxes: tuple[Box, ...] | None = None
    frame: int | None = None  # of the video at path; None for a still
    region: tuple[float, float, float, float] | None = None  # of the picture, as shares; all of it by default
    complete: bool = False  # whether the boxes cover all works, so that painting them out leaves none

    @property
    def key(self) -> str:
        """A name that is unique among all pictures."""
        name = self.path.name if self.frame is None else f"{self.path.name}#{self.frame}"
        return f"{self.path.parent.name}/{name}" + ("" if self.region is None else f"@{self.region}")

    @cached_property
    def image(self) -> Image.Image:
        """The decoded picture, RGB."""
        if self.frame is None:
            image = Image.open(self.path).convert("RGB")
        else:
            image = video_frames(self.path, {self.frame})[self.frame]
        if self.region is None:
            return image
        x0, y0, x1, y1 = self.region
        w, h = image.size
        return image.crop((round(x0 * w), round(y0 * h), round(x1 * w), round(y1 * h)))


def training_pictures(opendata: Path, photos: Path) -> list[Picture]:
    """List tier A of opendata, and the stretches without works of the clips, held-out clips excluded."""
    boxes = read_boxes(opendata / "boxes.jsonl") | _drawn_boxes()
    pictures, uppers = [], []
    with (opendata / "manifest.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            if "tier=A" not in row["notes"] or row["group"] in HELD_OUT:
                continue
            if row["label"] == "objects" and row["group"] not in HARD_NEGATIVE_GROUPS:
                continue
            if row["group"] in CLEAR_ABOVE:
                uppers.append(_upper(opendata / row["file"], row["group"]))
            pictures.append(
                Picture(
                    opendata / row["file"],
                    row["label"] == "roadwork",
                    row["group"],
                    row["source_repo"],
                    row["licence"],
                    boxes.get(row["file"]),
                    complete=row["file"] in boxes and row["label"] == "roadwork",
                )
            )
    return pictures + list(_stretches(photos)) + list(_boxed_frames(photos)) + uppers[::UPPER_STEP]


def _upper(path: Path, group: str) -> Picture:
    """Return the upper part of a frame with works on the ground: the same camera and town, and no works."""
    return Picture(path, False, f"{group}_upper", *ROADWORK, (), region=(0.0, 0.0, 1.0, UPPER_SHARE))


def _drawn_boxes() -> dict[str, tuple[Box, ...]]:
    """Boxes drawn by eye on pictures of opendata (picture_boxes.jsonl, corners as shares)."""
    rows = [json.loads(line) for line in PICTURE_BOXES.read_text().splitlines()]
    return {row["file"]: tuple(Box(kind, *corners) for kind, *corners in row["boxes"]) for row in rows}


def _boxed_frames(photos: Path) -> Iterator[Picture]:
    """Frames of the training clips with boxes drawn by eye (clip_boxes.jsonl, corners as shares)."""
    for line in CLIP_BOXES.read_text().splitlines():
        row = json.loads(line)
        path = photos / f"clips/{row['clip']}.mp4"
        if f"clip_{path.stem}" in HELD_OUT:
            continue
        boxes = tuple(Box(kind, *corners) for kind, *corners in row["boxes"])
        yield Picture(
            path, True, f"clip_{path.stem}", ROADWORK[0], ROADWORK[1], boxes, row["frame"], complete=row["complete"]
        )


def read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """Read boxes.jsonl: by file, the boxes whose class is evidence of works."""
    found = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        kept = []
        for name, cx, cy, w, h in row["boxes"]:
            if name in BOX_CLASSES:
                kept.append(Box(BOX_CLASSES[name], cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
        found[row["file"]] = tuple(kept)
    return found


def _stretches(photos: Path) -> Iterator[Picture]:
    with (photos / "clips/none_stretches.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            path = photos / row["clip"]
            group = f"clip_{path.stem}"
            if group in HELD_OUT:
                continue
            for frame in range(int(row["first_frame"]), int(row["last_frame"]) + 1, FRAME_STEP):
                yield Picture(path, False, f"{group}_none", *ROADWORK, (), frame)


def traffic_pictures(data: Path) -> list[Picture]:
    """Pictures with boxes of ordinary cars and lorries, drawn by eye, for cutouts that are no works."""
    pictures = []
    for line in TRAFFIC_BOXES.read_text().splitlines():
        row = json.loads(line)
        boxes = tuple(Box(kind, *corners) for kind, *corners in row["boxes"])
        path = data / row["file"]
        group = path.stem.rsplit("_", 1)[0] if row["frame"] is None else f"clip_{path.stem}"
        pictures.append(Picture(path, False, group, "", "", boxes, row["frame"]))
    return pictures


def background_pictures(pictures: Sequence[Picture], seed: int = 72) -> list[Picture]:
    """Parts of completely boxed pictures that no box touches: the same street and camera, and no works."""
    found = []
    for number, picture in enumerate(pictures):
        if not picture.complete or not picture.boxes:
            continue
        rng = np.random.default_rng([seed, number])
        kept = 0
        for _ in range(BACKGROUND_TRIES):
            w, h = rng.uniform(*BACKGROUND_SIZE), rng.uniform(*BACKGROUND_SIZE)
            x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
            clear = all(x + w < b.x0 or b.x1 < x or y + h < b.y0 or b.y1 < y for b in picture.boxes)
            if clear and y + h > 0.5 and kept < BACKGROUNDS:
                kept += 1
                region = tuple(round(float(v), 3) for v in (x, y, x + w, y + h))
                group = f"{picture.group}_background"
                found.append(replace(picture, label=False, group=group, boxes=(), region=region, complete=False))
    return found


def video_frames(path: Path, wanted: set[int]) -> dict[int, Image.Image]:
    """Decode the wanted frames of a clip, by their number."""
    found = {}
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_image()
            if len(found) == len(wanted):
                break
    return found
