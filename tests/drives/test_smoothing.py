"""The smoothing against a sum over all paths."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.drives.smoothing import SmoothingModel, fit_rates, smooth
from roadwork_serve.errors import ConfigError

MODELS = st.builds(
    SmoothingModel,
    begin_rate=st.floats(1e-3, 2.0),
    end_rate=st.floats(1e-3, 2.0),
    base_rate=st.floats(0.05, 0.95),
    weight=st.floats(0.1, 1.0),
)
FRAMES = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.just(float("nan"))), st.floats(0, 20)), min_size=1, max_size=7
)


def paths(model: SmoothingModel, probabilities: np.ndarray, clock_s: np.ndarray) -> dict[tuple[int, ...], float]:
    """Return the joint probability of each path of states, up to a constant."""
    ratios = np.exp(model.log_ratios(probabilities))
    steps = model.transitions(np.diff(clock_s))
    found: dict[tuple[int, ...], float] = {}
    for path in product((0, 1), repeat=len(probabilities)):
        weight = model.initial[path[0]]
        for at, state in enumerate(path):
            weight *= ratios[at] if state else 1.0
            if at:
                weight *= steps[at - 1, path[at - 1], state]
        found[path] = float(weight)
    total = sum(found.values())
    return {path: weight / total for path, weight in found.items()}


@given(MODELS, FRAMES)
def test_posteriors_are_those_of_all_paths(model: SmoothingModel, frames: list[tuple[float, float]]) -> None:
    probabilities = np.array([p for p, _ in frames])
    clock_s = np.cumsum([gap for _, gap in frames])
    smoothed, every = smooth(model, probabilities, clock_s), paths(model, probabilities, clock_s)
    for at in range(len(frames)):
        assert smoothed.posterior[at] == pytest.approx(sum(w for path, w in every.items() if path[at]), abs=1e-9)
    for first in range(len(frames)):
        for last in range(first, len(frames)):
            some = sum(weight for path, weight in every.items() if any(path[first : last + 1]))
            assert smoothed.any_works(first, last) == pytest.approx(some, abs=1e-9)


@given(MODELS, st.floats(0, 1e6))
def test_transitions_are_distributions_that_keep_the_stationary_one(model: SmoothingModel, elapsed_s: float) -> None:
    step = model.transitions(np.array([elapsed_s]))[0]
    assert (step >= 0).all() and step.sum(axis=1) == pytest.approx([1, 1])
    assert model.initial @ step == pytest.approx(model.initial)
    twice = model.transitions(np.array([2 * elapsed_s]))[0]
    assert twice == pytest.approx(step @ step)


def test_one_wrong_frame_does_not_cut_a_zone() -> None:
    probabilities = np.array([0.05] * 10 + [0.95] * 6 + [0.2] + [0.95] * 6 + [0.05] * 10)
    posterior = smooth(SmoothingModel(), probabilities, np.arange(len(probabilities)) / 2).posterior
    assert (posterior[10:23] > 0.5).all() and posterior[:9].max() < 0.2 and posterior[-9:].max() < 0.2


def test_hours_of_frames_stay_finite() -> None:
    probabilities = np.tile([0.0, 1.0], 20_000)
    smoothed = smooth(SmoothingModel(), probabilities, np.arange(40_000) / 2)
    assert np.isfinite(smoothed.posterior).all() and 0 <= smoothed.any_works(0, 39_999) <= 1


def test_an_empty_drive_has_no_posteriors() -> None:
    assert len(smooth(SmoothingModel(), np.zeros(0), np.zeros(0)).posterior) == 0


def test_rates_are_recovered_from_labelled_clips() -> None:
    truth = SmoothingModel(begin_rate=0.02, end_rate=0.1)
    rng = np.random.default_rng(4)
    step = truth.transitions(np.array([0.5]))[0]
    clips = []
    for _ in range(60):
        states = [int(rng.random() < truth.initial[1])]
        while len(states) < 1200:
            states.append(int(rng.random() < step[states[-1], 1]))
        clips.append((np.arange(1200) / 2, [bool(each) for each in states]))
    fitted = fit_rates(clips)
    assert fitted.begin_rate == pytest.approx(0.02, rel=0.15) and fitted.end_rate == pytest.approx(0.1, rel=0.15)


def test_clips_without_a_change_leave_a_rate_above_zero() -> None:
    fitted = fit_rates([([0.0, 60.0], [False, False])])
    assert 0 < fitted.begin_rate < SmoothingModel().begin_rate and fitted.end_rate == SmoothingModel().end_rate


def test_impossible_rates_and_times_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        SmoothingModel(begin_rate=0)
    with pytest.raises(ConfigError, match="must not fall"):
        fit_rates([([1.0, 0.0], [False, True])])
