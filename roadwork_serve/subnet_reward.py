"""The reward of Subnet 72 for a miner's predictions (natixnetwork/streetvision-subnet, v0.4.2)."""

import math
from collections.abc import Sequence

MCC_WINDOW = 100
ACCURACY_WINDOW = 10
SCORE_ALPHA = 0.05


def reward(predictions: Sequence[bool], labels: Sequence[bool]) -> float:
    """Return the reward after these predictions: (0.5 MCC(last 100) + 0.5 accuracy(last 10))^3, from 0 to 1.

    MCC is clipped at 0, and is 0 while there is only one class. NaN without predictions.

    Args:
        predictions: Predicted labels, oldest first.
        labels: True labels.
    """
    if not predictions:
        return math.nan
    recent = list(zip(predictions, labels, strict=True))[-ACCURACY_WINDOW:]
    accuracy = sum(a == b for a, b in recent) / len(recent)
    return (0.5 * max(0.0, _mcc(predictions[-MCC_WINDOW:], labels[-MCC_WINDOW:])) + 0.5 * accuracy) ** 3


def rewards(predictions: Sequence[bool], labels: Sequence[bool]) -> list[float]:
    """Return the reward after each of these predictions, oldest first."""
    ends = range(1, len(predictions) + 1)
    return [reward(predictions[max(0, end - MCC_WINDOW) : end], labels[max(0, end - MCC_WINDOW) : end]) for end in ends]


def score(rewards: Sequence[float]) -> float:
    """Return a validator's score of a miner: the moving average of its rewards with alpha 0.05, starting at 0."""
    average = 0.0
    for reward in rewards:
        average += SCORE_ALPHA * (reward - average)
    return average


def _mcc(predictions: Sequence[bool], labels: Sequence[bool]) -> float:
    pairs = list(zip(predictions, labels, strict=True))
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    fn, tn = pairs.count((False, True)), pairs.count((False, False))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
