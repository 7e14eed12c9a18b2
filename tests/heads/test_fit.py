import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.feature_set import concatenate
from roadwork_serve.heads.fit import HeadTraining, class_weights, fit_head, predict_logits
from roadwork_serve.heads.head_metrics import head_metrics, items
from tests.heads.feature_sets import clouds

QUICK = HeadTraining(hidden=16, epochs=20, patience=6, batch=64, lr=0.02)


def _same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_it_learns_separable_data() -> None:
    fit = fit_head(clouds(), QUICK)
    assert fit.val_metrics.accuracy > 0.88
    other = clouds(seed=9)
    assert head_metrics(other, predict_logits(fit.head, other)).auc > 0.95


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    settings = replace(QUICK, mixup=0.4, dropout=0.3, label_smoothing=0.05)
    one = fit_head(clouds(has_text=True), settings)
    torch.manual_seed(5)
    two = fit_head(clouds(has_text=True), settings)
    other = fit_head(clouds(has_text=True), replace(settings, seed=73))
    assert _same(one.head, two.head)
    assert not _same(one.head, other.head)


def test_it_restores_global_state_and_writes_nothing(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.set_num_threads(1)
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    fit_head(clouds(groups=8), replace(QUICK, epochs=2, threads=2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == (before[1], 1)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_text_output_is_trained_only_with_enough_labels() -> None:
    heard = clouds(has_text=True)
    fit = fit_head(heard, QUICK)
    assert fit.head.settings.outputs == ("roadwork", "words")
    logits = predict_logits(fit.head, heard, "words")
    assert np.mean((logits > 0) == (heard.has_text > 0.5)) > 0.8
    few = replace(heard, has_text=np.where(np.arange(len(heard)) < 30, heard.has_text, np.nan).astype(np.float32))
    quiet = fit_head(few, QUICK).head
    assert quiet.settings.outputs == ("roadwork",)
    with pytest.raises(ConfigError, match="has no output words"):
        predict_logits(quiet, heard, "words")


def test_rows_without_text_labels_do_not_affect_the_text_output() -> None:
    heard = clouds(has_text=True)
    deaf = replace(heard, has_text=np.where(np.arange(len(heard)) % 2, heard.has_text, np.nan).astype(np.float32))
    fit = fit_head(deaf, replace(QUICK, mixup=0.3))
    assert np.mean((predict_logits(fit.head, heard, "words") > 0) == (heard.has_text > 0.5)) > 0.75


def test_human_labels_override_pseudo_labels() -> None:
    people = clouds()
    wrong = replace(people, human_labeled=np.zeros(len(people), bool), target=1 - people.target)
    both = concatenate([people, replace(wrong, weight=wrong.weight * 10)])
    assert _same(fit_head(both, QUICK).head, fit_head(people, QUICK).head)


def test_soft_pseudo_labels_are_learned() -> None:
    sure = clouds(apart=5.0)
    doubt = replace(
        sure, target=np.where(sure.target > 0, 0.7, 0.1).astype(np.float32), human_labeled=~sure.human_labeled
    )
    p = 1 / (1 + np.exp(-predict_logits(fit_head(doubt, replace(QUICK, positive_prior=None)).head, doubt)))
    assert p[sure.target > 0].mean() == pytest.approx(0.7, abs=0.1)
    assert p[sure.target < 1].mean() == pytest.approx(0.1, abs=0.1)


def test_classes_are_weighted_to_the_requested_share() -> None:
    features = clouds(apart=0.0).rows(np.flatnonzero((clouds().target == 0) | (np.arange(240) % 4 == 0)))
    for balance, share in (("auto", 0.5), (0.2, 0.2), (None, float(features.target.mean()))):
        weight = class_weights(features, balance)  # type: ignore[arg-type]
        assert np.average(features.target, weights=weight) == pytest.approx(share, abs=1e-5)
    p = 1 / (1 + np.exp(-predict_logits(fit_head(features, replace(QUICK, positive_prior=0.2)).head, features)))
    assert p.mean() == pytest.approx(0.2, abs=0.07)


def test_label_smoothing_moves_human_labels_towards_a_half() -> None:
    easy = clouds(apart=6.0)
    plain, smooth = (fit_head(easy, replace(QUICK, label_smoothing=value)).head for value in (0.0, 0.3))
    assert np.abs(predict_logits(smooth, easy)).mean() < np.abs(predict_logits(plain, easy)).mean()


def test_the_best_epoch_is_kept_and_training_stops() -> None:
    fit = fit_head(clouds(apart=0.3), replace(QUICK, epochs=200, patience=6, hidden=64))
    assert fit.epochs < 200
    assert fit.best_epoch == fit.epochs - 1 - 6
    val = clouds(apart=0.3).rows(fit.split.val)
    assert head_metrics(val, predict_logits(fit.head, val)) == fit.val_metrics


def test_a_group_is_never_in_both_parts() -> None:
    features = clouds()
    part = fit_head(features, replace(QUICK, epochs=1)).split
    assert not {features.group[at] for at in part.train} & {features.group[at] for at in part.val}


def test_a_clip_is_scored_once_by_its_two_highest_frames() -> None:
    frames = replace(clouds(groups=2, each=3), name=("a.mp4",) * 3 + ("b.jpg", "c.jpg", "d.jpg"))
    scored = items(frames, np.array([1.0, -4.0, 3.0, 0.5, -0.5, 0.0]))
    assert scored.logit.tolist() == [2.0, 0.5, -0.5, 0.0]
    assert scored.truth.tolist() == [False, True, True, True]


def test_features_of_another_width_are_rejected() -> None:
    head = fit_head(clouds(), replace(QUICK, epochs=1)).head
    with pytest.raises(ConfigError, match="needs features of width 8, these have 4"):
        predict_logits(head, clouds(width=4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_smoothing": 1.0},
        {"mixup": -1.0},
        {"val_fraction": 0.0},
        {"positive_prior": 1.0},
        {"epochs": 0},
    ],
)
def test_invalid_settings_are_rejected(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="head training"):
        HeadTraining(**wrong)
