"""How unlike everything usual a picture is, by what stage 1 made of it."""

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
FEWEST = 50  # from which on distances among them say what is usual
_AT_A_TIME = 512
_SAME = 1e-3  # of the squared distance, a dimension: what float16 and float32 may make of nothing
_LAST = 10_000  # answers
_MODELS = 4  # backbones told apart while a reference is drawn: the first that come


def embedding(entry: PredictionRecord) -> NDArray[np.float32] | None:
    """float32 [width]: the features of a photo, of a clip the mean over its frames; None where none were kept."""
    if entry.features is None or not len(entry.features):
        return None
    return entry.features.mean(0, dtype=np.float32) if len(entry.features) > 1 else entry.features[0].astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSet:
    """Pictures of one backbone that stand for what is usual.

    rows: float32 [n, width], each dimension scaled to a mean of 0 and a deviation of 1 by `mean` and `spread`,
    [width]. usual, far: the median and the 99th percentile of how far each lies from its nearest among the others.
    """

    model: str
    rows: NDArray[np.float32]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    usual: float
    far: float

    def novelty(self, entries: Sequence[PredictionRecord]) -> NDArray[np.float32]:
        """float32 [n], 0 to 1: 0 up to the usual distance, a half at the 99th percentile, 1 from twice as far beyond
        the usual; NaN where there are no features of this backbone."""
        found = np.full(len(entries), np.nan, np.float32)
        at = [n for n, entry in enumerate(entries) if self._knows(entry)]
        for start in range(0, len(at), _AT_A_TIME):
            some = at[start : start + _AT_A_TIME]
            vectors = np.stack([embedding(entries[n]) for n in some])  # type: ignore[arg-type]
            distances = _nearest((vectors - self.mean) / self.spread, self.rows)
            found[some] = ((distances - self.usual) / (2 * (self.far - self.usual))).clip(0, 1)
        return found

    def _knows(self, entry: PredictionRecord) -> bool:
        kept = entry.features
        return kept is not None and entry.features_model == self.model and kept.shape[1:] == self.mean.shape


def build_reference(cases: Iterable[JournalRow], size: int = SIZE, seed: int = 0) -> ReferenceSet | None:
    """A reference drawn by lot among the answers, of the backbone that most of them are of.

    None where fewer than 50 have features. Holds `size` rows of each of a few backbones, however many answers come.
    """
    drawn: dict[tuple[str, int], BottomK[NDArray[np.float32]]] = {}
    for case in cases:
        vector, entry = embedding(case.entry), case.entry
        if vector is None:
            continue
        kind = entry.features_model, len(vector)
        if kind in drawn or len(drawn) < _MODELS:
            drawn.setdefault(kind, BottomK(size)).add(vector, stable_uniform(str(seed), entry.id))
    if not drawn:
        return None
    (model, _), kept = max(drawn.items(), key=lambda item: item[1].seen)
    return None if len(kept) < FEWEST else _reference(model, np.stack(kept.ordered()))


def reference_set(store: "Store") -> ReferenceSet | None:
    """What is usual by the last 10,000 answers of a journal; None where too few of them have features."""
    return build_reference(store.find(limit=_LAST, newest_first=True))


def _reference(model: str, vectors: NDArray[np.float32]) -> ReferenceSet:
    mean, spread = vectors.mean(0), vectors.std(0)
    spread = np.maximum(spread, max(float(spread.max()), 1e-6) * 1e-3)  # a dead dimension is not to shout
    rows = ((vectors - mean) / spread).astype(np.float32)
    distances = np.concatenate([_nearest(rows[n : n + _AT_A_TIME], rows) for n in range(0, len(rows), _AT_A_TIME)])
    usual, far = (float(q) for q in np.quantile(distances, (0.5, 0.99)))
    return ReferenceSet(model, rows, mean, spread, usual, max(far, usual + 1e-3))


def _nearest(vectors: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean distance of each to its nearest rows, [n]. A row equal to it is left out once: it may be itself."""
    squares = (vectors**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * vectors @ rows.T
    nearest = np.sort(np.partition(squares, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1], axis=1)
    itself = nearest[:, :1] < _SAME * rows.shape[1]
    others = np.where(itself, nearest[:, 1:], nearest[:, :-1])
    return np.sqrt(others.clip(0)).mean(1)
