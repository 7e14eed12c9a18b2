"""Answers that show the same: one file sent again, frames of one drive."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.journal.novelty import embedding
from roadwork_serve.journal.record import JournalRow, PredictionRecord


@dataclass(frozen=True, slots=True)
class DuplicateRule:
    """When two answers show the same: one file, or features whose cosine is at least `anywhere`, or at least `nearby`
    where they have one key and lie no more than `within_s` apart.

    The numbers are measured with the miniature's features of rendered scenes: of 44,850 pairs of different scenes
    none reaches 0.99 and 0.3 % reach 0.95; of frames of one clip 57 % and 87 %, of frames 0.25 s apart 72 % and
    97 %. Other backbones have other cosines: look again before trusting them with one.
    """

    anywhere: float = 0.99
    nearby: float = 0.95
    within_s: float = 10.0


class DuplicateFinder:
    """What has been looked at. Holds the last `window` that were not like any before."""

    def __init__(self, likeness: DuplicateRule | None = None, window: int = 1000) -> None:
        self._likeness, self._window = likeness or DuplicateRule(), max(window, 1)
        self._files: dict[str, str] = {}  # SHA-256 -> id
        self._shelves: dict[tuple[str, int], _Shelf] = {}  # by backbone and width: others cannot be compared

    def repeated(self, entry: PredictionRecord) -> str | None:
        """The id of an earlier one that shows the same; None where there is none, and then it is remembered."""
        if (same := self._files.get(entry.sha256)) is not None:
            return same
        vector = embedding(entry)
        if vector is not None:
            length = float(np.linalg.norm(vector))
            vector = vector / length if length else vector
            shelf = self._shelves.setdefault((entry.features_model, len(vector)), _Shelf(self._window, len(vector)))
            like = shelf.like(entry, vector, self._likeness)
            if like is None:
                shelf.put(entry, vector)
        else:
            like = None
        self._files[entry.sha256] = entry.id if like is None else like
        if len(self._files) > 10 * self._window:
            del self._files[next(iter(self._files))]
        return like


class _Shelf:
    """The last unit vectors of one backbone, [window, width], each with whose it is."""

    def __init__(self, window: int, width: int) -> None:
        self._rows = np.zeros((min(window, 64), width), np.float32)
        self._at_s = np.zeros(len(self._rows))
        self._whose: list[tuple[str, str]] = []  # id and key
        self._window, self._next = window, 0

    def like(self, entry: PredictionRecord, vector: NDArray[np.float32], likeness: DuplicateRule) -> str | None:
        held = len(self._whose)
        cosines = self._rows[:held] @ vector
        for at in np.flatnonzero(cosines >= min(likeness.nearby, likeness.anywhere)):
            name, key = self._whose[at]
            near = key != "" and key == entry.key and abs(self._at_s[at] - entry.at_s) <= likeness.within_s
            if cosines[at] >= (likeness.nearby if near else likeness.anywhere):
                return name
        return None

    def put(self, entry: PredictionRecord, vector: NDArray[np.float32]) -> None:
        at = self._next
        if at == len(self._rows):
            room = min(len(self._rows), self._window - len(self._rows))
            self._rows = np.concatenate([self._rows, np.zeros((room, self._rows.shape[1]), np.float32)])
            self._at_s = np.concatenate([self._at_s, np.zeros(room)])
        self._rows[at], self._at_s[at] = vector, entry.at_s
        if at < len(self._whose):
            self._whose[at] = entry.id, entry.key
        else:
            self._whose.append((entry.id, entry.key))
        self._next = (at + 1) % self._window


def without_duplicates(
    cases: Iterable[JournalRow], likeness: DuplicateRule | None = None, window: int = 1000
) -> Iterator[JournalRow]:
    """Those that show something which none of the last `window` did."""
    seen = DuplicateFinder(likeness, window)
    return (case for case in cases if seen.repeated(case.entry) is None)
