"""Metrics by camera from out-of-fold scores."""

import json
from pathlib import Path

from benchmarks.camera_folds import camera_folds, main
from roadwork_serve.testbed.real_pictures.train import OutOfFold, write_scores

SCORES = [
    OutOfFold("a", "street", "street", 0, -2.0, (-2.0,)),
    OutOfFold("b", "street", "street", 1, 0.3, (0.3,)),
    OutOfFold("c", "frc", "frc", 0, 1.0, (1.0,)),
]


def test_the_prior_shifts_the_probabilities_and_hard_negatives_are_apart() -> None:
    even, rare = camera_folds(SCORES, 0.5), camera_folds(SCORES, 0.2)
    assert even.by_source["street"].accuracy == 1.0
    assert rare.by_source["street"].accuracy == 0.5
    assert (even.overall.hard_negatives, even.overall.hard_false_positives, even.overall.plain_false_positives) == (
        1,
        1,
        0,
    )
    assert (even.macro.sources, even.macro.accuracy) == (2, 0.5)


def test_the_result_file_names_the_policy(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.jsonl", SCORES)
    assert main([str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["policy"] == "cpu-1"
    assert found["stage1"]["overall"]["n"] == 3
