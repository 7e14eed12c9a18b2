"""Samples of predictions for people to label, drawn so that rates can be estimated from the labels."""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.active_learning import ActiveLearningScore
from roadwork_serve.journal.bottom_k import BottomK
from roadwork_serve.journal.duplicates import DuplicateFinder, DuplicateRule
from roadwork_serve.journal.record import JournalRow, PredictionRecord
from roadwork_serve.printable import without_formula

BANDS = (0.05, 0.5, 0.95)  # edges of the probability: confidently none, rather none, rather roadwork, confidently so
NOVEL = 0.5  # from the 99th percentile of typical distances on
INFORMATIVE_SHARE = 0.5
_MIN_RANDOM = 2  # random rows in a stratum, if it has as many: one alone has no variance
_INFORMATIVE, _RANDOM = "informative", "random"
COLUMNS: tuple[str, ...] = (
    "id", "label", "note", "filename", "request_id", "created_at", "key", "media", "sha256", "media_available",
    "predicted_label", "probability", "exit_stage", "informativeness", "reasons", "stratum", "selection",
    "inclusion_probability", "weight",
)  # fmt: skip

Stratum = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SampledRow:
    """A prediction to label."""

    prediction: PredictionRecord
    score: ActiveLearningScore
    media_available: bool
    stratum: Stratum = ()
    #: Probability of being drawn; 1 for the most informative.
    inclusion_probability: float = 1.0
    #: Number of duplicates with the same predicted label, this one included.
    duplicates: int = 1

    @property
    def weight(self) -> float:
        """Number of predictions in the traffic that the row represents."""
        return self.duplicates / self.inclusion_probability

    @property
    def is_random(self) -> bool:
        """True if the row was drawn at random, not for its score."""
        return self.inclusion_probability < 1


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows to label, and the traffic that they were drawn from."""

    #: The most informative first.
    rows: tuple[SampledRow, ...]
    #: Predictions in the traffic.
    predictions: int
    #: Predictions without duplicates.
    distinct: int
    strata: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of all predictions, 0 to 1."""

    value: float
    standard_error: float


@dataclass(eq=False)
class _Pool:
    """Candidates of a stratum: enough of the most informative and of random ones."""

    size: int
    informative: BottomK[SampledRow] = field(init=False)
    random: BottomK[SampledRow] = field(init=False)

    def __post_init__(self) -> None:
        self.informative, self.random = BottomK(self.size), BottomK(2 * self.size)

    def add(self, row: JournalRow, score: ActiveLearningScore, stratum: Stratum, seed: int) -> None:
        name = row.prediction.id
        tie, key = stable_uniform(str(seed + 1), name), stable_uniform(str(seed), name)
        if self.informative.accepts(-score.value, tie) or self.random.accepts(key):
            candidate = SampledRow(_without_blobs(row.prediction), score, row.media_available, stratum)
            self.informative.add(candidate, -score.value, tie)
            self.random.add(candidate, key)


def sample(
    rows: Iterable[tuple[JournalRow, ActiveLearningScore]],
    budget: int,
    informative_share: float = INFORMATIVE_SHARE,
    seed: int = 0,
    rule: DuplicateRule | None = None,
) -> Sample:
    """Draw at most `budget` rows over all strata: of each a share of the most informative, and the rest at random.

    Strata are the exit stage, the band of the probability and novelty; coarser ones if the budget does not allow four
    rows of each. A stratum's part grows with the root of its size (power allocation, Bankier 1988). A duplicate of one
    of the last thousand distinct rows with the same label is counted with that row. The same rows and seed give the
    same sample in whatever order the rows arrive, except for which duplicate represents the others.

    Raises ConfigError for a budget below 1 or a share outside 0 to 1.
    """
    if budget < 1 or not 0 <= informative_share <= 1:
        raise ConfigError(
            f"a budget of {budget} with an informative share of {informative_share:g}; draw at least one row, with a "
            "share of 0 to 1"
        )
    pools: dict[Stratum, _Pool] = {}
    finders = defaultdict[str, DuplicateFinder](lambda: DuplicateFinder(rule))
    duplicates: Counter[str] = Counter()
    sizes: Counter[Stratum] = Counter()
    predictions = 0
    for row, score in rows:
        predictions += 1
        prediction = row.prediction
        first = finders[prediction.verdict.label].duplicate_of(prediction)
        duplicates[first or prediction.id] += 1
        if first is None:
            stratum = _stratum(prediction, score)
            sizes[stratum] += 1
            if stratum not in pools:
                pools[stratum] = _Pool(budget)
            pools[stratum].add(row, score, stratum, seed)
    merged, depth = _merged(pools, budget, seed)
    counts: Counter[Stratum] = Counter()
    for stratum, size in sizes.items():
        counts[stratum[:depth]] += size
    drawn = [
        replace(each, duplicates=duplicates[each.prediction.id])
        for stratum, size in allocation(counts, budget).items()
        for each in _drawn(merged[stratum], stratum, counts[stratum], size, informative_share)
    ]
    drawn.sort(key=lambda each: (-each.score.value, each.prediction.id))
    return Sample(tuple(drawn), predictions, sum(counts.values()), len(counts))


