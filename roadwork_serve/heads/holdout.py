"""A part to check on that shares no group with the part to learn from."""

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
    """Indices, int64. No group is in both."""

    train: Indices
    held: Indices


def group_split(groups: Sequence[str], truth: Truth, share: float, seed: int = 0) -> GroupSplit:
    """About that share held out, more where the groups are few, both classes in either part.

    Raises ConfigError where the groups do not allow it.
    """
    count = max(2, round(1 / share))
    _enough(groups, truth)
    count = min(count, len(set(groups)), _larger(truth))
    for fewer in range(count, 1, -1):
        for attempt in range(_TRIES):
            for part in _folds(groups, truth, fewer, seed + attempt):
                if _mixed(truth[part.train]) and _mixed(truth[part.held]):
                    return part
    raise ConfigError(_few("they cannot be parted so that both classes are on either side", groups, truth))


def group_folds(groups: Sequence[str], truth: Truth, count: int, seed: int = 0) -> list[GroupSplit]:
    """Every item held out once. Both classes are in every part to learn from, not in every part held out.

    Raises ConfigError where the groups do not allow it.
    """
    _enough(groups, truth)
    if min(len(set(groups)), _larger(truth)) < count:
        raise ConfigError(_few(f"{count} parts need as many", groups, truth))
    for attempt in range(_TRIES):
        parts = _folds(groups, truth, count, seed + attempt)
        if all(_mixed(truth[part.train]) and len(part.held) for part in parts):
            return parts
    raise ConfigError(_few("they cannot be parted so that both classes are always learned from", groups, truth))


def _folds(groups: Sequence[str], truth: Truth, count: int, seed: int) -> list[GroupSplit]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # said by `_few`, where it matters
        return [GroupSplit(train, held) for train, held in folds(groups, truth, count, seed)]


def _larger(truth: Truth) -> int:
    """Rows of the larger class, than which scikit-learn makes no more folds."""
    return int(max(truth.sum(), (~truth).sum()))


def _mixed(truth: Truth) -> bool:
    return bool(truth.any() and not truth.all())


def _enough(groups: Sequence[str], truth: Truth) -> None:
    for label in (True, False):
        if len({group for group, said in zip(groups, truth, strict=True) if said == label}) < 2:
            raise ConfigError(
                _few("each class needs at least two, one to learn from and one to check on", groups, truth)
            )


def _few(why: str, groups: Sequence[str], truth: Truth) -> str:
    positive = {group for group, said in zip(groups, truth, strict=True) if said}
    negative = {group for group, said in zip(groups, truth, strict=True) if not said}
    return (
        f"{len(truth)} rows lie in {len(set(groups))} groups, {len(positive)} with road work and {len(negative)} "
        f"without: {why}. Add data from other places, or give its groups where they are finer"
    )
