"""Regions and a heat map from the logits of a patch head."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.schema import Box, Region

MAX_REGIONS = 8
MAX_CELLS = 16  # along a side of the heat map
_SHOWN = 0.3  # probability from which a cell is part of a region


def regions_of_frames(logits: NDArray[np.float32], classes: Sequence[str]) -> list[Region]:
    """Return the most probable regions of several frames, at most MAX_REGIONS in all.

    Args:
        logits: float32 [frames, rows, columns, classes].
        classes: Names of the classes.
    """
    found = [region for frame, each in enumerate(logits) for region in regions(each, classes, frame)]
    return sorted(found, key=lambda region: -region.probability)[:MAX_REGIONS]


def regions(logits: NDArray[np.float32], classes: Sequence[str], frame: int = 0) -> list[Region]:
    """Return the connected cells of each class above a probability of 0.3, the most probable regions first.

    Args:
        logits: float32 [rows, columns, classes].
        classes: Names of the classes.
        frame: Index of the frame.
    """
    probabilities = _probabilities(logits)
    rows, columns = probabilities.shape[:2]
    found = []
    for at, kind in enumerate(classes):
        layer = probabilities[..., at]
        for cells in _components(layer > _SHOWN):
            top, left = cells.min(0)
            bottom, right = cells.max(0) + 1
            box = Box(x0=left / columns, y0=top / rows, x1=right / columns, y1=bottom / rows)
            peak = float(layer[tuple(cells.T)].max())
            found.append(Region(kind=kind, probability=round(peak, 4), box=box, frame=frame))
    return sorted(found, key=lambda region: -region.probability)[:MAX_REGIONS]


def heat_map(logits: NDArray[np.float32]) -> list[list[int]]:
    """Return the highest probability of any class in each cell, in percent, on a grid of at most MAX_CELLS a side.

    Args:
        logits: float32 [rows, columns, classes].
    """
    highest = _probabilities(logits).max(-1)
    rows, columns = (np.linspace(0, n, min(n, MAX_CELLS) + 1).astype(int) for n in highest.shape)
    pooled = np.maximum.reduceat(np.maximum.reduceat(highest, rows[:-1], axis=0), columns[:-1], axis=1)
    return [[round(100 * float(value)) for value in row] for row in pooled]


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits.clip(-60, 60)))).astype(np.float32)


def _components(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Yield the cells [k, 2] of each set of cells that touch at an edge or a corner."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    while left:
        waiting, cells = [left.pop()], []
        while waiting:
            row, column = waiting.pop()
            cells.append((row, column))
            near = {(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            waiting += near
        yield np.array(cells)
