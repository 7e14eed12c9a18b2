"""Tests of the policy versions that a verdict may have."""

import math
from typing import Any

import pytest

from benchmarks.chaos.versions import PolicyPeriod, allowed_versions, altered, contradiction, renamed
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import Verdict
from tests.benchmarks.chaos_runs import POLICY, verdict


def period(version: str, requested_s: float, confirmed_s: float = math.inf) -> PolicyPeriod:
    return PolicyPeriod(Policy.parse(renamed(POLICY, version)), requested_s, confirmed_s)


PERIODS = [period("a", 0, 0), period("b", 10, 11), period("c", 20, 21)]


@pytest.mark.parametrize(
    ("sent_s", "ended_s", "versions"),
    [
        (1, 2, {"a"}),
        (1, 10.5, {"a", "b"}),
        (10.5, 12, {"a", "b"}),
        (11.5, 19, {"b"}),
        (9, 22, {"a", "b", "c"}),
        (30, 31, {"c"}),
    ],
)
def test_a_verdict_may_have_any_version_active_meanwhile(sent_s: float, ended_s: float, versions: set[str]) -> None:
    assert allowed_versions(PERIODS, sent_s, ended_s) == versions


def test_a_put_that_was_lost_may_have_had_effect_until_the_next_one() -> None:
    lost = [period("a", 0, 0), period("b", 10), period("c", 20, 21)]
    assert allowed_versions(lost, 12, 13) == {"a", "b"}
    assert allowed_versions(lost, 22, 23) == {"c"}


ONE = Policy.parse(POLICY)
OTHER = Policy.parse(altered(POLICY, "other"))  # backbone's band is [0.15, 0.85]


@pytest.mark.parametrize(
    ("given", "policy", "agrees"),
    [
        (verdict(0.95), ONE, True),
        (verdict(0.87), OTHER, True),
        (verdict(0.87), ONE, False),  # inside the band
        (verdict(0.87, 0.81), ONE, True),
        (verdict(0.87, 0.81), OTHER, False),  # would have left before
        (verdict(0.95, reason="below_band"), ONE, False),
        (verdict(0.05, reason="below_band"), ONE, True),
        (verdict(0.5, reason="deadline"), ONE, True),
        (verdict(0.95, reason="deadline"), ONE, False),
        (verdict(0.5, 0.9, stages=("backbone", "reasoner")), ONE, False),
    ],
)
def test_a_verdict_agrees_with_its_policy_or_not(given: Verdict, policy: Policy, agrees: bool) -> None:
    assert (contradiction(given, policy) is None) is agrees


def test_an_altered_policy_makes_sense_and_leaves_the_first_as_it_was() -> None:
    before: dict[str, Any] = renamed(POLICY, "one")
    policy = altered(POLICY, "x")
    assert before == POLICY
    assert Policy.parse(policy).version == "x"
    assert [step["stage"] for step in policy["clip"]] == ["backbone", "video"]
    assert policy["photo"][2]["exit"] == [0.5, 0.5]
