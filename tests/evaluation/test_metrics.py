import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.evaluation import metrics

TRUTH = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
SCORE = np.array([0.9, 0.8, 0.3, 0.3, 0.2, 0.6, 0.1, 0.6])
SAID = SCORE >= 0.5


def test_confusion_and_accuracy_by_hand() -> None:
    assert metrics.confusion(TRUTH, SAID) == metrics.Confusion(tp=3, fp=1, fn=1, tn=3)
    assert metrics.accuracy(TRUTH, SAID) == 6 / 8


def test_mcc_by_hand() -> None:
    assert metrics.mcc(TRUTH, SAID) == pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4))
    assert metrics.mcc(TRUTH, ~TRUTH) == -1
    assert metrics.mcc(TRUTH, np.ones(8, dtype=bool)) == 0


def test_auc_counts_a_tie_as_half() -> None:
    # Pairs of a positive and a negative: 0.9 and 0.8 beat all four; 0.6 beats three, ties one; 0.3 beats two, ties one.
    assert metrics.auc(TRUTH, SCORE) == (4 + 4 + 3.5 + 2.5) / 16
    assert metrics.auc(TRUTH, np.full(8, 0.5)) == 0.5


def test_brier_by_hand() -> None:
    assert metrics.brier(np.array([True, False]), np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)


def test_ece_by_hand() -> None:
    # Bins of a fifteenth: 0.90 and 0.92 share one (mean 0.91, half positive); 1.0 is in the last, 0.0 in the first.
    truth = np.array([1, 0, 1, 0], dtype=bool)
    probability = np.array([0.90, 0.92, 1.0, 0.0])
    assert metrics.ece(truth, probability) == pytest.approx(0.5 * (0.91 - 0.5))


def test_the_reward_of_a_perfect_run_is_reduced_only_while_one_class_is_seen() -> None:
    truth = np.array([1, 1, 0, 1], dtype=bool)
    # One class alone: (0.5 x 0 + 0.5 x 1)^3 = 0.125, twice; then 1.
    assert metrics.reward(truth, truth.astype(float)) == pytest.approx((0.125 + 0.125 + 1 + 1) / 4)


@pytest.mark.parametrize(("ago", "accuracy", "seen_by_mcc"), [(5, 0.9, True), (50, 1.0, True), (110, 1.0, False)])
def test_reward_looks_back_ten_items_for_accuracy_and_a_hundred_for_mcc(
    ago: int, accuracy: float, seen_by_mcc: bool
) -> None:
    truth = np.tile([True, False], 60)
    probability = truth.astype(float)
    probability[-ago] = 1 - probability[-ago]
    paid_last = metrics.reward(truth, probability) * 120 - metrics.reward(truth[:-1], probability[:-1]) * 119
    mcc = metrics.mcc(truth[-100:], probability[-100:] > 0.5)
    assert (mcc < 1) == seen_by_mcc
    assert paid_last == pytest.approx((0.5 * mcc + 0.5 * accuracy) ** 3)


def test_half_is_none_for_the_subnet() -> None:
    truth = np.array([True, False])
    assert metrics.reward(truth, np.array([0.5, 0.5])) == pytest.approx((0 + 0.25**3) / 2)


def test_best_threshold_never_cuts_between_equal_scores() -> None:
    truth = np.array([1, 0, 1, 0], dtype=bool)
    threshold, share = metrics.best_threshold(truth, np.array([2.0, 1.0, 1.0, -1.0]))
    assert (threshold, share) in [(2.0, 0.75), (1.0, 0.75)]
    assert np.mean((np.array([2.0, 1.0, 1.0, -1.0]) >= threshold) == truth) == share


def test_undefined_metrics_are_nan() -> None:
    none, empty = np.array([], dtype=bool), np.array([])
    values = [f(none, empty) for f in (metrics.auc, metrics.brier, metrics.ece, metrics.reward)]
    values += [metrics.accuracy(none, none), metrics.mcc(none, none), metrics.auc(np.array([True]), np.array([0.5]))]
    assert all(math.isnan(value) for value in values)


SAMPLES = st.lists(st.tuples(st.booleans(), st.integers(0, 20).map(lambda i: i / 20)), min_size=2, max_size=60)


@settings(deadline=None, max_examples=25)  # scikit-learn is slow, and slower to import
@given(SAMPLES)
def test_agrees_with_scikit_learn(sample: list[tuple[bool, float]]) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    truth = np.array([label for label, _ in sample], dtype=bool)
    score = np.array([p for _, p in sample])
    assert metrics.accuracy(truth, score >= 0.5) == sk.accuracy_score(truth, score >= 0.5)
    if truth.any() and not truth.all():
        assert metrics.auc(truth, score) == pytest.approx(sk.roc_auc_score(truth, score))
        assert metrics.brier(truth, score) == pytest.approx(sk.brier_score_loss(truth, score))
        predicted = score >= 0.5
        if predicted.any() and not predicted.all():
            assert metrics.mcc(truth, predicted) == pytest.approx(sk.matthews_corrcoef(truth, predicted))


@given(SAMPLES)
def test_best_threshold_beats_every_other(sample: list[tuple[bool, float]]) -> None:
    truth = np.array([label for label, _ in sample], dtype=bool)
    score = np.array([p for _, p in sample])
    threshold, share = metrics.best_threshold(truth, score)
    assert np.mean((score >= threshold) == truth) == pytest.approx(share)
    assert share >= max(float(np.mean((score >= t) == truth)) for t in [*score, math.inf])
