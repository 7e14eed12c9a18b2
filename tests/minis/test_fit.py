"""Fitting a policy to rows that were made up, so that the right answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from roadwork_serve.cascade.evidence import sigmoid
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.learn.rows import Look, Row, write_rows
from roadwork_serve.learn.samples import About
from roadwork_serve.minis.fit import exit_band, fit_calibrator, fit_policy, main, narrowed, replay, told
from tests.learn.fakes import POLICY


def made_up_rows(count: int, seed: int = 0) -> list[Row]:
    """Stage 1 overstates its case twofold and is worth little on hard items; the VLM sees all, the reasoner more."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for index in range(count):
        kind = "clip" if index % 10 == 9 else "photo"
        label, hard = bool(rng.random() < 0.5), rng.random() < 0.3
        sign = 1 if label else -1
        backbone = 2 * rng.normal(0.3 * sign if hard else 5 * sign, 0.75 if hard else 3)
        said: dict[str, float | None] = {"backbone": backbone}
        if kind == "photo":
            said["signs"] = 4.0 * sign if hard and rng.random() < 0.2 else None
            said["vlm"] = rng.normal(3 * sign, 2.4)
            said["reasoner"] = rng.normal(4 * sign, 2.0)
        else:
            said["video"] = rng.normal(4 * sign, 2.0)
        likely = 0.9 if said.get("signs") else 0.2
        looks = [Look(s, v, None, "m", True, likely if s == "backbone" else None) for s, v in said.items()]
        about = About(f"{kind}-{index}", kind, label, seed=5_001_000_000 + index)
        rows.append(Row(about, 0.5, True, "backbone", "last_stage", False, tuple(looks)))
    return rows


def test_logistic_regression_finds_what_made_the_data() -> None:
    rng = np.random.default_rng(1)
    prior, said = rng.normal(0, 2, 40_000), rng.normal(0, 3, 40_000)
    truth = rng.random(40_000) < 1 / (1 + np.exp(-(0.7 * prior + 0.4 * said - 0.5)))
    fitted = fit_calibrator(prior, said, truth)
    assert (fitted.scale, fitted.carry, fitted.bias) == pytest.approx((0.4, 0.7, -0.5), abs=0.05)


def test_evidence_is_never_turned_round() -> None:
    rng = np.random.default_rng(2)
    prior, said = rng.normal(0, 2, 5000), rng.normal(0, 2, 5000)
    truth = rng.random(5000) < 1 / (1 + np.exp(-(0.8 * prior - 0.6 * said)))
    fitted = fit_calibrator(prior, said, truth)
    assert fitted.scale == 0
    assert fitted.carry == pytest.approx(0.6, abs=0.1)


def test_a_separable_sample_and_a_tiny_one_stay_finite() -> None:
    said = np.array([-30.0, -20.0, 25.0, 30.0])
    fitted = fit_calibrator(np.zeros(4), said, said > 0)
    assert 0.2 < fitted.scale < 5
    assert fit_calibrator(np.zeros(1), np.array([0.0]), np.array([True])).bias > 0


def test_band_is_as_narrow_as_the_error_allows() -> None:
    posterior = np.concatenate([np.linspace(0.001, 0.1, 100), np.linspace(0.9, 0.999, 100), [0.2, 0.3, 0.7, 0.8]])
    truth = np.concatenate([np.zeros(100), np.ones(100), [1, 0, 1, 0]]).astype(bool)
    low, high = exit_band(posterior, truth, 0.5, max_error=0.0)
    assert (np.sum(posterior < low), np.sum(posterior > high)) == (100, 100)
    low, high = exit_band(posterior, truth, 0.5, max_error=0.01)
    assert (np.sum(posterior < low), np.sum(posterior > high)) == (102, 102)
    assert low <= 0.5 <= high


def test_band_is_shut_where_all_are_wrong_or_too_few() -> None:
    wrong = np.repeat([0.1, 0.2, 0.9], 50)
    assert exit_band(wrong, wrong < 0.5, 0.5, 0.01) == (0.0, 1.0)
    assert exit_band(np.array([0.01, 0.02, 0.99]), np.array([False, False, True]), 0.5, 0.01) == (0.0, 1.0)


