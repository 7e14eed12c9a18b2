import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.cascade.log_odds import MAX_LOGODDS, Calibrator, clamp, logit, sigmoid
from roadwork_serve.errors import ConfigError, StageFailed
from tests.cascade.strategies import calibrators, logits, shares

believable = st.floats(-MAX_LOGODDS, MAX_LOGODDS)


@given(st.floats(-14, 14))
def test_logit_inverts_sigmoid(logodds):
    assert logit(sigmoid(logodds)) == pytest.approx(logodds, abs=1e-9)


@given(logits, logits)
def test_sigmoid_is_a_growing_probability_everywhere(one, other):
    low, high = sorted((one, other))
    assert 0 <= sigmoid(low) <= sigmoid(high) <= 1


@given(logits)
def test_sigmoid_is_symmetric(logodds):
    assert sigmoid(-logodds) == pytest.approx(1 - sigmoid(logodds), abs=1e-15)


@given(shares, shares)
def test_logit_grows_and_is_finite(one, other):
    low, high = sorted((one, other))
    assert -MAX_LOGODDS <= logit(low) <= logit(high) <= MAX_LOGODDS


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
def test_logit_rejects_numbers_that_are_no_probability(wrong):
    with pytest.raises(ValueError, match="not a probability"):
        logit(wrong)


def test_no_posterior_is_final():
    assert 0 < sigmoid(clamp(-math.inf)) < 1e-12
    assert 1 - 1e-12 < sigmoid(clamp(math.inf)) < 1


def test_the_default_calibrator_adds_the_evidence():
    assert Calibrator().update(0.5, 1.25) == 1.75


def test_scale_prior_weight_and_bias_are_applied():
    assert Calibrator(scale=2.0, prior_weight=0.5, bias=-1.0).update(prior=4.0, logit=3.0) == 2 * 3 + 0.5 * 4 - 1


@given(calibrators, believable, logits)
def test_the_posterior_is_always_finite(calibrator, prior, evidence):
    assert -MAX_LOGODDS <= calibrator.update(prior, evidence) <= MAX_LOGODDS


@given(calibrators, believable, logits, logits)
def test_the_posterior_never_decreases_with_the_logit(calibrator, prior, one, other):
    low, high = sorted((one, other))
    assert calibrator.update(prior, low) <= calibrator.update(prior, high)


@given(calibrators, believable, believable, logits)
def test_the_posterior_never_decreases_with_the_prior(calibrator, one, other, evidence):
    low, high = sorted((one, other))
    assert calibrator.update(low, evidence) <= calibrator.update(high, evidence)


def test_nan_is_a_failure_of_the_stage():
    with pytest.raises(StageFailed, match="NaN"):
        Calibrator().update(0.0, math.nan)


@pytest.mark.parametrize("name", ["scale", "prior_weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_calibration_must_be_finite(name, value):
    with pytest.raises(
        ConfigError, match=f"{name} is .*; it should be (a finite number|less than or equal to 1000000)"
    ):
        Calibrator.parse({name: value})


@pytest.mark.parametrize("name", ["scale", "prior_weight"])
def test_calibration_cannot_reverse_evidence(name):
    with pytest.raises(ConfigError, match=f"{name} is -1"):
        Calibrator.parse({name: -1.0})
    assert Calibrator(bias=-1.0).bias == -1.0
