"""Calibration curves: they never decrease, never return NaN, and round-trip through YAML."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.cascade.curve import FAR, Beta, Curve, Isotonic, Linear
from roadwork_serve.cascade.log_odds import MAX_LOGODDS, Calibrator, sigmoid
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError, StageFailed
from tests.cascade.strategies import curves

logits = st.floats(-FAR, FAR)


@settings(deadline=None)
@given(curves(), logits, logits)
def test_no_curve_decreases_or_returns_infinity(curve: Curve, one: float, other: float) -> None:
    low, high = sorted((one, other))
    below, above = curve(low), curve(high)
    assert math.isfinite(below) and math.isfinite(above)
    assert below <= above + 1e-9 * max(1.0, abs(above))


@settings(deadline=None)
@given(curves(), st.floats(allow_nan=False), st.floats(-MAX_LOGODDS, MAX_LOGODDS))
def test_infinite_logits_are_clipped_and_the_posterior_stays_in_range(curve: Curve, logit: float, prior: float) -> None:
    assert -MAX_LOGODDS <= Calibrator(curve=curve).update(prior, logit) <= MAX_LOGODDS


def test_nan_is_a_failure() -> None:
    with pytest.raises(StageFailed, match="NaN"):
        Calibrator(curve=Linear(slope=2.0)).update(0.0, math.nan)


@settings(deadline=None)
@given(curves())
def test_a_curve_round_trips_through_yaml(curve: Curve) -> None:
    calibration = Calibrator(curve=curve)
    assert Calibrator.parse(yaml.safe_load(yaml.safe_dump(calibration.to_mapping()))) == calibration


@settings(deadline=None)
@given(st.floats(0.05, 5), st.floats(-5, 5), st.floats(-20, 20))
def test_beta_with_equal_weights_is_a_line(slope: float, offset: float, logit: float) -> None:
    assert Beta(a=slope, b=slope, c=offset)(logit) == pytest.approx(Linear(slope=slope, offset=offset)(logit), abs=1e-9)


@settings(deadline=None)
@given(st.floats(0, 5), st.floats(0, 5), st.floats(-3, 3), st.floats(-12, 12))
def test_beta_matches_the_published_formula(a: float, b: float, c: float, logit: float) -> None:
    p = sigmoid(logit)
    assert Beta(a=a, b=b, c=c)(logit) == pytest.approx(a * math.log(p) - b * math.log(1 - p) + c, abs=1e-5)


def test_knots_are_interpolated_linearly_and_constant_beyond() -> None:
    knots = Isotonic(x=(-2.0, 0.0, 1.0), y=(-3.0, -1.0, 4.0))
    values = [knots(logit) for logit in (-FAR, -2, -1, 0, 0.5, 1, FAR)]
    assert values == [-3.0, -3.0, -2.0, -1.0, 1.5, 4.0, 4.0]
    assert Isotonic(x=(0.0,), y=(0.7,))(-5) == 0.7


def test_the_curve_is_applied_before_the_scale() -> None:
    calibrate = Calibrator(scale=0.5, prior_weight=0.25, bias=0.1, curve=Linear(slope=3.0, offset=1.0))
    assert calibrate.update(2.0, 4.0) == pytest.approx(0.25 * 2 + 0.5 * 13 + 0.1)


WRONG = [
    ({"kind": "spline"}, r"\.kind is 'spline'; write one of 'linear', 'beta', 'isotonic'"),
    ({"slope": 1}, r"\.kind is missing; add it"),
    ({"kind": "linear"}, r"curve\.slope is missing; add it"),
    ({"kind": "linear", "slope": -1}, r"\.slope is -1; it should be greater than or equal to 0"),
    ({"kind": "linear", "slope": math.nan}, r"\.slope is nan; it should be a finite number"),
    ({"kind": "linear", "slope": 1, "a": 2}, r"curve\.a is not a known field; .* use one of kind, offset, slope"),
    ({"kind": "beta", "a": 1, "b": -0.1, "c": 0}, r"\.b is -0.1; it should be greater"),
    ({"kind": "isotonic", "x": [0, 1], "y": [0]}, r"curve: x has 2 and y 1 knots; write as many"),
    ({"kind": "isotonic", "x": [], "y": []}, r"curve: x has 0 and y 0 knots"),
    ({"kind": "isotonic", "x": [1, 1], "y": [0, 1]}, r"curve\.x: knots must increase"),
    ({"kind": "isotonic", "x": [0, 1], "y": [1, 0]}, r"curve\.y: knots must not decrease"),
    ({"kind": "isotonic", "x": [0, "x"], "y": [0, 1]}, r"curve\.x\[1\] is 'x'; it should be a valid number"),
    ({"kind": "isotonic", "x": 3, "y": [0]}, r"curve\.x is 3; it should be a list"),
    ([1, 2], r"curve is \[1, 2\]; it should be a mapping"),
]


@pytest.mark.parametrize(("curve", "message"), WRONG)
def test_an_invalid_curve_is_rejected_with_the_entry_to_fix(curve: object, message: str) -> None:
    step = {"stage": "backbone", "exit": [0.1, 0.9]}
    bent = step | {"calibration": {"curve": curve}}
    with pytest.raises(ConfigError, match=rf"photo\[0\]\.calibration.*{message}"):
        Policy.parse({"version": "x", "photo": [bent], "clip": [step]})
