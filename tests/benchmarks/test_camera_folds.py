"""Metrics by camera from out-of-fold scores."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.camera_folds import camera_folds, main
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.testbed.real_pictures.train import OutOfFold, write_scores

SCORES = [
    OutOfFold("a", "street", "street", 0, -2.0, (-2.0,)),
    OutOfFold("b", "street", "street", 1, 0.3, (0.3,)),
    OutOfFold("c", "frc", "frc", 0, 1.0, (1.0,)),
]


def test_the_prior_shifts_the_probabilities_and_hard_negatives_are_apart() -> None:
    even, rare = (camera_folds(SCORES, _policy(prior)) for prior in (0.5, 0.2))
    assert even.by_source["street"].accuracy == 1.0
    assert rare.by_source["street"].accuracy == 0.5
    assert (even.overall.hard_negatives, even.overall.hard_false_positives, even.overall.plain_false_positives) == (
        1,
        1,
        0,
    )
    assert (even.macro.sources, even.macro.accuracy) == (2, 0.5)


def _policy(prior: float) -> Policy:
    return load_policy("cpu").model_copy(update={"prior": prior})


def test_the_closer_look_decides_what_stage_1_leaves_open() -> None:
    scores = [replace(score, closeup=8.0 if score.label else -8.0) for score in SCORES]
    found = camera_folds(scores, _policy(0.5), closer=True)
    assert found.overall.accuracy == 1.0
    sure = [replace(SCORES[0], logit=-7.0, closeup=8.0), *SCORES[1:]]  # exits before
    assert camera_folds(sure, _policy(0.5), closer=True).by_source["street"].accuracy == 1.0


def test_the_result_file_names_the_policy(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.jsonl", SCORES)
    assert main([str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["policy"] == load_policy("cpu").version
    assert found["stage1"]["overall"]["n"] == 3 and "with_closeup" not in found
    write_scores(tmp_path / "scores.jsonl", [replace(SCORES[1], closeup=1.0), *SCORES])
    main([str(tmp_path / "scores.jsonl"), "--out", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["with_closeup"]["overall"]["n"] == 1