def allocation(sizes: Mapping[Stratum, int], budget: int) -> dict[Stratum, int]:
    """Return the number of rows for each stratum: at least two, beyond that in proportion to the root of its size.

    No stratum gets more than it has. The budget must allow two of each.
    """
    parts = {stratum: min(size, _MIN_RANDOM, budget) for stratum, size in sizes.items()}
    while sum(parts.values()) < budget:
        open_ones = [stratum for stratum, size in sizes.items() if parts[stratum] < size]
        if not open_ones:
            break
        neediest = min(open_ones, key=lambda stratum: (parts[stratum] / math.sqrt(sizes[stratum]), stratum))
        parts[neediest] += 1
    return parts


def estimate_rate(drawn: Sequence[SampledRow], predictions: int, holds: Mapping[str, bool]) -> Rate:
    """Estimate the share of all predictions for which something holds.

    Horvitz and Thompson's estimator, unbiased if every drawn row is known. Unknown rows are taken to be like the rest
    of their stratum that was selected in the same way.

    Args:
        drawn: the sample.
        predictions: size of the traffic, see `Sample`.
        holds: whether it holds, by id of the prediction, for the rows that are known.
    """
    total = variance = 0.0
    for stratum, is_random in {(each.stratum, each.is_random) for each in drawn}:
        some = [each for each in drawn if (each.stratum, each.is_random) == (stratum, is_random)]
        known = [each.duplicates * holds[each.prediction.id] for each in some if each.prediction.id in holds]
        if not known:
            continue
        size = len(some) / some[0].inclusion_probability  # distinct predictions that these were drawn from
        mean = sum(known) / len(known)
        total += size * mean
        if len(known) > 1:
            squares = sum((value - mean) ** 2 for value in known) / (len(known) - 1)
            variance += size**2 * (1 - len(known) / size) * squares / len(known)
    return Rate(total / predictions, math.sqrt(variance) / predictions)


def write_sample(path: Path, drawn: Iterable[SampledRow]) -> int:
    """Write a CSV file with an empty column `label`, for people to fill in. Returns the number of rows.

    Labels are roadwork, none or unclear. Raises ConfigError if the disk refuses.
    """
    rows = [_row(each) for each in drawn]
    with replace_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _row(drawn: SampledRow) -> dict[str, object]:
    prediction, verdict = drawn.prediction, drawn.prediction.verdict
    return {
        "id": prediction.id,
        "label": "",
        "note": "",
        "filename": without_formula(prediction.filename),
        "request_id": without_formula(verdict.request_id),
        "created_at": datetime.fromtimestamp(prediction.created_at_s, UTC).isoformat(timespec="seconds"),
        "key": without_formula(prediction.key),
        "media": verdict.media,
        "sha256": prediction.sha256,
        "media_available": str(drawn.media_available).lower(),
        "predicted_label": verdict.label,
        "probability": f"{verdict.probability:.4f}",
        "exit_stage": verdict.exit.stage,
        "informativeness": f"{drawn.score.value:.4f}",
        "reasons": str(drawn.score),
        "stratum": " / ".join(drawn.stratum) or "all",
        "selection": _RANDOM if drawn.is_random else _INFORMATIVE,
        "inclusion_probability": f"{drawn.inclusion_probability:.6g}",
        "weight": f"{drawn.weight:.6g}",
    }


def _stratum(prediction: PredictionRecord, score: ActiveLearningScore) -> Stratum:
    edges = (0.0, *BANDS, 1.0)
    band = sum(prediction.verdict.probability >= edge for edge in BANDS)
    novelty = "novelty unknown" if math.isnan(score.novelty) else "novel" if score.novelty >= NOVEL else "typical"
    return prediction.verdict.exit.stage, f"{edges[band]:g} to {edges[band + 1]:g}", novelty


def _without_blobs(prediction: PredictionRecord) -> PredictionRecord:
    """Return the prediction without large parts, since many are in memory."""
    verdict = prediction.verdict.model_copy(update={"stages": []})
    return replace(prediction, features=None, media=None, verdict=verdict)


def _merged(pools: Mapping[Stratum, _Pool], budget: int, seed: int) -> tuple[dict[Stratum, _Pool], int]:
    """Return strata as fine as the budget allows, and the number of parts of their names that are left."""
    for depth in (3, 2, 1, 0):
        strata = {stratum[:depth] for stratum in pools}
        if 2 * _MIN_RANDOM * len(strata) <= budget or not depth:
            break
    merged: dict[Stratum, _Pool] = {stratum: _Pool(budget) for stratum in strata}
    for stratum, pool in pools.items():
        into = merged[stratum[:depth]]
        for each in pool.informative.ordered():
            into.informative.add(each, -each.score.value, stable_uniform(str(seed + 1), each.prediction.id))
        for each in pool.random.ordered():
            into.random.add(each, stable_uniform(str(seed), each.prediction.id))
    return merged, depth


def _drawn(pool: _Pool, stratum: Stratum, size: int, count: int, informative_share: float) -> list[SampledRow]:
    """Return `count` rows of a stratum of `size`: the most informative, then a random sample of all others."""
    if count >= size:
        return [replace(each, stratum=stratum) for each in pool.informative.ordered()[:count]]
    at_random = min(count, max(count - round(informative_share * count), _MIN_RANDOM))
    informative = pool.informative.ordered()[: count - at_random]
    taken = {each.prediction.id for each in informative}
    random = [each for each in pool.random.ordered() if each.prediction.id not in taken][:at_random]
    probability = at_random / (size - len(informative))
    return [replace(each, stratum=stratum) for each in informative] + [
        replace(each, stratum=stratum, inclusion_probability=probability) for each in random
    ]
