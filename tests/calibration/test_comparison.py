"""Promotion of a challenger policy over the champion."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from roadwork_serve.calibration.comparison import (
    Comparison,
    PromotionCriteria,
    Verdict,
    compare,
    compare_arms,
    compare_policies,
    overall,
    predictions_as_served,
    predictions_under,
)
from roadwork_serve.calibration.threshold_path import with_bands
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from tests.calibration.synthetic_rows import synthetic_rows
from tests.evaluation.fakes import POLICY

TWO = Policy.parse(
    {
        "version": "champion",
        "photo": [{"stage": "backbone", "exit": [0.0, 1.0]}, {"stage": "vlm", "exit": [0.5, 0.5]}],
        "clip": [{"stage": "backbone", "exit": [0.5, 0.5]}],
    }
)
EAGER = with_bands(TWO, "photo", [0.5, 0.5], [0.5, 0.5]).named("eager")  # every item exits at stage 1


def rows_with_errors(n: int, champion_wrong: int, challenger_wrong: int, group: str = "") -> list[EvaluationRow]:
    """Return photos on which stage 1 (policy EAGER) and both stages (policy TWO) make the given numbers of errors."""
    rows: list[EvaluationRow] = []
    for at in range(n):
        label = at % 2 == 0
        sign = 1.0 if label else -1.0
        first = sign * (-1.0 if at < challenger_wrong else 1.0)
        both = sign * (-1.0 if n - at <= champion_wrong else 1.0)
        records = (
            StageRecord("backbone", first, None, "m", True, ms=2.0),
            StageRecord("vlm", 9 * both, None, "m", True, ms=30.0),
        )
        metadata = SampleMetadata(f"photo-{at}", "photo", label, group=f"{group}{at // 50}" if group else "")
        rows.append(EvaluationRow(metadata, 0.5, True, "vlm", "last_stage", False, records))
    return rows


def decided(rows: list[EvaluationRow], margins: PromotionCriteria | None = None) -> Comparison:
    (result,) = compare_policies(rows, rows, TWO, EAGER, margins)
    return result


def test_a_cheaper_challenger_of_equal_accuracy_is_promoted_with_the_reason() -> None:
    result = decided(rows_with_errors(1000, 4, 4))
    assert result.verdict == "promote"
    assert (result.champion.ms, result.challenger.ms) == (32, 2)
    assert result.challenger.cost < result.champion.cost / 10
    assert "cheaper, and no worse by more than 1 points" in result.reason


@pytest.mark.parametrize(
    ("n", "champion_wrong", "challenger_wrong", "verdict"),
    [
        (1000, 0, 40, "keep"),  # cheaper, and surely worse
        (60, 0, 0, "keep"),  # cheaper and equal on every item, but 60 items are too few to prove it
        (600, 0, 0, "promote"),
        (600, 40, 0, "promote"),
    ],
)
def test_a_saving_is_accepted_only_if_the_loss_is_provably_small(
    n: int, champion_wrong: int, challenger_wrong: int, verdict: Verdict
) -> None:
    result = decided(rows_with_errors(n, champion_wrong, challenger_wrong))
    assert result.verdict == verdict
    assert (result.only_champion, result.only_challenger) == (challenger_wrong, champion_wrong)
    assert result.p_value == pytest.approx(binomtest(champion_wrong, champion_wrong + challenger_wrong or 1).pvalue)


def test_a_better_but_costlier_challenger_is_left_to_a_person() -> None:
    (result,) = compare_policies(rows := rows_with_errors(1000, 0, 60), rows, EAGER, TWO)
    assert result.low > 0 and result.verdict == "keep" and "say with --min-gain" in result.reason
    for gain, verdict in ((0.04, "promote"), (0.05, "keep")):
        (result,) = compare_policies(rows, rows, EAGER, TWO, PromotionCriteria(min_gain=gain))
        assert 0.04 < result.low < 0.05 and result.verdict == verdict


def test_a_better_challenger_at_the_same_cost_is_promoted() -> None:
    rows, better = rows_with_errors(1000, 0, 60), rows_with_errors(1000, 0, 10)
    (result,) = compare_policies(rows, better, EAGER, EAGER.named("other-head"))
    assert result.verdict == "promote" and "more accurate at no more cost" in result.reason
    assert (result.only_champion, result.only_challenger) == (0, 50)


def test_correlated_items_widen_the_interval() -> None:
    alone, grouped = decided(rows_with_errors(1000, 0, 50)), decided(rows_with_errors(1000, 0, 50, group="site-"))
    assert grouped.low < alone.low < alone.difference == grouped.difference == pytest.approx(-0.05)


def test_a_wider_margin_promotes_more() -> None:
    rows = rows_with_errors(1000, 0, 20)
    verdicts = [decided(rows, PromotionCriteria(max_accuracy_loss=margin)).verdict for margin in (0.01, 0.05)]
    assert verdicts == ["keep", "promote"]


def test_rows_of_both_sides_are_matched_by_name_instead_of_position() -> None:
    rows = rows_with_errors(300, 0, 30)
    (straight,) = compare_policies(rows, rows_with_errors(300, 0, 30), TWO, EAGER)
    (shuffled,) = compare_policies(rows, rows_with_errors(300, 0, 30)[::-1], TWO, EAGER)
    assert straight == shuffled


def test_sides_with_different_items_are_not_paired() -> None:
    rows = rows_with_errors(100, 0, 0)
    with pytest.raises(ConfigError, match="hold different items"):
        compare_policies(rows, rows[1:], TWO, EAGER)
    turned = [replace(row, metadata=replace(row.metadata, label=not row.metadata.label)) for row in rows]
    with pytest.raises(ConfigError, match="different labels for an item"):
        compare_policies(rows, turned, TWO, EAGER)


def test_replayed_predictions_match_the_cascade() -> None:
    rows = synthetic_rows(400)
    for kind in ("photo", "clip"):
        mine = [row for row in rows if row.metadata.kind == kind]
        ways = [replay(row, POLICY).progress.posterior for row in mine]
        judged = predictions_under(rows, POLICY, kind)
        assert judged.probability == pytest.approx(np.array(ways))
        assert judged.correct.tolist() == [(p >= 0.5) == row.metadata.label for p, row in zip(ways, mine, strict=True)]


def test_served_predictions_are_used_unchanged() -> None:
    records = (StageRecord("backbone", 1.0, 0.7, "m", True, ms=3.0), StageRecord("vlm", 1.0, None, "m", True, ms=40.0))
    row = EvaluationRow(SampleMetadata("a", "photo", False), 0.7, True, "backbone", "above_band", False, records)
    judged = predictions_as_served([row], "arm a", "photo")
    assert (judged.correct.tolist(), judged.probability.tolist(), judged.ms.tolist()) == ([False], [0.7], [3.0])


def arm(n: int, wrong: int, first: int = 0) -> list[EvaluationRow]:
    records = (StageRecord("backbone", 1.0, 0.7, "m", True),)
    return [
        EvaluationRow(
            SampleMetadata(f"p{first + at}", "photo", at >= wrong), 0.9, True, "backbone", "above_band", False, records
        )
        for at in range(n)
    ]


def test_arms_with_items_of_their_own_are_compared_unpaired() -> None:
    (result,) = compare_arms(arm(2000, 300), arm(500, 20, 5000), ("arm a", "arm b"))
    assert not result.paired and (result.champion.n, result.challenger.n) == (2000, 500)
    assert result.difference == pytest.approx(0.15 - 0.04) and 0 < result.low < result.difference < result.high
    assert result.p_value < 1e-6 and result.verdict == "promote"
    assert compare_arms(arm(20, 0), [], ("arm a", "arm b")) == []


def test_pairing_the_same_items_narrows_the_interval() -> None:
    champion, challenger = (predictions_under(rows_with_errors(800, 0, wrong), EAGER, "photo") for wrong in (100, 104))
    paired = compare(champion, challenger, "photo", paired=True)
    unpaired = compare(champion, challenger, "photo", paired=False)
    assert unpaired.low < paired.low < paired.difference


def test_a_gain_on_one_media_type_does_not_offset_a_loss_on_another() -> None:
    good = decided(rows_with_errors(1000, 4, 4))
    bad = replace(decided(rows_with_errors(1000, 0, 40)), media="clip")
    idle = replace(good, media="clip", low=0.0, verdict="keep", reason="neither")
    assert overall([good])[0] == overall([good, idle])[0] == "promote"
    assert overall([good, bad])[0] == overall([idle])[0] == "keep"
    assert overall([good, bad])[1].startswith("clips: ")


def test_an_unchanged_media_type_is_not_compared() -> None:
    rows = synthetic_rows(300)
    changed = with_bands(POLICY, "photo", [0.4] * 4, [0.6] * 4)
    assert [each.media for each in compare_policies(rows, rows, POLICY, changed)] == ["photo"]
    with pytest.raises(ConfigError, match="identical policies"):
        overall(compare_policies(rows, rows, POLICY, POLICY.named("x")))


def test_missing_labels_are_an_error() -> None:
    empty = predictions_as_served([], "a", "photo")
    with pytest.raises(ConfigError, match="no labelled photos"):
        compare(empty, empty, "photo", paired=True)
