"""Feature sets of two clouds, far enough apart to be learned and near enough to err."""

import numpy as np

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.heads.feature_set import FeatureSet


def clouds(
    groups: int = 40, each: int = 6, width: int = 8, seed: int = 0, has_text: bool = False, apart: float = 1.5
) -> FeatureSet:
    """Return photo features of recipe cls with one label per group."""
    rng = np.random.default_rng(seed)
    n = groups * each
    group = np.repeat(np.arange(groups), each)
    target = (group % 2).astype(np.float32)
    x = rng.normal(size=(n, width)).astype(np.float32)
    x[:, 0] += apart * (2 * target - 1)
    text_target = (x[:, 1] > 0).astype(np.float32) if has_text else np.full(n, np.nan, np.float32)
    names = tuple(f"item-{at}" for at in range(n))
    return FeatureSet(
        model="tiny",
        recipe="cls",
        x=x,
        target=target,
        human_labeled=np.ones(n, bool),
        weight=np.ones(n, np.float32),
        has_text=text_target,
        group=tuple(f"site-{each}" for each in group),
        name=names,
        backbone="f" * 64,
        metadata=tuple(
            SampleMetadata(name, "photo", bool(label), group=f"site-{site}", source="clouds", licence="MIT")
            for name, label, site in zip(names, target, group, strict=True)
        ),
        origin=("clouds",),
    )
