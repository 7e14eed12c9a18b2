import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.evaluation.by_source import (
    ScoredSet,
    set_metrics,
    source_breakdown,
    source_report,
)
from roadwork_serve.evaluation.rows import EvaluationRow
from tests.evaluation.fakes import POLICY, row


def scored(*items: tuple[bool, float, str, bool]) -> ScoredSet:
    """Return the set of items (label, probability, source, hard), with labels predicted at 0.5."""
    probability = np.array([p for _, p, _, _ in items], dtype=np.float64)
    return ScoredSet(
        truth=np.array([label for label, _, _, _ in items], dtype=bool),
        probability=probability,
        predicted=probability >= 0.5,
        source=tuple(source for _, _, source, _ in items),
        hard=np.array([hard for _, _, _, hard in items], dtype=bool),
    )


# Of ten items: the street has both classes, the cones are hard negatives, the yard is positive alone.
ITEMS = scored(
    (True, 0.95, "street", False),
    (True, 0.05, "street", False),  # confident and wrong
    (False, 0.92, "street", False),  # confident and wrong
    (False, 0.02, "street", False),
    (False, 0.30, "street", False),
    (False, 0.20, "street", False),
    (False, 0.60, "cones", True),
    (False, 0.40, "cones", True),
    (True, 0.90, "yard", False),  # exactly 0.9 is not confident
    (True, 0.70, "yard", True),  # hard negatives are negatives
)


def test_metrics_of_a_set_by_hand() -> None:
    found = set_metrics(ITEMS)
    assert (found.n, found.positives, found.hard_negatives) == (10, 4, 2)
    assert found.accuracy == 7 / 10
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found.auc == pytest.approx((6 + 1 + 5 + 5) / 24)  # negatives below 0.95, 0.05, 0.90 and 0.70
    assert found.mcc == pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))
    assert found.hard_false_positives == 1 / 2
    assert found.plain_false_positives == 1 / 4
    assert (found.confident, found.confident_errors) == (4, 2 / 4)


def test_the_macro_average_counts_each_source_once_and_needs_both_classes_where_a_metric_does() -> None:
    found = source_breakdown(ITEMS)
    assert list(found.by_source) == ["cones", "street", "yard"]
    assert [part.accuracy for part in found.by_source.values()] == [1 / 2, 4 / 6, 1]
    assert (found.macro.sources, found.macro.two_class_sources) == (3, 1)
    assert found.macro.accuracy == pytest.approx((1 / 2 + 4 / 6 + 1) / 3)
    assert found.macro.balanced_accuracy == found.by_source["street"].balanced_accuracy == (1 / 2 + 3 / 4) / 2
    assert found.macro.auc == found.by_source["street"].auc == (4 + 1) / 8


def test_what_a_set_does_not_define_is_nan() -> None:
    only = set_metrics(ITEMS.of_source("yard"))
    assert (only.n, only.positives, only.accuracy, only.hard_negatives, only.confident) == (2, 2, 1, 0, 0)
    undefined = (only.balanced_accuracy, only.auc, only.hard_false_positives, only.plain_false_positives)
    assert all(map(math.isnan, (*undefined, only.confident_errors)))
    nothing = source_breakdown(scored())
    assert (nothing.overall.n, nothing.macro.sources, nothing.by_source) == (0, 0, {})
    assert math.isnan(nothing.overall.accuracy) and math.isnan(nothing.macro.accuracy)


items = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1), st.sampled_from(["a", "b", "c"]), st.booleans()), min_size=1, max_size=30
)


@given(items)
def test_sources_add_up_to_the_whole(found: list[tuple[bool, float, str, bool]]) -> None:
    breakdown = source_breakdown(scored(*found))
    parts = breakdown.by_source.values()
    for count in ("n", "positives", "hard_negatives", "confident"):
        assert sum(getattr(part, count) for part in parts) == getattr(breakdown.overall, count)
    assert sum(part.n * part.accuracy for part in parts) == pytest.approx(
        breakdown.overall.n * breakdown.overall.accuracy
    )
    assert min(p.accuracy for p in parts) - 1e-9 <= breakdown.macro.accuracy <= max(p.accuracy for p in parts) + 1e-9


def photo(name: str, label: bool, p: float, source: str, stage1: float | None = None, **about: object) -> EvaluationRow:
    records: dict[str, tuple[float | None, float | None]] = {"backbone": (0.0, p if stage1 is None else stage1)}
    kind = "clip" if name.endswith(".mp4") else "photo"
    return row(
        probability=p,
        records=records,
        metadata=SampleMetadata(name, kind, label, source=source, **about),  # type: ignore[arg-type]
    )


def test_stage_1_and_the_cascade_are_compared_on_the_same_photos() -> None:
    rows = [
        photo("a", True, 0.8, "town", stage1=0.3),
        photo("b", False, 0.7, "town", hard_negative=True),
        photo("c", True, 0.1, "town", ignore=True),
    ]
    report = source_report(rows, POLICY, TrainingData())
    assert report is not None and report.seen_in_training is None
    assert (report.photos.stage1.overall.accuracy, report.photos.cascade.overall.accuracy) == (0, 0.5)
    assert report.photos.cascade.overall.n == 2
    assert report.photos.hard_negative_false_positives == ("b",)


def test_photos_that_the_weights_declare_are_reported_apart() -> None:
    rows = [
        photo("a", True, 0.9, "trained"),
        photo("b", False, 0.9, "fresh"),
        photo("c", False, 0.2, "fresh", group="clip_a"),
        photo("d.mp4", True, 0.9, "", group="clip_a"),
        photo("e.mp4", False, 0.8, "", group="clip_b", ignore=True),
    ]
    seen = TrainingData(sources=frozenset({"trained"}), groups=frozenset({"clip_a"}))
    report = source_report(rows, POLICY, seen)
    assert report is not None and report.seen_in_training is not None
    assert [(name, part.n) for name, part in report.photos.cascade.by_source.items()] == [("fresh", 1)]
    apart = report.seen_in_training.cascade.by_source
    assert {name: part.n for name, part in apart.items()} == {"trained": 1, "fresh": 1}
    assert [(clip.name, clip.label, clip.seen_in_training) for clip in report.clips] == [
        ("d.mp4", True, True),
        ("e.mp4", None, False),
    ]


def test_without_sources_there_is_no_report() -> None:
    assert source_report([photo("a", True, 0.9, "")], POLICY, TrainingData()) is None
