"""Lower bounds of accuracy differences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from roadwork_serve.evaluation.intervals import paired_low, unpaired_low, wilson

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500)).filter(sum)


@pytest.mark.parametrize("n", [5, 60, 300])
def test_without_differences_a_small_sample_still_has_a_wide_interval(n: int) -> None:
    z = norm.ppf(0.95)
    assert paired_low(0, 0, n, 0.95) == pytest.approx(-(z**2) / (n + z**2))


@settings(deadline=None)
@given(counts, st.floats(0.55, 0.995))
def test_the_lower_bound_approaches_the_estimate_from_below(parts: tuple[int, int, int], confidence: float) -> None:
    gained, lost, same = parts
    n = gained + lost + same
    found, low = (gained - lost) / n, paired_low(gained, lost, n, confidence)
    more = paired_low(100 * gained, 100 * lost, 100 * n, confidence)
    assert -1 <= low <= found + 1e-12
    assert low - 1e-9 <= more <= found + 1e-12
    assert paired_low(gained, lost, n, 0.5 * (1 + confidence)) <= low + 1e-9


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 50), (0, 3, 90), (7, 7, 40)])
def test_the_bound_is_where_the_score_statistic_is_as_large_as_allowed(gained: int, lost: int, n: int) -> None:
    """The likelihood of the pairs, given the difference, is maximised by a grid search."""
    low = paired_low(gained, lost, n, 0.975)
    q = np.linspace(max(0, -low), (1 - low) / 2, 400_001)[1:-1]
    likely = gained * np.log(q + low) + lost * np.log(q) + (n - gained - lost) * np.log(1 - 2 * q - low)
    best = q[np.argmax(likely)]
    score = (gained - lost - n * low) / math.sqrt(n * (2 * best + low - low**2))
    assert score == pytest.approx(norm.ppf(0.975), abs=1e-3)


def test_the_unpaired_bound_of_the_paper() -> None:
    """Newcombe (1998), table II, method 10: 56 of 70 against 48 of 80, 95 %: 0.0524 to 0.3339."""
    assert unpaired_low(56, 70, 48, 80, 0.975) == pytest.approx(0.0524, abs=1e-4)
    assert -unpaired_low(48, 80, 56, 70, 0.975) == pytest.approx(0.3339, abs=1e-4)


@pytest.mark.parametrize(("gain", "loss"), [(0.0, 0.01), (0.02, 0.03), (0.1, 0.05)])
def test_the_bound_has_the_nominal_coverage(gain: float, loss: float) -> None:
    rng = np.random.default_rng(11)
    drawn = rng.multinomial(400, [gain, loss, 1 - gain - loss], size=1500)
    unique, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    covered = sum(
        int(k) for (g, lost), k in zip(unique, times, strict=True) if paired_low(g, lost, 400, 0.9) <= gain - loss
    )
    assert 0.87 < covered / 1500 <= 1


def test_the_wilson_interval_contains_the_estimate_and_stays_in_range() -> None:
    low, high = wilson(0, 20, 0.95)
    z = norm.ppf(0.95)
    assert low == 0 and high == pytest.approx(z**2 / (20 + z**2))
    assert math.isclose(sum(wilson(10, 20, 0.9)), 1)
