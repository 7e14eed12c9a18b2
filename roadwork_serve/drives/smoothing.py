"""Smoothing over time: a hidden Markov model with two states, road work and none, in continuous time.

Frames come at uneven times, so the chain is given by rates instead of by a matrix. The smoothing is the
forward-backward algorithm (Rabiner 1989, "A Tutorial on Hidden Markov Models").
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.errors import ConfigError

Floats = NDArray[np.float64]
NONE, WORKS = 0, 1
_LEAST = 1e-6  # of a probability; a model that returns 0 or 1 is not that sure
# Prior of the fit: two changes in the time that the default rates give them.
_PRIOR_CHANGES = 2.0


@dataclass(frozen=True, slots=True)
class SmoothingModel:
    """The rates of the chain, and how much one frame weighs.

    The default rates are of a drive in town: a zone every minute, passed in ten seconds.
    """

    #: Changes from none to road work, per second without road work.
    begin_rate: float = 1 / 60
    #: Changes from road work to none, per second with road work.
    end_rate: float = 1 / 10
    #: Share of road work in the data that the probabilities of frames are calibrated for.
    base_rate: float = 0.5
    #: Weight of a frame's log-likelihood ratio. Frames half a second apart repeat each other's errors: below 1.
    weight: float = 0.8
    #: Largest log-likelihood ratio of one frame, so that no single frame decides.
    most: float = 4.0

    def __post_init__(self) -> None:
        if not (self.begin_rate > 0 and self.end_rate > 0):
            raise ConfigError("begin_rate and end_rate are changes per second and must be above 0")
        if not 0 < self.base_rate < 1:
            raise ConfigError(f"base_rate is {self.base_rate}; it must lie between 0 and 1")

    @property
    def initial(self) -> Floats:
        """The stationary distribution [2]."""
        total = self.begin_rate + self.end_rate
        return np.array((self.end_rate / total, self.begin_rate / total))

    def transitions(self, elapsed_s: Floats) -> Floats:
        """Return the transition matrices [n, 2, 2] for elapsed times [n] in seconds."""
        total = self.begin_rate + self.end_rate
        changed = -np.expm1(-total * np.maximum(elapsed_s, 0.0))  # 1 for an endless time
        begins, ends = self.begin_rate / total * changed, self.end_rate / total * changed
        return np.stack([np.stack([1 - begins, begins], -1), np.stack([ends, 1 - ends], -1)], -2)

    def log_ratios(self, probabilities: Floats) -> Floats:
        """Return log-likelihood ratios [n] of frames; 0 for NaN, a frame that was not scored."""
        p = np.clip(probabilities, _LEAST, 1 - _LEAST)
        ratios = np.log(p) - np.log1p(-p) - np.log(self.base_rate / (1 - self.base_rate))
        return np.where(np.isnan(p), 0.0, np.clip(self.weight * ratios, -self.most, self.most))


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """Posteriors of a sequence of frames."""

    #: Probability of road work at each frame [n].
    posterior: Floats
    #: Probability that there is none at frame i + 1 if there is none at frame i [n - 1].
    stays_none: Floats

    def any_works(self, first: int, last: int) -> float:
        """Return the probability that there is road work at one of the frames from first to last, inclusive."""
        none = (1 - self.posterior[first]) * np.prod(self.stays_none[first:last])
        return float(np.clip(1 - none, 0.0, 1.0))


def smooth(model: SmoothingModel, probabilities: Floats, clock_s: Floats) -> Smoothed:
    """Return the posteriors of frames, given all of them.

    Args:
        model: The rates and weights.
        probabilities: Probability of road work of each frame [n]; NaN for a frame that was not scored.
        clock_s: Time of each frame in seconds [n], not falling. It stops while the car stands still, because nothing
            changes then.

    """
    count = len(probabilities)
    if not count:
        return Smoothed(np.zeros(0), np.zeros(0))
    likelihoods = np.stack([np.zeros(count), model.log_ratios(probabilities)], -1)
    likelihoods = np.exp(likelihoods - likelihoods.max(axis=1, keepdims=True))
    steps = model.transitions(np.diff(clock_s))
    forward = np.empty((count, 2))
    forward[0] = _normal(model.initial * likelihoods[0])
    for at in range(1, count):
        forward[at] = _normal(forward[at - 1] @ steps[at - 1] * likelihoods[at])
    backward = np.ones((count, 2))
    stays_none = np.empty(count - 1)
    for at in range(count - 2, -1, -1):
        paths = steps[at] * (likelihoods[at + 1] * backward[at + 1])
        sums = paths.sum(axis=1)
        stays_none[at] = paths[NONE, NONE] / sums[NONE]
        backward[at] = _normal(sums)
    joint = forward * backward
    return Smoothed(joint[:, WORKS] / joint.sum(axis=1), stays_none)


def fit_rates(
    labelled: Iterable[tuple[Sequence[float], Sequence[bool]]], start: SmoothingModel | None = None
) -> SmoothingModel:
    """Return the model with the rates of labelled clips, each given as times in seconds and labels.

    The rate of a change is the number of changes over the time in which they could have happened. A weak prior at the
    rates of `start` keeps a few clips without a change from giving a rate of 0.
    """
    start = start or SmoothingModel()
    changes = np.full(2, _PRIOR_CHANGES)
    spent_s = _PRIOR_CHANGES / np.array((start.begin_rate, start.end_rate))
    for times, labels in labelled:
        states, gaps = np.asarray(labels, dtype=int), np.diff(np.asarray(times, dtype=float))
        if (gaps < 0).any():
            raise ConfigError("the times of a labelled clip must not fall")
        for state in (NONE, WORKS):
            # Half of a gap belongs to the frame before it, and half to the one behind.
            spent_s[state] += (gaps * ((states[:-1] == state) / 2 + (states[1:] == state) / 2)).sum()
            changes[state] += ((states[:-1] == state) & (states[1:] != state)).sum()
    begin_rate, end_rate = changes / spent_s
    return SmoothingModel(float(begin_rate), float(end_rate), start.base_rate, start.weight, start.most)


def _normal(values: Floats) -> Floats:
    return values / values.sum()
