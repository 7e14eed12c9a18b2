"""What to have people look at, drawn so that rates can be told from what they say."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.active_learning import ActiveLearningScore
from roadwork_serve.journal.bottom_k import BottomK
from roadwork_serve.journal.duplicates import DuplicateFinder, DuplicateRule
from roadwork_serve.journal.record import JournalRow, PredictionRecord

BANDS = (0.05, 0.5, 0.95)  # of the probability of road work: sure of none, rather none, rather works, sure of works
NOVEL = 0.5  # beyond the 99th percentile of what is usual
HARD_SHARE = 0.5
_FEWEST = 2  # drawn by chance in a stratum, where it has as many: one tells nothing of how far they are apart
_HARD, _CHANCE = "hard", "chance"
COLUMNS = (
    "id", "label", "note", "request_id", "at", "key", "media", "sha256", "kept", "answer", "probability", "exit_stage",
    "hardness", "reasons", "stratum", "drawn", "chance", "weight",
)  # fmt: skip

Stratum = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SampledRow:
    """An answer to look at.

    chance: with which it was to be drawn, 1 for the hardest. stands_for: answers that show the same and were answered
    the same, itself included. weight: answers of the traffic that it stands for: stands_for / chance.
    """

    entry: PredictionRecord
    hardness: ActiveLearningScore
    kept: bool
    stratum: Stratum = ()
    chance: float = 1.0
    stands_for: int = 1

    @property
    def weight(self) -> float:
        return self.stands_for / self.chance

    @property
    def by_chance(self) -> bool:
        """Whether lots drew it, and not its hardness."""
        return self.chance < 1


@dataclass(frozen=True, slots=True)
class Sample:
    """drawn: the hardest first. answers: how many there were; distinct: without those that repeat one another."""

    drawn: tuple[SampledRow, ...]
    answers: int
    distinct: int
    strata: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of all answers, 0 to 1, and its standard error."""

    value: float
    error: float


@dataclass(eq=False)
class _Pool:
    """What is held of a stratum while answers go by: enough of the hardest and of the luckiest."""

    room: int
    hard: BottomK[SampledRow] = field(init=False)
    lucky: BottomK[SampledRow] = field(init=False)

    def __post_init__(self) -> None:
        self.hard, self.lucky = BottomK(self.room), BottomK(2 * self.room)

    def offer(self, case: JournalRow, how: ActiveLearningScore, stratum: Stratum, seed: int) -> None:
        tie, luck = stable_uniform(str(seed + 1), case.entry.id), stable_uniform(str(seed), case.entry.id)
        if self.hard.takes(-how.value, tie) or self.lucky.takes(luck):
            drawn = SampledRow(_light(case.entry), how, case.kept, stratum)
            self.hard.add(drawn, -how.value, tie)
            self.lucky.add(drawn, luck)


def sample(
    cases: Iterable[tuple[JournalRow, ActiveLearningScore]],
    budget: int,
    hard_share: float = HARD_SHARE,
    seed: int = 0,
    likeness: DuplicateRule | None = None,
) -> Sample:
    """At most `budget` answers: spread over strata, of each a share of the hardest and the rest by lot.

    Strata are the exit stage, the band of the probability and whether it is novel; coarser ones where the budget does
    not reach for four of each. A stratum's part grows as the root of its size (power allocation, Bankier 1988). What
    shows the same as one of the last thousand and was answered the same stands behind it. The same answers and seed
    draw the same, in whatever order they come but for what stands behind what. Raises ConfigError for a budget of none.
    """
    if budget < 1 or not 0 <= hard_share <= 1:
        raise ConfigError(f"{budget} answers and a hard share of {hard_share:g}; draw at least one, a share of 0 to 1")
    pools: dict[Stratum, _Pool] = {}
    seen = {"roadwork": DuplicateFinder(likeness), "none": DuplicateFinder(likeness)}
    stands_for: Counter[str] = Counter()
    sizes: Counter[Stratum] = Counter()
    answers = 0
    for case, how in cases:
        answers += 1
        entry = case.entry
        first = seen[entry.verdict.label].repeated(entry)
        stands_for[first or entry.id] += 1
        if first is None:
            stratum = _stratum(entry, how)
            sizes[stratum] += 1
            if stratum not in pools:
                pools[stratum] = _Pool(budget)
            pools[stratum].offer(case, how, stratum, seed)
    merged, depth = _merged(pools, budget, seed)
    counts: Counter[Stratum] = Counter()
    for stratum, size in sizes.items():
        counts[stratum[:depth]] += size
    drawn = [
        replace(each, stands_for=stands_for[each.entry.id])
        for stratum, size in allocation(counts, budget).items()
        for each in _drawn(merged[stratum], stratum, counts[stratum], size, hard_share)
    ]
    drawn.sort(key=lambda each: (-each.hardness.value, each.entry.id))
    return Sample(tuple(drawn), answers, sum(counts.values()), len(counts))


