"""Accuracy of a miniature, by the cheapest stage that can know the label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.testbed.scenes.truth import Truth


def accuracies(probabilities: NDArray[np.floating], truths: Sequence[Truth]) -> dict[str, tuple[float, int]]:
    """Return accuracy at 0.5 and number of scenes, for all and for each `needs`."""
    labels = np.array([t.label for t in truths])
    right = (probabilities > 0.5) == labels
    needs = np.array([t.needs for t in truths])
    found = {"all": (float(right.mean()), len(truths))}
    for name in sorted(set(needs)):
        found[name] = (float(right[needs == name].mean()), int((needs == name).sum()))
    return found


def by_needs(probabilities: NDArray[np.floating], truths: Sequence[Truth]) -> str:
    """Return the accuracies as one line of text."""
    return " ".join(f"{name} {share:.3f}" for name, (share, _) in accuracies(probabilities, truths).items())
