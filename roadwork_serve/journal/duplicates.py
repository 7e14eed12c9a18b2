"""Detection of predictions for the same scene: one file sent twice, frames of one drive."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.journal.novelty import embedding
from roadwork_serve.journal.record import JournalRow, PredictionRecord


@dataclass(frozen=True, slots=True)
class DuplicateRule:
    """The conditions under which two predictions are duplicates: the same file, or similar features.

    The numbers are measured with the miniature's features of rendered scenes: of 44,850 pairs of different scenes
    none reaches 0.99 and 0.3 % reach 0.95; of frames of one clip 57 % and 87 %, of frames 0.25 s apart 72 % and
    97 %. Cosines of other backbones differ: measure again before relying on these numbers with one.
    """

    #: Least cosine of the features of any two duplicates.
    anywhere: float = 0.99
    #: Least cosine if both have the same key and are at most `within_s` apart.
    nearby: float = 0.95
    within_s: float = 10.0


class DuplicateFinder:
    """Finds repetitions in a stream. Remembers the last `window` predictions that were no duplicates."""

    def __init__(self, rule: DuplicateRule | None = None, window: int = 1000) -> None:
        self._rule, self._window = rule or DuplicateRule(), max(window, 1)
        self._files: dict[str, str] = {}  # SHA-256 -> id
        self._vectors: dict[tuple[str, int], _VectorWindow] = {}  # by backbone and width: others are not comparable

    def duplicate_of(self, prediction: PredictionRecord) -> str | None:
        """Return the id of an earlier duplicate; if there is none, remember this one and return None."""
        if (same := self._files.get(prediction.sha256)) is not None:
            return same
        vector = embedding(prediction)
        similar = None
        if vector is not None:
            length = float(np.linalg.norm(vector))
            vector = vector / length if length else vector
            kind = prediction.features_model, len(vector)
            window = self._vectors.setdefault(kind, _VectorWindow(self._window, len(vector)))
            similar = window.find(prediction, vector, self._rule)
            if similar is None:
                window.add(prediction, vector)
        self._files[prediction.sha256] = prediction.id if similar is None else similar
        if len(self._files) > 10 * self._window:
            del self._files[next(iter(self._files))]
        return similar


class _VectorWindow:
    """The last unit vectors of one backbone, [window, width], as a ring."""

    def __init__(self, window: int, width: int) -> None:
        self._rows = np.zeros((min(window, 64), width), np.float32)
        self._created_at_s = np.zeros(len(self._rows))
        self._names: list[tuple[str, str]] = []  # id and key
        self._window, self._next = window, 0

    def find(self, prediction: PredictionRecord, vector: NDArray[np.float32], rule: DuplicateRule) -> str | None:
        cosines = self._rows[: len(self._names)] @ vector
        for at in np.flatnonzero(cosines >= min(rule.nearby, rule.anywhere)):
            name, key = self._names[at]
            apart_s = abs(self._created_at_s[at] - prediction.created_at_s)
            near = key != "" and key == prediction.key and apart_s <= rule.within_s
            if cosines[at] >= (rule.nearby if near else rule.anywhere):
                return name
        return None

    def add(self, prediction: PredictionRecord, vector: NDArray[np.float32]) -> None:
        at = self._next
        if at == len(self._rows):
            more = min(len(self._rows), self._window - len(self._rows))
            self._rows = np.concatenate([self._rows, np.zeros((more, self._rows.shape[1]), np.float32)])
            self._created_at_s = np.concatenate([self._created_at_s, np.zeros(more)])
        self._rows[at], self._created_at_s[at] = vector, prediction.created_at_s
        if at < len(self._names):
            self._names[at] = prediction.id, prediction.key
        else:
            self._names.append((prediction.id, prediction.key))
        self._next = (at + 1) % self._window


def without_duplicates(
    rows: Iterable[JournalRow], rule: DuplicateRule | None = None, window: int = 1000
) -> Iterator[JournalRow]:
    """Return the rows that duplicate none of the last `window` distinct ones."""
    finder = DuplicateFinder(rule, window)
    return (row for row in rows if finder.duplicate_of(row.prediction) is None)