@pytest.mark.parametrize("allowed", [0.005, 0.02])
def test_no_stage_errs_more_among_those_that_leave_than_allowed(allowed: float) -> None:
    rows = made_up_rows(4000)
    policy = fit_policy(rows, POLICY, allowed, "fitted-1", pass_on=1.0)
    for kind in ("photo", "clip"):
        for step in policy.steps(kind)[:-1]:
            ways = [
                way for row in rows if row.about.kind == kind and (way := replay(row, policy)).left_at == step.stage
            ]
            for said in (True, False):
                left = [way.row.about.label for way in ways if way.done and (way.progress.posterior >= 0.5) == said]
                assert sum(label != said for label in left) <= allowed * len(left)


def test_a_fitted_policy_is_right_more_often_and_calibrated_on_rows_it_has_not_seen() -> None:
    policy = fit_policy(made_up_rows(4000), POLICY, 0.02, "fitted-1")
    fresh = [row for row in made_up_rows(4000, seed=1) if row.about.kind == "photo"]

    def right(rules: Policy) -> float:
        return float(np.mean([(replay(r, rules).progress.posterior >= 0.5) == r.about.label for r in fresh]))

    assert right(policy) > right(POLICY)
    assert right(policy) > 0.96
    stage1 = policy.photo[0].calibrate
    assert stage1.scale < 0.9  # it overstates its case
    looks = [(row.look("backbone"), row.about.label) for row in fresh]
    p = np.array([sigmoid(stage1.update(0.0, look.logit)) for look, _ in looks if look and look.logit is not None])
    assert np.mean(p) == pytest.approx(np.mean([label for _, label in looks]), abs=0.03)
    assert sum(replay(row, policy).left_at == "backbone" for row in fresh) > 0.4 * len(fresh)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_no_more_go_on_to_the_last_stage_than_may(share: float) -> None:
    rows = [row for row in made_up_rows(3000) if row.about.kind == "photo"]
    policy = fit_policy(rows, POLICY, 0.0, "fitted-1", pass_on=share)
    left = [replay(row, policy).left_at for row in rows]
    assert left.count("reasoner") <= share * (left.count("reasoner") + left.count("vlm")) + 1
    assert (left.count("reasoner") > 1) == (share > 0)


def test_the_band_keeps_the_nearest_to_the_threshold() -> None:
    posterior = np.linspace(0, 1, 101)
    assert narrowed(posterior, 0.5, 0.0, 1.0, 0.2) == (0.4, 0.6)
    assert narrowed(posterior, 0.5, 0.45, 1.0, 0.2) == (0.45, 0.6)


def test_what_neutral_signs_mean_is_learnt_and_the_gate_stays() -> None:
    rows = made_up_rows(1000)
    for index, row in enumerate(rows):
        seen = row.look("backbone")
        if row.about.kind == "photo" and not row.about.label and seen and index % 3 == 0:
            looks = [replace(look, logit=0.0) if look.stage == "signs" else look for look in row.looks]
            looks[0] = replace(seen, logit=0.0, words_likely=0.9)  # stage 1 expects words and knows nothing
            rows[index] = replace(row, looks=tuple(looks))
    signs = fit_policy(rows, POLICY, 0.02, "fitted-1").photo[1]
    assert signs.when_words_likely == 0.5
    assert signs.calibrate.scale > 0.5
    assert signs.calibrate.update(0.0, 0.0) < -1


def test_rows_without_every_stage_are_refused() -> None:
    rows = [replace(row, looks=row.looks[:2]) for row in made_up_rows(200)]
    with pytest.raises(ConfigError, match=r"vlm did not speak on photo-\d+; make the rows with .*--ask-everyone"):
        fit_policy(rows, POLICY, 0.0, "x")


def test_the_file_says_how_it_was_made_and_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made_up_rows(500)
    write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "policies" / "fitted.yaml"
    main(tmp_path / "rows.jsonl", "mini", out, "mini-7", 0.02, 0.25, "roadwork minis fit-policy")
    text = out.read_text()
    policy = Policy.from_mapping(yaml.safe_load(text))
    assert policy.version == "mini-7"
    assert policy.photo == fit_policy(rows, Policy.from_mapping(yaml.safe_load(text)), 0.02, "mini-7").photo
    for words in ("`roadwork minis fit-policy`", "500 items with the seeds 5001000000 to 5001000499", "no bound"):
        assert words in text
    assert all(f"# {line}" in text for line in told(rows, policy).splitlines())
    assert "mini-7" not in capsys.readouterr().out
