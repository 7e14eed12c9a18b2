"""Fits of the heads on frozen features: linear, convex and deterministic, so a fold of sources costs seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

DECAY = 0.1  # of the squared weights of standardised features
PAIR_WEIGHT = 0.5  # of the pairs against all other rows
PAIR_MARGIN = 2.0  # log-odds by which works should raise a score
_SAME = 0.3  # weight of a difference where the works are the same, against the order where they differ
_SPREAD = 1e-2  # added to a feature's standard deviation
_STEPS = 80

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A linear layer on raw features: logit = features @ weight + bias."""

    weight: Floats
    bias: float

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the logits [...] of features [..., width]."""
        return (np.asarray(features, np.float32) @ self.weight).astype(np.float64) + self.bias


@dataclass(frozen=True)
class PairFeatures:
    """Features of pairs that differ in one respect."""

    #: float [m, 2, width]: before and after.
    features: Floats
    #: 1 or 0, [m, 2].
    labels: Floats
    #: +1 where `after` shows more works, -1 where less, 0 where the same, [m].
    order: Floats


def group_weights(labels: NDArray[np.bool_], groups: NDArray[np.str_]) -> Floats:
    """Return weights [n] that sum to 1: half for each class, within it by the square root of the group's size."""
    names, at, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    del names
    weights = sizes[at] ** -0.5
    for value in (False, True):
        chosen = labels == value
        if chosen.any():
            weights[chosen] *= 0.5 / weights[chosen].sum()
    return weights.astype(np.float32)


def fit_linear(
    features: Floats,
    labels: NDArray[np.bool_],
    weights: Floats,
    pairs: PairFeatures | None = None,
    decay: float = DECAY,
) -> Linear:
    """Fit weighted logistic regression with an L2 penalty, and a ranking loss on pairs.

    Args:
        features: float [n, width].
        labels: [n].
        weights: Weights of the rows, [n].
        pairs: Pairs whose scores should differ by PAIR_MARGIN, or not at all.
        decay: Factor of the L2 penalty on the weights of standardised features.
    """
    mean, spread = features.mean(0), features.std(0) + _SPREAD
    x, y, w = (torch.from_numpy(v) for v in ((features - mean) / spread, labels.astype(np.float32), weights))
    extra: Callable[[Tensor, Tensor], Tensor] | None = None
    if pairs is not None and len(pairs.order):
        extra = _pair_loss((pairs.features - mean) / spread, pairs)

    def loss(coefficients: Tensor, bias: Tensor) -> Tensor:
        scores = x @ coefficients + bias
        total = (F.binary_cross_entropy_with_logits(scores, y, reduction="none") * w).sum()
        return total + (extra(coefficients, bias) if extra else 0) + decay * coefficients.square().sum()

    coefficients, bias = _minimum(loss, features.shape[1])
    weight = coefficients / spread
    return Linear(weight.astype(np.float32), bias - float(mean @ weight))


def _pair_loss(features: Floats, pairs: PairFeatures) -> Callable[[Tensor, Tensor], Tensor]:
    x, labels, order = (torch.from_numpy(np.ascontiguousarray(v)) for v in (features, pairs.labels, pairs.order))
    differs = order.abs()

    def loss(coefficients: Tensor, bias: Tensor) -> Tensor:
        scores = x @ coefficients + bias
        rise = scores[:, 1] - scores[:, 0]
        ranked = F.softplus(PAIR_MARGIN - order * rise) * differs
        same = _SAME * F.smooth_l1_loss(rise, torch.zeros_like(rise), reduction="none") * (1 - differs)
        return PAIR_WEIGHT * (0.5 * F.binary_cross_entropy_with_logits(scores, labels) + 0.4 * (ranked + same).mean())

    return loss


def _minimum(loss: Callable[[Tensor, Tensor], Tensor], width: int) -> tuple[Floats, float]:
    coefficients, bias = torch.zeros(width, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(coefficients, bias)
        value.backward()
        return value

    optimizer.step(closure)  # pyright: ignore[reportArgumentType] - it may return a tensor
    return coefficients.detach().numpy(), float(bias.item())
