import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.active_learning import ActiveLearningScore, informativeness
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.sampling import allocation, estimate_rate, sample, write_sample
from roadwork_serve.schema import Exit
from tests.journal.made import entry

Judged = list[tuple[JournalRow, ActiveLearningScore]]


def population(count: int, repeats: int = 0) -> Judged:
    """Return entries of three stages with all scores; `repeats` of the files are duplicated."""
    rng = np.random.default_rng(11)
    cases = []
    for number in range(count):
        probability = float(rng.beta(0.4, 0.4))
        stage = ("backbone", "backbone", "backbone", "vlm", "reasoner")[number % 5]
        fields = {"exit": Exit(stage=stage, reason="last_stage")}
        cases.append(JournalRow(entry(f"{number}", probability, features=None, verdict=fields)))
    for number in range(repeats):
        first = cases[number].prediction
        fields = {"exit": first.verdict.exit}
        again = entry(f"again{number}", first.verdict.probability, features=None, sha256=first.sha256, verdict=fields)
        cases.append(JournalRow(again))
    return [(case, informativeness(case)) for case in cases]


POPULATION = population(300, repeats=60)


def wrong(case: JournalRow) -> bool:
    """Return whether the label is wrong, mostly near the threshold: 1 in 8 of all."""
    number = int(case.prediction.sha256[:6], 16)
    return number % 100 < 100 * (1 - 2 * abs(case.prediction.verdict.probability - 0.5)) ** 2


def test_a_rate_estimated_from_the_sample_is_unbiased_with_a_correct_standard_error() -> None:
    truth = np.mean([wrong(case) for case, _ in POPULATION])
    holds = {case.prediction.id: wrong(case) for case, _ in POPULATION}
    estimates, naive = [], []
    for seed in range(300):
        found = sample(POPULATION, 60, seed=seed)
        estimates.append(estimate_rate(found.rows, found.predictions, holds))
        naive.append(np.mean([holds[each.prediction.id] for each in found.rows]))
    values = np.array([each.value for each in estimates])
    errors = np.array([each.standard_error for each in estimates])
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
    assert abs(np.mean(naive) - truth) > 0.05  # informative items are wrong more often: an unweighted mean is biased
    assert 0.8 < np.sqrt((errors**2).mean()) / values.std() < 1.25


def test_items_are_sampled_with_their_inclusion_probability() -> None:
    drawn: Counter[str] = Counter()
    chances: dict[str, float] = {}
    for seed in range(400):
        for each in sample(POPULATION, 40, seed=seed).rows:
            drawn[each.prediction.id] += 1
            chances[each.prediction.id] = each.inclusion_probability
    surely = [name for name, chance in chances.items() if chance == 1]
    assert surely and all(drawn[name] == 400 for name in surely)
    off = [(drawn[name] / 400 - chance) / np.sqrt(chance * (1 - chance) / 400) for name, chance in chances.items()
           if chance < 1]  # fmt: skip
    assert len(off) > 200 and abs(np.mean(off)) < 0.3 and 0.8 < np.std(off) < 1.2


def test_weights_sum_to_the_traffic() -> None:
    found = sample(POPULATION, 60)
    assert (found.predictions, found.distinct) == (360, 300)
    assert estimate_rate(
        found.rows, found.predictions, {each.prediction.id: True for each in found.rows}
    ).value == pytest.approx(1, abs=0.15)
    everything = sample(POPULATION, 1000)
    assert sum(each.weight for each in everything.rows) == 360
    assert {each.inclusion_probability for each in everything.rows} == {1.0}


