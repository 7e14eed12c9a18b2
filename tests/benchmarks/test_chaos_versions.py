"""Which policy a verdict may be of."""

import math
from typing import Any

import pytest

from benchmarks.chaos.versions import Reign, altered, breach, permitted, renamed
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import Verdict
from tests.benchmarks.chaos_runs import POLICY, verdict


def reign(version: str, asked_s: float, told_s: float = math.inf) -> Reign:
    return Reign(Policy.parse(renamed(POLICY, version)), asked_s, told_s)


REIGNS = [reign("a", 0, 0), reign("b", 10, 11), reign("c", 20, 21)]


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
def test_a_verdict_may_have_what_was_in_force_meanwhile(sent_s: float, ended_s: float, versions: set[str]) -> None:
    assert permitted(REIGNS, sent_s, ended_s) == versions


def test_a_put_that_was_lost_may_have_had_effect_until_the_next_one() -> None:
    lost = [reign("a", 0, 0), reign("b", 10), reign("c", 20, 21)]
    assert permitted(lost, 12, 13) == {"a", "b"}
    assert permitted(lost, 22, 23) == {"c"}


ONE = Policy.parse(POLICY)
OTHER = Policy.parse(altered(POLICY, "other"))  # backbone's band is [0.15, 0.85]


@pytest.mark.parametrize(
    ("said", "policy", "agrees"),
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
def test_a_verdict_agrees_with_its_policy_or_not(said: Verdict, policy: Policy, agrees: bool) -> None:
    assert (breach(said, policy) is None) is agrees


def test_an_altered_policy_makes_sense_and_leaves_the_first_as_it_was() -> None:
    before: dict[str, Any] = renamed(POLICY, "one")
    policy = altered(POLICY, "x")
    assert before == POLICY
    assert Policy.parse(policy).version == "x"
    assert [step["stage"] for step in policy["clip"]] == ["backbone", "video"]
    assert policy["photo"][2]["exit"] == [0.5, 0.5]
