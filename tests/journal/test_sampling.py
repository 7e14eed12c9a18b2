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
    """Answers of three stages and all scores; `repeats` of the files are there twice."""
    rng = np.random.default_rng(11)
    cases = []
    for number in range(count):
        probability = float(rng.beta(0.4, 0.4))
        stage = ("backbone", "backbone", "backbone", "vlm", "reasoner")[number % 5]
        fields = {"exit": Exit(stage=stage, reason="last_stage")}
        cases.append(JournalRow(entry(f"{number}", probability, features=None, verdict=fields)))
    for number in range(repeats):
        first = cases[number].entry
        fields = {"exit": first.verdict.exit}
        again = entry(f"again{number}", first.verdict.probability, features=None, sha256=first.sha256, verdict=fields)
        cases.append(JournalRow(again))
    return [(case, informativeness(case)) for case in cases]


POPULATION = population(300, repeats=60)


def wrong(case: JournalRow) -> bool:
    """Mostly where it was close: 1 in 8 of all."""
    number = int(case.entry.sha256[:6], 16)
    return number % 100 < 100 * (1 - 2 * abs(case.entry.verdict.probability - 0.5)) ** 2


def test_a_rate_told_from_the_sample_is_right_on_average_and_its_error_is_what_it_says() -> None:
    truth = np.mean([wrong(case) for case, _ in POPULATION])
    holds = {case.entry.id: wrong(case) for case, _ in POPULATION}
    told, naive = [], []
    for seed in range(300):
        found = sample(POPULATION, 60, seed=seed)
        told.append(estimate_rate(found.drawn, found.answers, holds))
        naive.append(np.mean([holds[each.entry.id] for each in found.drawn]))
    values = np.array([each.value for each in told])
    errors = np.array([each.error for each in told])
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
    assert abs(np.mean(naive) - truth) > 0.05  # the hardest are wrong more often: to count them alike would mislead
    assert 0.8 < np.sqrt((errors**2).mean()) / values.std() < 1.25


def test_each_is_drawn_as_often_as_its_chance_says() -> None:
    drawn: Counter[str] = Counter()
    chances: dict[str, float] = {}
    for seed in range(400):
        for each in sample(POPULATION, 40, seed=seed).drawn:
            drawn[each.entry.id] += 1
            chances[each.entry.id] = each.chance
    surely = [name for name, chance in chances.items() if chance == 1]
    assert surely and all(drawn[name] == 400 for name in surely)
    off = [(drawn[name] / 400 - chance) / np.sqrt(chance * (1 - chance) / 400) for name, chance in chances.items()
           if chance < 1]  # fmt: skip
    assert len(off) > 200 and abs(np.mean(off)) < 0.3 and 0.8 < np.std(off) < 1.2


def test_weights_add_up_to_the_traffic() -> None:
    found = sample(POPULATION, 60)
    assert (found.answers, found.distinct) == (360, 300)
    assert estimate_rate(
        found.drawn, found.answers, {each.entry.id: True for each in found.drawn}
    ).value == pytest.approx(1, abs=0.15)
    everything = sample(POPULATION, 1000)
    assert sum(each.weight for each in everything.drawn) == 360
    assert {each.chance for each in everything.drawn} == {1.0}


def test_part_is_the_hardest_of_each_stratum_and_part_is_lots() -> None:
    found = sample(POPULATION, 100, hard_share=0.5)
    by_stratum: dict[tuple[str, ...], list[float]] = {}
    assert len(found.drawn) == 100
    assert 35 <= sum(each.by_chance for each in found.drawn) <= 65
    for each in found.drawn:
        by_stratum.setdefault(each.stratum, []).append(0 if each.by_chance else each.hardness.value)
    assert len(by_stratum) == found.strata == 12
    assert {stage for stage, *_ in by_stratum} == {"backbone", "vlm", "reasoner"}
    for stratum, hard in by_stratum.items():
        low, high = map(float, stratum[1].split(" to "))
        there = sorted(
            how.value
            for case, how in POPULATION[:300]
            if case.entry.verdict.exit.stage == stratum[0] and low <= case.entry.verdict.probability < high
        )[::-1]
        mine = sorted((value for value in hard if value), reverse=True)
        assert mine == there[: len(mine)]


@pytest.mark.parametrize(("hard_share", "hardest"), [(0.0, 0), (1.0, 12)])
def test_all_may_be_lots_and_some_always_are(hard_share: float, hardest: int) -> None:
    found = sample(POPULATION, 48, hard_share)
    assert len(found.drawn) == 48
    assert sum(each.by_chance for each in found.drawn) == (48 if not hard_share else 2 * found.strata)


@pytest.mark.parametrize(("budget", "strata"), [(48, 12), (47, 3), (20, 3), (11, 1), (1, 1)])
def test_strata_are_as_fine_as_the_budget_reaches_for(budget: int, strata: int) -> None:
    found = sample(POPULATION, budget)
    assert len(found.drawn) == budget
    assert found.strata == strata


def test_the_same_seed_draws_the_same_in_whatever_order_answers_come() -> None:
    distinct = POPULATION[:300]
    names = [each.entry.id for each in sample(distinct, 50, seed=3).drawn]
    assert names == [each.entry.id for each in sample(distinct[::-1], 50, seed=3).drawn]
    assert set(names) != {each.entry.id for each in sample(distinct, 50, seed=4).drawn}


def test_what_shows_the_same_stands_behind_one_unless_it_was_answered_otherwise() -> None:
    cases = [
        JournalRow(entry("a", 0.9, sha256="x")),
        JournalRow(entry("b", 0.8, sha256="x")),
        JournalRow(entry("c", 0.2, sha256="x")),
    ]
    found = sample([(case, informativeness(case)) for case in cases], 10)
    assert {each.entry.id: each.stands_for for each in found.drawn} == {"a": 2, "c": 1}


@given(
    st.dictionaries(st.sampled_from([("a",), ("b",), ("c",), ("d",)]), st.integers(1, 500), min_size=1),
    st.integers(8, 300),
)
def test_a_budget_is_spent_as_far_as_there_is_something_to_draw(sizes: dict, budget: int) -> None:
    parts = allocation(sizes, budget)
    assert sum(parts.values()) == min(budget, sum(sizes.values()))
    assert all(min(2, sizes[stratum]) <= part <= sizes[stratum] for stratum, part in parts.items())


@pytest.mark.parametrize(("budget", "share"), [(0, 0.5), (5, 1.5), (5, -0.1)])
def test_nothing_is_not_drawn(budget: int, share: float) -> None:
    with pytest.raises(ConfigError, match="draw at least one"):
        sample(POPULATION, budget, share)


def test_the_file_is_one_to_fill_in_and_no_spreadsheet_runs_it(tmp_path: Path) -> None:
    case = JournalRow(entry("a", 0.4, key="=cmd()", verdict={"request_id": "@x"}), kept=True)
    assert write_sample(tmp_path / "new" / "sample.csv", sample([(case, informativeness(case))], 5).drawn) == 1
    (row,) = csv.DictReader((tmp_path / "new" / "sample.csv").read_text().splitlines())
    assert (row["id"], row["label"], row["note"], row["kept"], row["answer"]) == ("a", "", "", "true", "none")
    assert (row["key"], row["request_id"]) == ("'=cmd()", "'@x")
    assert (row["chance"], row["weight"], row["drawn"], row["reasons"]) == ("1", "1", "hard", "margin 0.80")
