"""The tiles of a closer look: how a photo is cut into them, and what their scores say together."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Left and upper edges of the tiles, and their size, as shares of the photo. The uppermost twentieth shows sky.
LEFTS, TOPS, WIDTH, HEIGHT = (0.0, 0.27, 0.54), (0.05, 0.4), 0.46, 0.6
COUNT = len(LEFTS) * len(TOPS)
_GRID = 16  # cells a side of the map that the tiles make together


def cut_tiles(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return the tiles of a photo row by row, each squashed to a square: uint8 RGB [COUNT, side, side, 3]."""
    w, h = image.size
    return np.stack([
        np.asarray(
            image.resize(
                (side, side),
                Image.Resampling.BILINEAR,
                box=(left * w, top * h, min(1.0, left + WIDTH) * w, min(1.0, top + HEIGHT) * h),
            )
        )
        for top in TOPS
        for left in LEFTS
    ])  # fmt: skip


def closeup_logit(tiles: NDArray[np.float32], patches: NDArray[np.float32] | None) -> float:
    """Return the log-odds of road work: the mean of the two highest tiles, plus the strongest evidence in any cell.

    Both are log-odds of the same thing, so the sum overstates; the calibration of a policy scales it.

    Args:
        tiles: The image head's logits [COUNT].
        patches: The patch head's logits [COUNT, rows, columns, classes]; None without a patch head.
    """
    highest = float(np.sort(tiles)[-2:].mean())
    return highest if patches is None else highest + float(patches.max())


def stitch(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one map of the photo, float32 [16, 16, classes]: in each cell the highest logit of the tiles that show it.

    Args:
        patches: Logits [COUNT, rows, columns, classes].
    """
    _, rows, columns, classes = patches.shape
    whole = np.full((_GRID, _GRID, classes), patches.min(), np.float32)
    centres = (np.arange(_GRID) + 0.5) / _GRID
    for at, (top, left) in enumerate((top, left) for top in TOPS for left in LEFTS):
        inside = [(np.flatnonzero((c >= 0) & (c < 1)), c) for c in ((centres - top) / HEIGHT, (centres - left) / WIDTH)]
        (down, y), (across, x) = inside
        cells = patches[at][np.ix_((y[down] * rows).astype(int), (x[across] * columns).astype(int))]
        shown = np.ix_(down, across)
        whole[shown] = np.maximum(whole[shown], cells)
    return whole
