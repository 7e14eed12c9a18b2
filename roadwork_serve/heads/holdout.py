"""Grouped train/validation splits."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.splits import folds

Indices = NDArray[np.int64]
Truth = NDArray[np.bool_]
_TRIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class GroupSplit:
    """Row indices, int64. No group is in both parts."""

    train: Indices
    val: Indices


def group_split(groups: Sequence[str], truth: Truth, share: float, seed: int = 0) -> GroupSplit:
    """Hold out about this share of the rows (more when there are few groups), with both classes in both parts.

    Raises ConfigError when the groups do not allow it.
    """
    count = max(2, round(1 / share))
    _check_groups(groups, truth)
    count = min(count, len(set(groups)), _larger(truth))
    for fewer in range(count, 1, -1):
        for attempt in range(_TRIES):
            for part in _folds(groups, truth, fewer, seed + attempt):
                if _mixed(truth[part.train]) and _mixed(truth[part.val]):
                    return part
    raise ConfigError(_too_few("they cannot be split so that both classes are in both parts", groups, truth))


def group_folds(groups: Sequence[str], truth: Truth, count: int, seed: int = 0) -> list[GroupSplit]:
    """Return folds that hold out every row once. Every training part has both classes; a validation part may not.

    Raises ConfigError when the groups do not allow it.
    """
    _check_groups(groups, truth)
    if min(len(set(groups)), _larger(truth)) < count:
        raise ConfigError(_too_few(f"{count} folds need at least as many", groups, truth))
    for attempt in range(_TRIES):
        parts = _folds(groups, truth, count, seed + attempt)
        if all(_mixed(truth[part.train]) and len(part.val) for part in parts):
            return parts
    raise ConfigError(_too_few("they cannot be split so that every training part has both classes", groups, truth))


def _folds(groups: Sequence[str], truth: Truth, count: int, seed: int) -> list[GroupSplit]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The least populated class", UserWarning
        )  # reported by `_too_few` where it matters
        return [GroupSplit(train, val) for train, val in folds(groups, truth, count, seed)]


def _larger(truth: Truth) -> int:
    """Return the size of the larger class; scikit-learn makes no more folds than that."""
    return int(max(truth.sum(), (~truth).sum()))


def _mixed(truth: Truth) -> bool:
    return bool(truth.any() and not truth.all())


def _check_groups(groups: Sequence[str], truth: Truth) -> None:
    for label in (True, False):
        if len({group for group, positive in zip(groups, truth, strict=True) if positive == label}) < 2:
            raise ConfigError(
                _too_few("each class needs at least two, one to train on and one to validate on", groups, truth)
            )


def _too_few(reason: str, groups: Sequence[str], truth: Truth) -> str:
    positive = {group for group, label in zip(groups, truth, strict=True) if label}
    negative = {group for group, label in zip(groups, truth, strict=True) if not label}
    return (
        f"{len(truth)} rows lie in {len(set(groups))} groups, {len(positive)} with road work and {len(negative)} "
        f"without: {reason}. Add data from other places, or use smaller groups"
    )
