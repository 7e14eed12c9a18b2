"""Calibration curves fitted to logits whose true curve is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy.special import expit

from roadwork_serve.calibration.curves import (
    FITS,
    apply_curve,
    beta,
    choose_curve,
    isotonic,
    log_losses,
    platt,
    temperature,
)
from roadwork_serve.cascade.curve import MAX_KNOTS, Beta, Curve, Isotonic, Linear

N = 6000
Shape = Callable[[np.ndarray], np.ndarray]
SHAPES: dict[str, Shape] = {
    "none": lambda x: x,
    "temperature": lambda x: 0.4 * x,
    "platt": lambda x: 0.6 * x - 1.5,
    "beta": lambda x: -0.3 * np.logaddexp(0, -x) + 2.0 * np.logaddexp(0, x) - 0.5,
    "isotonic": lambda x: np.where(x < -1, -3.0, np.where(x < 1, 0.0, np.where(x < 2, 0.5, 3.0))),
}


def drawn(shape: str, n: int = N, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, n)
    return logits, rng.random(n) < expit(SHAPES[shape](logits))


def test_each_curve_recovers_the_parameters_of_the_data() -> None:
    ones = np.ones(N)
    hot, moved, bent = (
        temperature(*drawn("temperature"), ones),
        platt(*drawn("platt"), ones),
        beta(*drawn("beta"), ones),
    )
    assert isinstance(hot, Linear) and hot.offset == 0 and hot.slope == pytest.approx(0.4, abs=0.03)
    assert isinstance(moved, Linear) and (moved.slope, moved.offset) == pytest.approx((0.6, -1.5), abs=0.1)
    assert isinstance(bent, Beta) and (bent.a, bent.b, bent.c) == pytest.approx((0.3, 2.0, -0.5), abs=0.2)
    stairs = isotonic(*drawn("isotonic"), ones)
    assert [stairs(x) for x in (-3.0, 0.0, 1.5, 3.5)] == pytest.approx([-3.0, 0.0, 0.5, 3.0], abs=0.5)


@pytest.mark.parametrize("shape", ["none", "temperature", "platt", "beta", "isotonic"])
def test_the_simplest_sufficient_curve_is_chosen(shape: str) -> None:
    logits, truth = drawn(shape)
    chosen = choose_curve(logits, truth, np.ones(N), [""] * N)
    names = ["none", *FITS]
    assert names.index(chosen.name) <= names.index(shape)
    best = min(chosen.log_loss.values())
    assert chosen.log_loss[chosen.name] <= best + chosen.standard_error
    if shape != "none":
        assert chosen.log_loss["none"] > chosen.log_loss[chosen.name]
        assert chosen.name != "none"


def test_a_calibrated_stage_gets_no_curve() -> None:
    logits, truth = drawn("none")
    assert choose_curve(logits, truth, np.ones(N), [""] * N).curve is None


@pytest.mark.parametrize("name", FITS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fitted_curves_are_monotonic_finite_and_serializable(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    logits = np.array(data.draw(st.lists(st.sampled_from([-30, -4, -1, 0, 0.5, 2, 30]), min_size=n, max_size=n)), float)
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weight = np.array(data.draw(st.lists(st.sampled_from([0.5, 1, 20]), min_size=n, max_size=n)), float)
    curve = FITS[name](logits, truth, weight)
    values = [curve(x) for x in np.linspace(-40, 40, 81)]
    assert all(map(math.isfinite, values)) and values == sorted(values)
    assert TypeAdapter(Curve).validate_python(curve.model_dump()) == curve


def test_isotonic_confidence_and_the_number_of_knots_are_bounded() -> None:
    logits = np.linspace(-5, 5, 20_000)
    curve = isotonic(logits, logits + 0.5 * np.sin(40 * logits) > 0, np.ones(len(logits)))
    assert isinstance(curve, Isotonic) and len(curve.x) <= MAX_KNOTS
    few = isotonic(np.array([-1.0, -1.0, 1.0, 1.0]), np.array([False, False, True, True]), np.ones(4))
    assert (expit(few(-9.0)), expit(few(9.0))) == pytest.approx((0.25, 0.75), abs=1e-5)


def test_an_item_of_weight_three_equals_three_items() -> None:
    logits, truth = drawn("platt", 300)
    weight = np.where(np.arange(300) % 2 == 0, 3.0, 1.0)
    times = weight.astype(int)
    for fit in FITS.values():
        heavy, many = fit(logits, truth, weight), fit(np.repeat(logits, times), np.repeat(truth, times), np.ones(600))
        assert [heavy(x) for x in (-2, 0, 2)] == pytest.approx([many(x) for x in (-2, 0, 2)], abs=0.02)


def test_no_group_is_in_both_the_fit_and_the_validation() -> None:
    """Frames of a clip are correlated: a curve that fits 40 clips of 50 frames need not fit another clip."""
    rng = np.random.default_rng(5)
    of_clip, labels = rng.normal(0, 3, 40), rng.random(40) < 0.5  # logits independent of the truth
    logits, truth = np.repeat(of_clip, 50), np.repeat(labels, 50)
    groups = [f"clip-{at // 50}" for at in range(2000)]
    together = choose_curve(logits, truth, np.ones(2000), groups)
    parted = choose_curve(logits, truth, np.ones(2000), [""] * 2000)
    assert together.log_loss["isotonic"] > parted.log_loss["isotonic"] + 0.1


@pytest.mark.parametrize("truth", [np.ones(100, bool), np.zeros(100, bool), np.arange(100) < 50])
def test_with_too_little_data_the_stage_gets_no_curve(truth: np.ndarray) -> None:
    few = [f"site-{at % 4}" for at in range(100)]
    assert choose_curve(np.linspace(-3, 3, 100), truth, np.ones(100), few).curve is None
    assert choose_curve(np.linspace(-3, 3, 10), truth[:10], np.ones(10), [""] * 10).name == "none"


@given(st.floats(-700, 700), st.booleans())
def test_log_loss_never_overflows(logit: float, truth: bool) -> None:
    (loss,) = log_losses(np.array([logit]), np.array([truth]))
    assert 0 <= loss <= 701


def test_the_identity_curve_changes_nothing() -> None:
    logits, curve = np.array([-1.0, 2.0]), Linear(slope=2.0, offset=1.0)
    assert apply_curve(None, logits) is logits
    curves: list[Curve] = [curve]
    assert apply_curve(curves[0], logits).tolist() == [-1.0, 5.0]
