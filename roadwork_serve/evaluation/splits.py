"""Grouped splits: no group is in both the training and the test part."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform

Indices = NDArray[np.int64]
Truth = NDArray[np.bool_]


def fill_group_names(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the groups; an item without one becomes a group of its own."""
    return tuple(group or f"alone\n{index}" for index, group in enumerate(groups))


def folds(groups: Sequence[str], truth: Truth, count: int, seed: int = 0) -> Iterator[tuple[Indices, Indices]]:
    """Yield train and test indices of `count` folds. Every item is tested once; no group is on both sides.

    The classes are spread as evenly as the groups allow. Raises ConfigError when there are fewer groups than folds.
    """
    names = np.array(fill_group_names(groups))
    if (group_count := len(set(names))) < count:
        raise ConfigError(f"{group_count} groups cannot be split into {count} folds; label more, or use fewer folds")
    alone = group_count == len(names)  # one group an item: the same folds, many times faster
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    for train, test in splitter.split(np.zeros(len(names)), truth, None if alone else names):
        yield train.astype(np.int64), test.astype(np.int64)


def stable_uniforms(names: Sequence[str], purpose: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each name that depends on the name and the purpose alone."""
    return np.array([stable_uniform(purpose, name) for name in names], dtype=np.float64)
