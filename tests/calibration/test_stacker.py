import numpy as np
import pytest

from roadwork_serve.calibration.stacker import fit_calibrator


def test_logistic_regression_recovers_the_parameters_of_the_data() -> None:
    rng = np.random.default_rng(1)
    prior, logits = rng.normal(0, 2, 40_000), rng.normal(0, 3, 40_000)
    truth = rng.random(40_000) < 1 / (1 + np.exp(-(0.7 * prior + 0.4 * logits - 0.5)))
    fitted = fit_calibrator(prior, logits, truth)
    assert (fitted.scale, fitted.prior_weight, fitted.bias) == pytest.approx((0.4, 0.7, -0.5), abs=0.05)


def test_evidence_is_never_reversed() -> None:
    rng = np.random.default_rng(2)
    prior, logits = rng.normal(0, 2, 5000), rng.normal(0, 2, 5000)
    truth = rng.random(5000) < 1 / (1 + np.exp(-(0.8 * prior - 0.6 * logits)))
    fitted = fit_calibrator(prior, logits, truth)
    assert fitted.scale == 0
    assert fitted.prior_weight == pytest.approx(0.6, abs=0.1)


def test_a_separable_sample_and_a_tiny_one_stay_finite() -> None:
    logits = np.array([-30.0, -20.0, 25.0, 30.0])
    fitted = fit_calibrator(np.zeros(4), logits, logits > 0)
    assert 0.2 < fitted.scale < 5
    assert fit_calibrator(np.zeros(1), np.array([0.0]), np.array([True])).bias > 0