def test_a_sample_mixes_the_most_informative_and_random_items_of_each_stratum() -> None:
    found = sample(POPULATION, 100, informative_share=0.5)
    by_stratum: dict[tuple[str, ...], list[float]] = {}
    assert len(found.rows) == 100
    assert 35 <= sum(each.is_random for each in found.rows) <= 65
    for each in found.rows:
        by_stratum.setdefault(each.stratum, []).append(0 if each.is_random else each.score.value)
    assert len(by_stratum) == found.strata == 12
    assert {stage for stage, *_ in by_stratum} == {"backbone", "vlm", "reasoner"}
    for stratum, hard in by_stratum.items():
        low, high = map(float, stratum[1].split(" to "))
        there = sorted(
            how.value
            for case, how in POPULATION[:300]
            if case.prediction.verdict.exit.stage == stratum[0] and low <= case.prediction.verdict.probability < high
        )[::-1]
        mine = sorted((value for value in hard if value), reverse=True)
        assert mine == there[: len(mine)]


@pytest.mark.parametrize(("informative_share", "hardest"), [(0.0, 0), (1.0, 12)])
def test_some_items_are_always_random_and_all_may_be(informative_share: float, hardest: int) -> None:
    found = sample(POPULATION, 48, informative_share)
    assert len(found.rows) == 48
    assert sum(each.is_random for each in found.rows) == (48 if not informative_share else 2 * found.strata)


@pytest.mark.parametrize(("budget", "strata"), [(48, 12), (47, 3), (20, 3), (11, 1), (1, 1)])
def test_strata_are_as_fine_as_the_budget_allows(budget: int, strata: int) -> None:
    found = sample(POPULATION, budget)
    assert len(found.rows) == budget
    assert found.strata == strata


def test_the_same_seed_draws_the_same_sample_in_any_order() -> None:
    distinct = POPULATION[:300]
    names = [each.prediction.id for each in sample(distinct, 50, seed=3).rows]
    assert names == [each.prediction.id for each in sample(distinct[::-1], 50, seed=3).rows]
    assert set(names) != {each.prediction.id for each in sample(distinct, 50, seed=4).rows}


def test_duplicates_are_merged_unless_their_labels_differ() -> None:
    cases = [
        JournalRow(entry("a", 0.9, sha256="x")),
        JournalRow(entry("b", 0.8, sha256="x")),
        JournalRow(entry("c", 0.2, sha256="x")),
    ]
    found = sample([(case, informativeness(case)) for case in cases], 10)
    assert {each.prediction.id: each.duplicates for each in found.rows} == {"a": 2, "c": 1}


@given(
    st.dictionaries(st.sampled_from([("a",), ("b",), ("c",), ("d",)]), st.integers(1, 500), min_size=1),
    st.integers(8, 300),
)
def test_the_budget_is_spent_as_far_as_the_strata_allow(sizes: dict, budget: int) -> None:
    parts = allocation(sizes, budget)
    assert sum(parts.values()) == min(budget, sum(sizes.values()))
    assert all(min(2, sizes[stratum]) <= part <= sizes[stratum] for stratum, part in parts.items())


@pytest.mark.parametrize(("budget", "share"), [(0, 0.5), (5, 1.5), (5, -0.1)])
def test_invalid_sample_sizes_are_rejected(budget: int, share: float) -> None:
    with pytest.raises(ConfigError, match="draw at least one"):
        sample(POPULATION, budget, share)


def test_the_file_has_a_column_to_fill_in_and_no_spreadsheet_formulas(tmp_path: Path) -> None:
    case = JournalRow(entry("a", 0.4, key="=cmd()", verdict={"request_id": "@x"}), media_available=True)
    assert write_sample(tmp_path / "new" / "sample.csv", sample([(case, informativeness(case))], 5).rows) == 1
    (row,) = csv.DictReader((tmp_path / "new" / "sample.csv").read_text().splitlines())
    assert (row["id"], row["label"], row["note"], row["media_available"], row["predicted_label"]) == (
        "a",
        "",
        "",
        "true",
        "none",
    )
    assert (row["key"], row["request_id"]) == ("'=cmd()", "'@x")
    assert (row["inclusion_probability"], row["weight"], row["selection"]) == ("1", "1", "informative")
    assert row["reasons"] == "margin 0.80"
