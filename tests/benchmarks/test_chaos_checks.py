"""What is found fault with after a storm."""

import math
from dataclasses import replace

import pytest

from benchmarks.chaos.checks import Check, Told, checks
from benchmarks.chaos.figures import Kill, Span, phase_figures, quantile
from benchmarks.chaos.outcomes import Record
from benchmarks.chaos.plan import STAGES
from benchmarks.chaos.versions import Reign
from roadwork_serve.cascade.policy import Policy
from tests.benchmarks.chaos_runs import POLICY, record, verdict

ALL = verdict(0.5, 0.5, 0.9, request_id="all")
SPANS = [Span("1x calm", 1, 0, 10, ramp_s=2), Span("2x calm", 2, 20, 30, ramp_s=2)]
REIGNS = [Reign(Policy.parse(POLICY), 0, 0)]


def told(*more: Record, **changed: object) -> Told:
    """Return a storm in which everything held, with more requests or other facts."""
    records = [
        *(record(f"once-{n}", sent_s=n) for n in range(10)),
        *(record(f"twice-{n}", phase="2x calm", sent_s=20 + n) for n in range(10)),
        *(record(f"spoke-{stage}", said=spoke(f"spoke-{stage}", stage), phase="x") for stage in ("signs", "video")),
        record("all", said=ALL, phase="x"),
        record("no", "refused"),
        record("bad", "client error"),
        *more,
    ]
    figures = [phase_figures(span, records, 0.05) for span in SPANS]
    kills = [Kill("Backbone", "x", 1.0, 4.0)]
    left = {"i1": {"in flight": 0}, "i2": {"in work": 0}}
    return replace(Told(len(records), records, figures, kills, REIGNS, 11, 11, left, 2), **changed)  # type: ignore[arg-type]


def spoke(request_id: str, stage: str):
    """Return a clip's verdict in which this stage said something."""
    stages = ("backbone", "signs", "video")
    posteriors = (0.5, 0.5, 0.9)
    said = verdict(*posteriors, request_id=request_id, stages=stages)
    return said.model_copy(update={"media": "clip"})


def broken(found: Told) -> list[str]:
    return [check.claim for check in checks(found) if not check.held]


def test_a_storm_in_which_all_held_breaks_nothing() -> None:
    assert broken(told()) == []


def test_the_machine_has_a_say_in_lateness_and_goodput_alone() -> None:
    timed = [check.claim for check in checks(told()) if check.timed]
    assert len(timed) == 2
    assert "late" in timed[0] and "goodput" in timed[1]


@pytest.mark.parametrize(
    ("found", "claims"),
    [
        (told(record("u", "unanswered")), ["sent = answered + refused + client errors", "every request got an answer"]),
        (told(record("w", "wrong")), ["sent = answered", "right kind of answer"]),
        (told(sent=24), ["sent = answered"]),
        (told(record("once-1")), ["answered twice"]),
        (told(record("v", version="never")), ["version of a policy that was in force"]),
        (told(record("c", said=verdict(0.7, request_id="c"))), ["of one policy"]),
        (told(changes=10), ["swapped and rolled back"]),
        (told(record("l", took_s=1.2)), ["ms late"]),
        (told(kills=[Kill("proxy", "x", 1.0)]), ["came back"]),
        (told(leftovers={"i1": {"in flight": 0}, "i2": {"in work": 1}}), ["holds nothing"]),
        (told(leftovers={"i1": {"in flight": 0}}), ["holds nothing"]),
    ],
)
def test_what_did_not_hold_is_found(found: Told, claims: list[str]) -> None:
    seen = broken(found)
    assert len(seen) == len(claims)
    assert all(claim in each for claim, each in zip(claims, seen, strict=True))


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
    assert any("80%" in claim for claim in broken(told(phases=figures)))


def test_a_stage_that_never_spoke_is_missed() -> None:
    (check,) = [each for each in checks(told()) if each.claim == "every stage spoke"]
    assert check.held and all(stage in check.seen for stage in STAGES.values())
    found = told()
    few = [each for each in found.records if not each.request_id.startswith("spoke")]
    assert "every stage spoke" in broken(replace(found, records=few, sent=len(few)))


def test_a_check_says_what_it_saw() -> None:
    found: list[Check] = checks(told(record("u", "unanswered")))
    assert "1: u (still, 1x calm)" in next(check.seen for check in found if "got an answer" in check.claim)


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_quantiles_are_those_of_the_nearest_rank(part: float, value: float) -> None:
    assert quantile([float(n) for n in range(1, 101)], part) == value


def test_a_kill_that_never_recovered_has_no_time() -> None:
    assert Kill("proxy", "x", 1.0).recovery_s is None
    assert Kill("proxy", "x", 1.0, 3.5).recovery_s == 2.5
    assert math.isclose(Kill("proxy", "x", 1.0, 3.5).recovery_s or 0, 2.5)
