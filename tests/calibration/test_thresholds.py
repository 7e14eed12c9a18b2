"""Exit bands with a proven bound, and the validity of the bound."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from roadwork_serve.calibration.bound import min_sample_size, p_value
from roadwork_serve.calibration.threshold_path import threshold_path, with_bands
from roadwork_serve.calibration.thresholds import TuningSettings, fixed_sequence_test, subsample_independent, tune
from roadwork_serve.calibration.trajectories import Trajectories, latency_cost, trajectories
from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.evaluation.rows import EvaluationRow
from tests.calibration.synthetic_rows import synthetic_rows
from tests.evaluation.fakes import POLICY

REPETITIONS, MAX_LOSS, CONFIDENCE = 500, 0.01, 0.9
ROWS = synthetic_rows(600)


def smooth(rng: np.random.Generator, n: int) -> Trajectories:
    """Draw trajectories of three uncalibrated stages with independent noise."""
    truth = rng.random(n) < 0.4
    sign = np.where(truth, 1.0, -1.0)
    logodds = np.stack([rng.normal(1.4 * sign, 1.3), rng.normal(2.4 * sign, 1.5), rng.normal(3.5 * sign, 1.6)], axis=1)
    return Trajectories(1 / (1 + np.exp(-logodds)), np.ones((n, 3), dtype=bool), costs(n), truth, 0.5)


def tied(rng: np.random.Generator, n: int) -> Trajectories:
    """Draw trajectories with only six posterior values, whose first stage abstains on a third of the items."""
    made = smooth(rng, n)
    posterior = np.clip(np.round(made.posterior * 5) / 5, 0.02, 0.98)
    spoke = np.ones((n, 3), dtype=bool)
    spoke[:, 0] = rng.random(n) > 0.33
    return replace(made, posterior=posterior, spoke=spoke)


def costs(n: int) -> np.ndarray:
    return np.tile(np.cumsum([1.0, 10.0, 50.0]), (n, 1))


@pytest.mark.parametrize("draw", [smooth, tied])
def test_the_bound_is_violated_no_more_often_than_the_confidence_allows(
    draw: Callable[[np.random.Generator, int], Trajectories],
) -> None:
    """Choosing the widest exits with an acceptable error on the sample, without a test, violates it far more often."""
    rng = np.random.default_rng(7)
    world = draw(rng, 60_000)
    broken = naive = proven = 0
    allowed = binom.ppf(0.999, REPETITIONS, 1 - CONFIDENCE)
    for _ in range(REPETITIONS):
        design, test = draw(rng, 500), draw(rng, 900)
        proof = fixed_sequence_test(design, test, MAX_LOSS, CONFIDENCE)
        if proof.bands is not None:
            proven += 1
            broken += world.early_exit_errors(world.apply_bands(*proof.bands)[0]).mean() > MAX_LOSS
        if naive <= allowed:
            few = [
                bands
                for bands in threshold_path(test)
                if test.early_exit_errors(test.apply_bands(*bands)[0]).mean() <= MAX_LOSS
            ]
            naive += bool(few) and world.early_exit_errors(world.apply_bands(*few[-1])[0]).mean() > MAX_LOSS
    assert broken <= allowed
    assert proven > REPETITIONS / 2
    assert naive > allowed


def test_the_path_exits_ever_earlier_and_its_bands_contain_the_threshold() -> None:
    made = smooth(np.random.default_rng(1), 2000)
    bands = threshold_path(made)
    assert len(bands) > 20
    cost = [made.apply_bands(*each)[1].mean() for each in bands]
    assert cost == sorted(cost, reverse=True) and cost[0] > 0.95 * made.cost[0, -1] > 5 * cost[-1]
    assert all((low <= 0.5).all() and (high >= 0.5).all() for low, high in bands)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)), min_size=4, max_size=4))
def test_applying_bands_matches_the_cascade(edges: list[tuple[float, float]]) -> None:
    photos = [row for row in ROWS if row.metadata.kind == "photo"][:80]
    policy = with_bands(POLICY, "photo", *zip(*edges, strict=True))
    low, high = np.array(list(zip(*edges, strict=True)))
    labels, cost, _ = trajectories(photos, POLICY, "photo").apply_bands(low, high)
    for row, label, spent in zip(photos, labels, cost, strict=True):
        way = replay(row, policy)
        assert label == (way.progress.posterior >= policy.decision_threshold)
        assert spent == pytest.approx(_asked(row, policy), rel=1e-12)


def _asked(row: EvaluationRow, policy: Policy) -> float:
    """Return the FLOPs of the stages that run for a row, by stepping through the policy."""
    from roadwork_serve.cascade.policy import ExitCascade, Skip
    from roadwork_serve.profiles.flops import flops

    progress, spent = policy.start(), 0.0
    while not isinstance(move := policy.next_step(row.metadata.kind, progress, math.inf), ExitCascade):
        record = None if isinstance(move, Skip) else row.record(move.step.stage)
        if record is None:
            progress = progress.past()
        else:
            spent += flops([move.step.stage], row.metadata.kind)
            progress = progress.after(move.step, record.logit, record.text_probability)
    return spent


def test_a_tuned_policy_exits_early_within_the_bound_and_has_a_certificate() -> None:
    rows = synthetic_rows(3000, seed=3)
    tuned = tune(rows, POLICY, TuningSettings(risk_limit=0.03, confidence=0.9, version="tuned-1"))
    assert (tuned.shortfall, tuned.policy.version) == ("", "tuned-1")
    certificate = tuned.policy.certificate
    assert certificate is not None and {p.media for p in certificate.bounds} == {"photo", "clip"}
    assert all(p.confidence == pytest.approx(0.95) and p.p_value <= 0.05 for p in certificate.bounds)
    assert certificate.human_labeled == sum(p.n for p in certificate.bounds)
    for part in tuned.parts:
        assert part.cost < part.full_cost / 1.5
        assert part.accuracy >= part.full_accuracy - 0.03
        assert sum(part.exits) == pytest.approx(1)
    assert Policy.parse(tuned.policy.to_mapping()) == tuned.policy
    fresh = synthetic_rows(4000, seed=99)
    photos = [row for row in fresh if row.metadata.kind == "photo"]
    whole = trajectories(photos, POLICY, "photo")
    steps = tuned.policy.photo
    labels, _, _ = whole.apply_bands(np.array([s.low for s in steps]), np.array([s.high for s in steps]))
    assert whole.early_exit_errors(labels).mean() <= 0.03


def test_a_small_sample_proves_no_bound_and_reports_the_missing_rows() -> None:
    photos = [row for row in ROWS if row.metadata.kind == "photo"][:100]
    tuned = tune(photos, POLICY, TuningSettings(risk_limit=0.01))
    assert tuned.policy.certificate is None
    (part,) = tuned.parts
    assert part.rows_missing is not None and 350 < part.rows_missing < 700
    assert f"about {part.rows_missing:,} more rows of photos are needed" in tuned.shortfall
    assert [(step.low, step.high) for step in tuned.policy.photo[:-1]] == [(0.0, 1.0)] * 3


@pytest.mark.parametrize(("bound", "confidence", "n"), [(0.01, 0.95, 299), (0.01, 0.9, 230), (0.05, 0.95, 59)])
def test_the_minimum_sample_size_that_proves_a_bound(bound: float, confidence: float, n: int) -> None:
    assert min_sample_size(bound, confidence) == n
    assert p_value(0, n, bound) <= 1 - confidence < p_value(0, n - 1, bound)
    assert (more := min_sample_size(bound, confidence, error_rate=bound / 2)) is not None and more > n
    assert min_sample_size(bound, confidence, error_rate=bound) is None


def test_one_item_of_each_group_is_tested_with_equal_weight() -> None:
    grouped = [replace(row, metadata=replace(row.metadata, group=f"site-{at // 10}")) for at, row in enumerate(ROWS)]
    assert subsample_independent(grouped).sum() == 60
    weighed = [replace(row, weight=4.0 if at % 2 else 1.0) for at, row in enumerate(ROWS)]
    kept = subsample_independent(weighed)
    assert kept[1::2].all() and 0.15 < kept[::2].mean() < 0.35


def test_large_groups_have_the_same_share_of_the_test_as_of_the_traffic() -> None:
    """Eight in ten items are in groups of eight; errors there must not count as one in three."""
    rows = synthetic_rows(4000, seed=5)
    grouped = [
        replace(row, metadata=replace(row.metadata, group=f"trip-{at // 8}" if at < 3200 else ""))
        for at, row in enumerate(rows)
    ]
    chosen = subsample_independent(grouped)
    of_trips = chosen[:3200].sum()
    assert of_trips == 400 == len({grouped[at].metadata.group for at in np.flatnonzero(chosen[:3200])})
    assert of_trips / chosen.sum() == pytest.approx(0.8, abs=0.04)


def test_within_a_group_items_are_sampled_in_proportion_to_weight() -> None:
    rows = [
        replace(row, weight=3.0 if at % 2 else 1.0, metadata=replace(row.metadata, group=f"pair-{at // 2}"))
        for at, row in enumerate(synthetic_rows(2000, seed=6))
    ]
    chosen = subsample_independent(rows)
    assert chosen.sum() == 1000
    assert chosen[1::2].sum() / 1000 == pytest.approx(0.75, abs=0.05)


def test_rows_reserved_for_calibration_are_not_tested() -> None:
    names = frozenset(row.metadata.name for row in ROWS[:200])
    tuned = tune(ROWS, POLICY, TuningSettings(risk_limit=0.2, calibration_rows=names))
    assert sum(p.n for p in (tuned.policy.certificate or pytest.fail("no bound is proven")).bounds) == 400


def test_without_human_labels_the_certificate_counts_none() -> None:
    pseudo_labeled_rows = [replace(row, metadata=replace(row.metadata, pseudo_labeled=True)) for row in ROWS]
    tuned = tune(pseudo_labeled_rows, POLICY, TuningSettings(risk_limit=0.2))
    assert tuned.policy.certificate is not None and tuned.policy.certificate.human_labeled == 0


def test_latency_can_be_the_cost() -> None:
    rows = [
        replace(r, records=tuple(replace(record, ms=5.0) for record in r.records))
        for r in ROWS
        if r.metadata.kind == "photo"
    ]
    tuned = tune(rows, POLICY, TuningSettings(risk_limit=0.2, cost_function=latency_cost))
    assert tuned.parts[0].full_cost == pytest.approx(np.mean([5.0 * _looks(row) for row in rows]))


def _looks(row: EvaluationRow) -> int:
    words = row.record("backbone").text_probability  # type: ignore[union-attr]
    return len(row.records) - (words is not None and words < POLICY.photo[1].min_text_probability)  # type: ignore[operator]


def test_missing_rows_and_invalid_bounds_are_rejected() -> None:
    with pytest.raises(ConfigError, match="no rows to tune with"):
        tune([], POLICY, TuningSettings())
    with pytest.raises(ConfigError, match="risk_limit is 0"):
        TuningSettings(risk_limit=0)
    with pytest.raises(ConfigError, match="confidence is 1"):
        TuningSettings(confidence=1)
    assert sigmoid(0) == 0.5
