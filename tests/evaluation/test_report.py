import json
import math
from pathlib import Path

import pytest

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.metrics import Confusion
from roadwork_serve.evaluation.report import evaluate, write_report
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.run import Failure
from tests.evaluation.fakes import POLICY, row


def item(
    name: str,
    label: bool,
    needs: str,
    exit_stage: str,
    records: dict[str, tuple[float | None, float | None]],
    probability: float,
) -> EvaluationRow:
    kind = "clip" if "video" in records else "photo"
    return row(name, label, probability, exit_stage, records, SampleMetadata(name, kind, label, needs=needs))


# Stage 1 is wrong on b, which the VLM corrects; a exits at stage 1, where the VLM would have been wrong.
STILLS = [
    item("a", True, "backbone", "backbone", {"backbone": (3.0, 0.95), "vlm": (-1.0, None)}, 0.95),
    item("b", False, "vlm", "vlm", {"backbone": (0.4, 0.6), "signs": (None, 0.6), "vlm": (-3.4, 0.05)}, 0.05),
    item("c", False, "backbone", "backbone", {"backbone": (-3.9, 0.02), "vlm": (-2.0, None)}, 0.02),
    item("d", True, "vlm", "reasoner", {"backbone": (0.0, 0.5), "vlm": (0.5, 0.6), "reasoner": (-1.3, 0.3)}, 0.3),
]
CLIPS = [item("e", True, "video", "video", {"backbone": (0.0, 0.5), "video": (1.4, 0.8)}, 0.8)]
UNCLEAR = row("f", False, 0.99, metadata=SampleMetadata("f", "photo", False, ignore=True))


def test_accuracies_of_the_cascade_and_of_its_parts() -> None:
    report = evaluate([*STILLS, *CLIPS, UNCLEAR], [], POLICY, "mini")
    assert (report.n, report.n_stills, report.n_clips) == (5, 4, 1)
    assert report.accuracy == 3 / 4  # d is wrong
    assert report.accuracy_clips == 1
    assert report.accuracy_stage1 == 3 / 4  # stage 1 is wrong on b; d at exactly 0.5 counts as roadwork, which is right
    assert report.accuracy_vlm_all == 3 / 4  # the VLM would be wrong on a
    assert report.confusion == Confusion(tp=1, fp=0, fn=1, tn=2)
    assert report.auc == 1


def test_exits_and_needs() -> None:
    report = evaluate([*STILLS, *CLIPS], [], POLICY, "mini")
    assert report.exit_mix == {"backbone": 0.5, "signs": 0, "vlm": 0.25, "reasoner": 0.25}
    assert report.exit_mix_clips == {"backbone": 0, "video": 1}
    assert list(report.by_needs) == ["backbone", "vlm"]
    assert (report.by_needs["vlm"].n, report.by_needs["vlm"].accuracy) == (2, 0.5)
    assert report.by_needs["backbone"].exit_mix["backbone"] == 1


def test_compute_counts_the_stages_of_the_cascade_and_no_comparison_runs() -> None:
    report = evaluate([*STILLS, *CLIPS], [], POLICY, "mini")
    spent = 4 * 126 + 1741 + 2 * 5600 + 9542  # stage 1 on all, signs on b, the VLM on b and d, the reasoner on d
    assert report.gflops_per_still == pytest.approx(spent / 4)
    assert report.flops_ratio == pytest.approx(4 * 5600 / spent)
    assert report.flops_ratio_clips == pytest.approx(16070 / (1008 + 16070))


def test_the_json_has_all_fields_and_null_for_undefined_metrics(tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.json"
    write_report(
        path, evaluate(STILLS, [Failure("g", "broken")], POLICY, "mini", seed=9001, command="roadwork evaluate")
    )
    report = json.loads(path.read_text())
    for key in (
        "accuracy accuracy_clips accuracy_stage1 accuracy_vlm_all mcc auc brier ece reward exit_mix exit_mix_clips "
        "flops_ratio n by_needs confusion profile policy_version environment seed command"
    ).split():
        assert key in report
    assert report["accuracy_clips"] is None
    assert report["accuracy"] == 0.75
    assert report["failed"] == [{"name": "g", "message": "broken"}]
    assert {"python", "torch", "cpu", "date"} <= set(report["environment"])
    assert report["models"]["vlm"] == "model-vlm (miniature)"


def test_an_empty_run_gives_an_empty_report() -> None:
    report = evaluate([], [], POLICY, "mini")
    assert report.n == 0
    assert math.isnan(report.accuracy) and math.isnan(report.flops_ratio)
