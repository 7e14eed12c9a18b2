"""Trains a patch head: evidence by place, learnt from boxes, on the frozen patches of any backbone of stage 1."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roadwork_serve import media
from roadwork_serve.datasets.base import CorruptItem, Dataset
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.patch_head import PatchHead, PatchHeadSettings
from roadwork_serve.errors import ConfigError, MediaError
from roadwork_serve.heads.linear_fit import Floats, Linear, fit_linear
from roadwork_serve.profiles.media_limits import MediaLimits

_DECAY = 0.01
_EMPTY_CELLS = 3  # cells without evidence that a picture gives beside those with evidence
_LEAST = 0.3  # share of a cell, or of a box smaller than a cell, that the box must cover

Boxes = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class BoxFile:
    """Boxes by the name of the file they are on."""

    #: Names of the classes, in the order of the patch head's outputs.
    classes: tuple[str, ...]
    #: [class index, x0, y0, x1, y1] of each box in shares of the picture, by file name.
    boxes: Mapping[str, list[list[float]]]


@dataclass(frozen=True, slots=True)
class PatchReport:
    """Photos and cells that a patch head was trained on."""

    classes: tuple[str, ...]
    #: Pictures with at least one box, and pictures without road work and without a box.
    boxed: int
    empty: int
    #: Share of the cells of these pictures with evidence of each class.
    prevalence: tuple[float, ...]


def read_boxes(file: Path) -> BoxFile:
    """Read boxes from JSON Lines: `{"file": "a.jpg", "boxes": [["cone", x0, y0, x1, y1], ...]}`, corners as shares.

    Raises:
        ConfigError: The file cannot be read, or a line of it is something else.
    """
    found: dict[str, list[tuple[str, list[float]]]] = {}
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                found[str(row["file"])] = [(str(kind), _corners(corners)) for kind, *corners in row["boxes"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{file}, line {number}: {error}; write "
                    '{"file": "a.jpg", "boxes": [["cone", x0, y0, x1, y1]]} with corners as shares of the picture'
                ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the boxes in {file} cannot be read ({error})") from None
    classes = tuple(sorted({kind for boxes in found.values() for kind, _ in boxes}))
    if not classes:
        raise ConfigError(f"{file} has no box")
    boxes = {name: [[float(classes.index(kind)), *xy] for kind, xy in each] for name, each in found.items()}
    return BoxFile(classes, boxes)


def _corners(corners: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in corners)
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"the box {[x0, y0, x1, y1]} is no part of the picture")
    return [x0, y0, x1, y1]


def train_patch_head(
    engine: FeatureEngine,
    datasets: Sequence[Dataset],
    boxes: BoxFile,
    limits: MediaLimits,
    seed: int = 72,
    on_done: Callable[[int], None] = lambda _: None,
) -> tuple[PatchHead, PatchReport]:
    """Fit a patch head to photos with boxes, and to photos labelled `none`, which show no evidence anywhere.

    A photo labelled road work without boxes says nothing about places, and is left out. Clips are left out.

    Args:
        engine: The backbone.
        datasets: The photos. Boxes belong to the items whose name they have.
        boxes: The boxes.
        limits: Limits and preprocessing, as in serving.
        seed: Of the choice of cells without evidence.
        on_done: Called with the number of items just finished.

    Raises:
        ConfigError: No photo has boxes.
    """
    rng = np.random.default_rng(seed)
    cells: list[Floats] = []
    evidence: list[NDArray[np.bool_]] = []
    sums, side, boxed, empty = np.zeros(len(boxes.classes)), 0, 0, 0
    for known, thumb in _photos(datasets, boxes, limits, on_done):
        tokens = engine.patch_tokens(thumb[None])[0]
        side = round(len(tokens) ** 0.5)
        found = cell_evidence(known, side, len(boxes.classes))
        chosen = choose_cells(found, rng)
        cells.append(tokens[chosen])
        evidence.append(found[chosen])
        sums += found.sum(0)
        boxed, empty = boxed + bool(known), empty + (not known)
    if not boxed:
        raise ConfigError("no photo of the data is named in the boxes: give the boxes the names of the data's files")
    prevalence = np.clip(sums / (side * side * (boxed + empty)), 1e-6, 0.5)
    fits = fit_cells(np.concatenate(cells), np.concatenate(evidence), prevalence)
    report = PatchReport(boxes.classes, boxed, empty, tuple(round(float(each), 5) for each in prevalence))
    return patch_head_of(fits, boxes.classes), report


def _photos(
    datasets: Sequence[Dataset], boxes: BoxFile, limits: MediaLimits, on_done: Callable[[int], None]
) -> Iterator[tuple[list[list[float]], NDArray[np.uint8]]]:
    """Yield the boxes and the thumbnail of each photo whose places are known."""
    for dataset in datasets:
        items = [each for each in dataset.items() if not each.metadata.ignore]
        wanted = [
            each
            for each in items
            if each.metadata.name in boxes.boxes or (each.metadata.label == 0 and not each.metadata.pseudo_labeled)
        ]
        on_done(len(items) - len(wanted))
        for each, sample in zip(wanted, dataset.samples(wanted), strict=True):
            on_done(1)
            if isinstance(sample, CorruptItem):
                continue
            try:
                thumbs = media.read(sample.data, limits).thumbs
            except MediaError:
                continue
            if len(thumbs) == 1:
                yield boxes.boxes.get(each.metadata.name, []), thumbs[0]


def cell_evidence(boxes: Boxes, cells: int, classes: int) -> NDArray[np.bool_]:
    """Return the evidence in each cell, [cells * cells, classes]: a box covers 30 % of it, or has 30 % of itself in it.

    Args:
        boxes: [class index, x0, y0, x1, y1] of each box in shares of the picture.
        cells: Cells along a side.
        classes: Number of classes.
    """
    found = np.zeros((cells, cells, classes), bool)
    starts = np.arange(cells)
    for kind, x0, y0, x1, y1 in boxes:
        wide = np.clip(np.minimum(x1 * cells, starts + 1) - np.maximum(x0 * cells, starts), 0, None)
        tall = np.clip(np.minimum(y1 * cells, starts + 1) - np.maximum(y0 * cells, starts), 0, None)
        smaller = min(1.0, (x1 - x0) * cells * (y1 - y0) * cells)
        found[np.outer(tall, wide) >= _LEAST * smaller, int(kind)] = True
    return found.reshape(cells * cells, classes)


def choose_cells(evidence: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the indices of the cells with evidence, and of a few without."""
    shown = evidence.any(1)
    return np.concatenate([np.flatnonzero(shown), rng.permutation(np.flatnonzero(~shown))[:_EMPTY_CELLS]])


def fit_cells(cells: Floats, evidence: NDArray[np.bool_], prevalence: NDArray[np.float64]) -> list[Linear]:
    """Fit one output for each class.

    Args:
        cells: Tokens, float32 [n, width].
        evidence: [n, classes].
        prevalence: Share of all cells that show each class, to which the outputs are moved from equal shares.
    """
    fits = []
    for labels, share in zip(evidence.T, prevalence, strict=True):
        weights = np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1)).astype(np.float32)
        fit = fit_linear(cells, labels, weights, decay=_DECAY)
        fits.append(Linear(fit.weight, fit.bias + math.log(share / (1 - share))))
    return fits


def patch_head_of(fits: Sequence[Linear], classes: tuple[str, ...]) -> PatchHead:
    """Return the fits as a patch head."""
    head = PatchHead(PatchHeadSettings(width=len(fits[0].weight), classes=classes))
    weight = torch.from_numpy(np.stack([fit.weight for fit in fits]))
    bias = torch.tensor([fit.bias for fit in fits], dtype=torch.float32)
    head.load_state_dict({"weight": weight, "bias": bias})
    return head