def allocation(sizes: Mapping[Stratum, int], budget: int) -> dict[Stratum, int]:
    """How many of each stratum: two at least, as the root of its size beyond that, no more than there are.

    budget: reaches for two of each.
    """
    parts = {stratum: min(size, _FEWEST, budget) for stratum, size in sizes.items()}
    while sum(parts.values()) < budget:
        open_ones = [stratum for stratum, size in sizes.items() if parts[stratum] < size]
        if not open_ones:
            break
        neediest = min(open_ones, key=lambda stratum: (parts[stratum] / math.sqrt(sizes[stratum]), stratum))
        parts[neediest] += 1
    return parts


def estimate_rate(drawn: Sequence[SampledRow], answers: int, holds: Mapping[str, bool]) -> Rate:
    """The share of all answers for which something holds, told by what is known of those drawn, by id.

    Horvitz and Thompson's estimator, unbiased where all that were drawn have been looked at. What has not been is
    taken for like the rest of its stratum that was drawn in the same way. answers: see `Sample`.
    """
    total = variance = 0.0
    for stratum, by_chance in {(each.stratum, each.by_chance) for each in drawn}:
        some = [each for each in drawn if (each.stratum, each.by_chance) == (stratum, by_chance)]
        said = [each.stands_for * holds[each.entry.id] for each in some if each.entry.id in holds]
        if not said:
            continue
        there = len(some) / some[0].chance  # distinct answers that these were drawn from
        mean = sum(said) / len(said)
        total += there * mean
        if len(said) > 1:
            spread = sum((value - mean) ** 2 for value in said) / (len(said) - 1)
            variance += there**2 * (1 - len(said) / there) * spread / len(said)
    return Rate(total / answers, math.sqrt(variance) / answers)


def write_sample(path: Path, drawn: Iterable[SampledRow]) -> int:
    """A CSV for people to fill in the column `label`: roadwork, none or unclear. Returns its rows."""
    rows = [_row(each) for each in drawn]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([row[name] for name in COLUMNS] for row in rows)
    draft.replace(path)
    return len(rows)


def _row(drawn: SampledRow) -> dict[str, object]:
    entry, verdict = drawn.entry, drawn.entry.verdict
    return {
        "id": entry.id,
        "label": "",
        "note": "",
        "request_id": _plain(verdict.request_id),
        "at": datetime.fromtimestamp(entry.at_s, UTC).isoformat(timespec="seconds"),
        "key": _plain(entry.key),
        "media": verdict.media,
        "sha256": entry.sha256,
        "kept": str(drawn.kept).lower(),
        "answer": verdict.label,
        "probability": f"{verdict.probability:.4f}",
        "exit_stage": verdict.exit.stage,
        "hardness": f"{drawn.hardness.value:.4f}",
        "reasons": str(drawn.hardness),
        "stratum": " / ".join(drawn.stratum) or "all",
        "drawn": _CHANCE if drawn.by_chance else _HARD,
        "chance": f"{drawn.chance:.6g}",
        "weight": f"{drawn.weight:.6g}",
    }


def _plain(text: str) -> str:
    """What a client wrote, so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _stratum(entry: PredictionRecord, how: ActiveLearningScore) -> Stratum:
    edges = (0.0, *BANDS, 1.0)
    band = sum(entry.verdict.probability >= edge for edge in BANDS)
    new = "novelty unknown" if math.isnan(how.novelty) else "novel" if how.novelty >= NOVEL else "usual"
    return entry.verdict.exit.stage, f"{edges[band]:g} to {edges[band + 1]:g}", new


def _light(entry: PredictionRecord) -> PredictionRecord:
    """Without what is large, for many are held."""
    return replace(entry, features=None, media=None, verdict=entry.verdict.model_copy(update={"stages": []}))


def _merged(pools: Mapping[Stratum, _Pool], budget: int, seed: int) -> tuple[dict[Stratum, _Pool], int]:
    """Strata as fine as the budget reaches for, and by how many of their parts they are told apart."""
    for depth in (3, 2, 1, 0):
        strata = {stratum[:depth] for stratum in pools}
        if 2 * _FEWEST * len(strata) <= budget or not depth:
            break
    merged: dict[Stratum, _Pool] = {stratum: _Pool(budget) for stratum in strata}
    for stratum, pool in pools.items():
        into = merged[stratum[:depth]]
        for each in pool.hard.ordered():
            into.hard.add(each, -each.hardness.value, stable_uniform(str(seed + 1), each.entry.id))
        for each in pool.lucky.ordered():
            into.lucky.add(each, stable_uniform(str(seed), each.entry.id))
    return merged, depth


def _drawn(pool: _Pool, stratum: Stratum, there: int, wanted: int, hard_share: float) -> list[SampledRow]:
    """The hardest, and lots among all others: with a chance that is known."""
    if wanted >= there:
        return [replace(each, stratum=stratum) for each in pool.hard.ordered()[:wanted]]
    by_lot = min(wanted, max(wanted - round(hard_share * wanted), _FEWEST))
    hard = pool.hard.ordered()[: wanted - by_lot]
    taken = {each.entry.id for each in hard}
    lucky = [each for each in pool.lucky.ordered() if each.entry.id not in taken][:by_lot]
    chance = by_lot / (there - len(hard))
    return [replace(each, stratum=stratum) for each in hard] + [
        replace(each, stratum=stratum, chance=chance) for each in lucky
    ]
