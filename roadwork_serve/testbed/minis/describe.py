"""Training targets derived from the ground truth of a scene."""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.testbed.scenes.truth import Activity, Thing, ThingKind, Truth

KINDS: tuple[str, ...] = get_args(ThingKind)
ACTIVITIES: tuple[str, ...] = get_args(Activity)
READABLE = ("sign_begin", "sign_closure", "sign_detour", "sign_worker", "sign_end")
MANY = 4


def coverage(truth: Truth, rows: int, columns: int) -> NDArray[np.float32]:
    """Return the kinds of thing in each cell of a grid, [rows * columns, kinds], 0 or 1.

    A cell shows a thing when they share 30 % of the smaller of the two.
    """
    target = np.zeros((rows, columns, len(KINDS)), np.float32)
    for thing in truth.things:
        x0, y0, x1, y1 = thing.box
        if x1 <= x0 or y1 <= y0:
            continue
        wide = _shared(x0 * columns, x1 * columns, columns)
        tall = _shared(y0 * rows, y1 * rows, rows)
        smaller = min(1.0, (x1 - x0) * columns * (y1 - y0) * rows)
        shown = np.outer(tall, wide) >= 0.3 * smaller
        target[shown, KINDS.index(thing.kind)] = 1.0
    return target.reshape(rows * columns, len(KINDS))


def _shared(low: float, high: float, cells: int) -> NDArray[np.float64]:
    """Return how much of each unit cell the interval covers."""
    starts = np.arange(cells)
    return np.clip(np.minimum(high, starts + 1) - np.maximum(low, starts), 0, None)


def presence(truth: Truth) -> NDArray[np.float32]:
    """Return the kinds of thing in the picture, [kinds]."""
    target = np.zeros(len(KINDS), np.float32)
    for thing in truth.things:
        if thing.box[2] > thing.box[0] and thing.box[3] > thing.box[1]:
            target[KINDS.index(thing.kind)] = 1.0
    return target


def scene_reasoning(truth: Truth) -> str:
    """Return the reasoning text of a scene: the things in it, counted up to many."""
    count = lambda *kinds: _few(sum(_seen(t) and t.kind in kinds for t in truth.things))  # noqa: E731
    some = lambda *kinds: "yes" if any(_seen(t) and t.kind in kinds for t in truth.things) else "no"  # noqa: E731
    parts = (
        f"cones {count('cone', 'barrel')}",
        f"barriers {count('barrier', 'arrow_board')}",
        f"workers {count('worker')}",
        f"machines {count('machine')}",
        f"work sign {some(*READABLE)}",
        f"cones or machine as cargo or parked {some('lorry_with_cones', 'low_loader', 'parked_cones')}",
        f"cyclist or passer-by {some('cyclist', 'pedestrian')}",
        f"bin {some('bin')}",
    )
    return ", ".join(parts)


def clip_reasoning(truth: Truth) -> str:
    """Return the reasoning text of a clip, which adds movement."""
    at_work = any(t.moving and t.kind in ("worker", "machine") for t in truth.things)
    return f"{scene_reasoning(truth)}, work moving {'yes' if at_work else 'no'}"


def _seen(thing: Thing) -> bool:
    return thing.box[2] - thing.box[0] > 0.004 and thing.box[3] - thing.box[1] > 0.008


def _few(count: int) -> str:
    return str(count) if count < MANY else "many"
