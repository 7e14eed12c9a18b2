"""Calibration curves: they never fall, never make a NaN, and come back from YAML as they were."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.cascade.curve import FAR, Beta, Curve, Isotonic, Linear, curve_mapping, read_curve
from roadwork_serve.cascade.log_odds import MAX_LOGODDS, Calibrator, sigmoid
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError, StageFailed
from tests.cascade.strategies import curves

logits = st.floats(-FAR, FAR)


@settings(deadline=None)
@given(curves(), logits, logits)
def test_no_curve_falls_or_leaves_the_numbers(curve: Curve, one: float, other: float) -> None:
    low, high = sorted((one, other))
    below, above = curve(low), curve(high)
    assert math.isfinite(below) and math.isfinite(above)
    assert below <= above + 1e-9 * max(1.0, abs(above))


@settings(deadline=None)
@given(curves(), st.floats(allow_nan=False), st.floats(-MAX_LOGODDS, MAX_LOGODDS))
def test_infinite_logits_are_cut_off_and_what_is_believed_stays_in_range(
    curve: Curve, logit: float, prior: float
) -> None:
    assert -MAX_LOGODDS <= Calibrator(curve=curve).update(prior, logit) <= MAX_LOGODDS


def test_nan_is_no_opinion() -> None:
    with pytest.raises(StageFailed, match="NaN"):
        Calibrator(curve=Linear(2.0)).update(0.0, math.nan)


@settings(deadline=None)
@given(curves())
def test_a_curve_comes_back_from_yaml_as_it_was(curve: Curve) -> None:
    assert read_curve(yaml.safe_load(yaml.safe_dump(curve_mapping(curve))), "curve") == curve


@settings(deadline=None)
@given(st.floats(0.05, 5), st.floats(-5, 5), st.floats(-20, 20))
def test_beta_with_equal_weights_is_a_line(slope: float, offset: float, logit: float) -> None:
    assert Beta(slope, slope, offset)(logit) == pytest.approx(Linear(slope, offset)(logit), abs=1e-9)


@settings(deadline=None)
@given(st.floats(0, 5), st.floats(0, 5), st.floats(-3, 3), st.floats(-12, 12))
def test_beta_is_the_formula_of_its_authors(a: float, b: float, c: float, logit: float) -> None:
    p = sigmoid(logit)
    assert Beta(a, b, c)(logit) == pytest.approx(a * math.log(p) - b * math.log(1 - p) + c, abs=1e-5)


def test_knots_are_joined_by_straight_lines_and_level_beyond() -> None:
    knots = Isotonic((-2.0, 0.0, 1.0), (-3.0, -1.0, 4.0))
    told = [knots(logit) for logit in (-FAR, -2, -1, 0, 0.5, 1, FAR)]
    assert told == [-3.0, -3.0, -2.0, -1.0, 1.5, 4.0, 4.0]
    assert Isotonic((0.0,), (0.7,))(-5) == 0.7


def test_what_a_stage_says_goes_through_its_curve_before_it_is_weighed() -> None:
    calibrate = Calibrator(scale=0.5, prior_weight=0.25, bias=0.1, curve=Linear(3.0, 1.0))
    assert calibrate.update(2.0, 4.0) == pytest.approx(0.25 * 2 + 0.5 * 13 + 0.1)


WRONG = [
    ({"kind": "spline"}, r"\.kind: 'spline' is no curve; write line, beta or knots"),
    ({"slope": 1}, r"curve: kind is missing"),
    ({"kind": "line"}, r"curve: slope is missing"),
    ({"kind": "line", "slope": -1}, r"\.slope: -1 is out of range"),
    ({"kind": "line", "slope": math.nan}, r"\.slope: nan is not a finite number"),
    ({"kind": "line", "slope": 1, "a": 2}, r"unknown entry 'a'; known are kind, offset, slope"),
    ({"kind": "beta", "a": 1, "b": -0.1, "c": 0}, r"\.b: -0.1 is out of range"),
    ({"kind": "knots", "at": [0, 1], "to": [0]}, r"2 and 1 knots; write as many"),
    ({"kind": "knots", "at": [], "to": []}, r"0 and 0 knots"),
    ({"kind": "knots", "at": [1, 1], "to": [0, 1]}, r"knots must rise in `at`"),
    ({"kind": "knots", "at": [0, 1], "to": [1, 0]}, r"not fall in `to`"),
    ({"kind": "knots", "at": [0, "x"], "to": [0, 1]}, r"\.at\[1\]: 'x' is not a number"),
    ({"kind": "knots", "at": 3, "to": [0]}, r"\.at: 3 is not a list"),
    ([1, 2], r"curve: \[1, 2\] is not a mapping"),
]


@pytest.mark.parametrize(("curve", "message"), WRONG)
def test_a_curve_that_is_none_is_refused_with_the_entry_to_mend(curve: object, message: str) -> None:
    step = {"stage": "backbone", "exit": [0.1, 0.9]}
    bent = step | {"calibrate": {"curve": curve}}
    with pytest.raises(ConfigError, match=rf"photo\[0\]\.calibrate.*{message}"):
        Policy.from_mapping({"version": "x", "photo": [bent], "clip": [step]})
