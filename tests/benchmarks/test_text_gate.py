"""Verdicts are replayed with the sign reader asked about fewer photos, from predictions made on all of them."""

from benchmarks.peers.ours import two_stages
from benchmarks.text_gate import GATES, rows_of
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord


def photo(name: str, label: bool, stage1: float, text: float, sign: float | None = None) -> EvaluationRow:
    """Return a photo on which stage 1 is unsure, with the log-odds of both stages. A sure one has no second."""
    records = [StageRecord("backbone", stage1, 0.5, "", False, text)]
    if abs(stage1) < 2.19:  # the band ends at 0.1 and 0.9
        records.append(StageRecord("signs", sign, 0.5, "", False))
    return EvaluationRow(SampleMetadata(name, "photo", label), 0.5, True, "signs", "last_stage", False, tuple(records))


def test_photos_without_likely_text_keep_the_label_of_stage_1() -> None:
    rows = [
        photo("sure", True, 4.0, 0.0),
        photo("no text, and none expected", False, -1.0, 0.1),
        photo("a sign that is expected", True, -1.0, 0.45, sign=4.0),
        photo("a sign that is not expected", True, -1.0, 0.25, sign=4.0),
        photo("a sign that speaks of nothing", False, -1.0, 0.9, sign=0.0),
    ]
    found = list(rows_of("some", rows, Policy.parse(two_stages(None))))
    assert [row.min_text_probability for row in found] == list(GATES)
    assert {(row.n, row.positives, row.unsure) for row in found} == {(5, 3, 4)}
    assert [row.asked for row in found] == [4, 3, 2, 2, 1, 1]
    assert [row.telling for row in found] == [2, 2, 1, 1, 0, 0]
    assert [row.accuracy for row in found] == [1.0, 1.0, 0.8, 0.8, 0.6, 0.6]
    assert [(row.changed, row.changed_to_right) for row in found] == [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (2, 0)]
