"""What Subnet 72 pays a miner for its answers (natixnetwork/streetvision-subnet, v0.4.2)."""

import math
from collections.abc import Sequence

MCC_WINDOW = 100
ACCURACY_WINDOW = 10
SCORE_ALPHA = 0.05


def reward(said: Sequence[bool], truth: Sequence[bool]) -> float:
    """For the last of these answers, oldest first: (0.5 MCC(last 100) + 0.5 accuracy(last 10))^3, 0 to 1.

    MCC is clipped at 0, and 0 while only one class was seen. NaN for no answers.
    """
    if not said:
        return math.nan
    near = list(zip(said, truth, strict=True))[-ACCURACY_WINDOW:]
    accuracy = sum(a == b for a, b in near) / len(near)
    return (0.5 * max(0.0, _mcc(said[-MCC_WINDOW:], truth[-MCC_WINDOW:])) + 0.5 * accuracy) ** 3


def rewards(said: Sequence[bool], truth: Sequence[bool]) -> list[float]:
    """What is paid after each of these answers, oldest first."""
    ends = range(1, len(said) + 1)
    return [reward(said[max(0, end - MCC_WINDOW) : end], truth[max(0, end - MCC_WINDOW) : end]) for end in ends]


def score(paid: Sequence[float]) -> float:
    """What a validator that began at 0 holds of a miner after these rewards: their moving average, alpha 0.05."""
    held = 0.0
    for each in paid:
        held += SCORE_ALPHA * (each - held)
    return held


def _mcc(said: Sequence[bool], truth: Sequence[bool]) -> float:
    pairs = list(zip(said, truth, strict=True))
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    fn, tn = pairs.count((False, True)), pairs.count((False, False))
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(spread) if spread else 0.0
