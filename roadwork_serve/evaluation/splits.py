"""Parts that share no group: what is learned on one must not have been seen in another."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform

Indices = NDArray[np.int64]
Truth = NDArray[np.bool_]


def fill_group_names(groups: Sequence[str]) -> tuple[str, ...]:
    """The groups, with an item that has none as a group of its own."""
    return tuple(group or f"alone\n{at}" for at, group in enumerate(groups))


def folds(groups: Sequence[str], truth: Truth, count: int, seed: int = 0) -> Iterator[tuple[Indices, Indices]]:
    """Train and test indices, `count` times; every item is tested once, no group is on both sides.

    The classes are spread as evenly as the groups allow. Raises ConfigError when there are fewer groups than folds.
    """
    names = np.array(fill_group_names(groups))
    if (there := len(set(names))) < count:
        raise ConfigError(f"{there} groups cannot be split {count} times; label more, or ask for fewer folds")
    alone = there == len(names)  # a group each: the same, and many times as fast
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    for train, test in splitter.split(np.zeros(len(names)), truth, None if alone else names):
        yield train.astype(np.int64), test.astype(np.int64)


def stable_uniforms(names: Sequence[str], purpose: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each name that depends on the name and the purpose alone."""
    return np.array([stable_uniform(purpose, name) for name in names], dtype=np.float64)
