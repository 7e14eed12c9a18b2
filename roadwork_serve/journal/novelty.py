"""Novelty of an image: its distance from typical traffic, in the features of stage 1."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.bottom_k import BottomK
from roadwork_serve.journal.record import JournalRow, PredictionRecord

if TYPE_CHECKING:
    from roadwork_serve.journal.store import Store

NEIGHBOURS = 5
SIZE = 2000
MIN_ROWS = 50  # for distances among them to describe typical traffic
_BATCH = 512
_SAME = 1e-3  # squared distance per dimension that rounding to float16 can produce
_LATEST = 10_000  # predictions
_MODELS = 4  # backbones sampled at a time: the first that arrive


def embedding(prediction: PredictionRecord) -> NDArray[np.float32] | None:
    """Return the features of a photo, or their mean over a clip's frames, float32 [width]; None without features."""
    features = prediction.features
    if features is None or not len(features):
        return None
    return features.mean(0, dtype=np.float32) if len(features) > 1 else features[0].astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSet:
    """A sample of typical images, as features of one backbone."""

    model: str
    #: Standardised features, float32 [n, width].
    rows: NDArray[np.float32]
    #: Mean of each dimension, float32 [width].
    mean: NDArray[np.float32]
    #: Standard deviation of each dimension, float32 [width].
    std: NDArray[np.float32]
    #: Median of each row's distance from its nearest neighbours.
    typical: float
    #: 99th percentile of the same distances.
    far: float

    def novelty(self, predictions: Sequence[PredictionRecord]) -> NDArray[np.float32]:
        """Return the novelty of each, float32 [n] from 0 to 1; NaN without features of this backbone.

        It is 0 up to the typical distance, 0.5 at the 99th percentile, and 1 from twice as far beyond.
        """
        found = np.full(len(predictions), np.nan, np.float32)
        at = [n for n, prediction in enumerate(predictions) if self._is_comparable(prediction)]
        for start in range(0, len(at), _BATCH):
            some = at[start : start + _BATCH]
            vectors = np.stack([embedding(predictions[n]) for n in some])  # type: ignore[arg-type]
            distances = _nearest((vectors - self.mean) / self.std, self.rows)
            found[some] = ((distances - self.typical) / (2 * (self.far - self.typical))).clip(0, 1)
        return found

    def _is_comparable(self, prediction: PredictionRecord) -> bool:
        features = prediction.features
        return (
            features is not None
            and len(features) > 0
            and prediction.features_model == self.model
            and features.shape[1:] == self.mean.shape
        )


def build_reference(rows: Iterable[JournalRow], size: int = SIZE, seed: int = 0) -> ReferenceSet | None:
    """Return a random sample of the rows, of the backbone that most of them have; None below 50 rows with features.

    Holds `size` vectors of each of a few backbones in memory, however many rows there are.
    """
    samples: dict[tuple[str, int], BottomK[NDArray[np.float32]]] = {}
    for row in rows:
        vector = embedding(row.prediction)
        if vector is None:
            continue
        kind = row.prediction.features_model, len(vector)
        if kind in samples or len(samples) < _MODELS:
            samples.setdefault(kind, BottomK(size)).add(vector, stable_uniform(str(seed), row.prediction.id))
    if not samples:
        return None
    (model, _), sample = max(samples.items(), key=lambda item: item[1].seen)
    return None if len(sample) < MIN_ROWS else _reference(model, np.stack(sample.ordered()))


def reference_set(store: "Store") -> ReferenceSet | None:
    """Return a sample of the latest 10,000 predictions of a journal; None if too few of them have features."""
    return build_reference(store.find(limit=_LATEST, newest_first=True))


def _reference(model: str, vectors: NDArray[np.float32]) -> ReferenceSet:
    mean, std = vectors.mean(0), vectors.std(0)
    std = np.maximum(std, max(float(std.max()), 1e-6) * 1e-3)  # a constant dimension must not dominate
    rows = ((vectors - mean) / std).astype(np.float32)
    distances = np.concatenate([_nearest(rows[n : n + _BATCH], rows) for n in range(0, len(rows), _BATCH)])
    typical, far = (float(q) for q in np.quantile(distances, (0.5, 0.99)))
    return ReferenceSet(model, rows, mean, std, typical, max(far, typical + 1e-3))


def _nearest(vectors: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean distance of each vector from its nearest rows, [n], leaving out one equal row: maybe itself."""
    squares = (vectors**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * vectors @ rows.T
    nearest = np.sort(np.partition(squares, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1], axis=1)
    itself = nearest[:, :1] < _SAME * rows.shape[1]
    others = np.where(itself, nearest[:, 1:], nearest[:, :-1])
    return np.sqrt(others.clip(0)).mean(1)
