"""Tests of the checks on chaos runs."""

import math
from dataclasses import replace

import pytest

from benchmarks.chaos.checks import Check, Observations, checks
from benchmarks.chaos.figures import Kill, Span, phase_figures, quantile
from benchmarks.chaos.outcomes import Record
from benchmarks.chaos.plan import STAGES
from benchmarks.chaos.versions import PolicyPeriod
from roadwork_serve.cascade.policy import Policy
from tests.benchmarks.chaos_runs import POLICY, record, verdict

ALL = verdict(0.5, 0.5, 0.9, request_id="all")
SPANS = [Span("1x calm", 1, 0, 10, ramp_s=2), Span("2x calm", 2, 20, 30, ramp_s=2)]
PERIODS = [PolicyPeriod(Policy.parse(POLICY), 0, 0)]


def observations(*more: Record, **changed: object) -> Observations:
    """Return observations that pass every check, with more requests or other values."""
    records = [
        *(record(f"once-{n}", sent_s=n) for n in range(10)),
        *(record(f"twice-{n}", phase="2x calm", sent_s=20 + n) for n in range(10)),
        *(
            record(f"only-{stage}", given=clip_verdict(f"only-{stage}", stage), phase="x")
            for stage in ("signs", "video")
        ),
        record("all", given=ALL, phase="x"),
        record("no", "refused"),
        record("bad", "client error"),
        *more,
    ]
    figures = [phase_figures(span, records, 0.05) for span in SPANS]
    kills = [Kill("Backbone", "x", 1.0, 4.0)]
    left = {"i1": {"in flight": 0}, "i2": {"decoding": 0}}
    return replace(Observations(len(records), records, figures, kills, PERIODS, 11, 11, left, 2), **changed)  # type: ignore[arg-type]


def clip_verdict(request_id: str, stage: str):
    """Return a clip's verdict in which this stage answered."""
    stages = ("backbone", "signs", "video")
    posteriors = (0.5, 0.5, 0.9)
    given = verdict(*posteriors, request_id=request_id, stages=stages)
    return given.model_copy(update={"media": "clip"})


def failed_claims(found: Observations) -> list[str]:
    return [check.claim for check in checks(found) if not check.passed]


def test_a_run_without_faults_passes_every_check() -> None:
    assert failed_claims(observations()) == []


def test_only_lateness_and_goodput_depend_on_timing() -> None:
    timing_dependent = [check.claim for check in checks(observations()) if check.timing_dependent]
    assert len(timing_dependent) == 2
    assert "late" in timing_dependent[0] and "goodput" in timing_dependent[1]


@pytest.mark.parametrize(
    ("found", "claims"),
    [
        (
            observations(record("u", "unanswered")),
            ["sent = answered + refused + client errors", "every request got an answer"],
        ),
        (observations(record("w", "wrong")), ["sent = answered", "of the right kind"]),
        (observations(sent=24), ["sent = answered"]),
        (observations(record("once-1")), ["answered twice"]),
        (observations(record("v", version="never")), ["version of a policy that was active"]),
        (observations(record("c", given=verdict(0.7, request_id="c"))), ["follows a single policy"]),
        (observations(changes=10), ["swapped and rolled back"]),
        (observations(record("l", took_s=1.2)), ["ms late"]),
        (observations(kills=[Kill("proxy", "x", 1.0)]), ["every killed process recovered"]),
        (observations(leftovers={"i1": {"in flight": 0}, "i2": {"decoding": 1}}), ["is idle a second after the load"]),
        (observations(leftovers={"i1": {"in flight": 0}}), ["is idle a second after the load"]),
    ],
)
def test_violations_are_found(found: Observations, claims: list[str]) -> None:
    observed = failed_claims(found)
    assert len(observed) == len(claims)
    assert all(claim in each for claim, each in zip(claims, observed, strict=True))


def test_goodput_counts_answers_in_time_after_the_ramp() -> None:
    records = [record(str(n), sent_s=n, took_s=0.5 if n % 2 else 1.5) for n in range(10)]
    (once, _) = (phase_figures(span, records, 0.05) for span in SPANS)
    assert once.goodput_per_s == 4 / 8  # those sent at 3, 5, 7 and 9 s
    assert (once.sent, once.late, once.outcomes) == (10, 5, {"answered": 10})
    assert (once.p50_ms, once.p99_ms) == (pytest.approx(500), pytest.approx(1500))


def test_goodput_that_collapses_under_load_is_found() -> None:
    slow = [record(f"t{n}", phase="2x calm", sent_s=20 + n, took_s=5) for n in range(10)]
    records = [*(record(f"o{n}", sent_s=n) for n in range(10)), *slow]
    figures = [phase_figures(span, records, 0.05) for span in SPANS]
    assert any("80%" in claim for claim in failed_claims(observations(phases=figures)))


def test_a_stage_that_never_answered_is_found() -> None:
    (check,) = [each for each in checks(observations()) if each.claim == "every stage answered"]
    assert check.passed and all(stage in check.observed for stage in STAGES.values())
    found = observations()
    few = [each for each in found.records if not each.request_id.startswith("only")]
    assert "every stage answered" in failed_claims(replace(found, records=few, sent=len(few)))


def test_a_check_reports_its_observation() -> None:
    found: list[Check] = checks(observations(record("u", "unanswered")))
    assert "1: u (still, 1x calm)" in next(check.observed for check in found if "got an answer" in check.claim)


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_quantiles_are_those_of_the_nearest_rank(part: float, value: float) -> None:
    assert quantile([float(n) for n in range(1, 101)], part) == value


def test_a_kill_that_never_recovered_has_no_time() -> None:
    assert Kill("proxy", "x", 1.0).recovery_s is None
    assert Kill("proxy", "x", 1.0, 3.5).recovery_s == 2.5
    assert math.isclose(Kill("proxy", "x", 1.0, 3.5).recovery_s or 0, 2.5)
