"""Which policy was in force when, and whether a verdict is one policy's and no other's."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.schema import Verdict

_ROUNDING = 1e-9


@dataclass(slots=True)
class Reign:
    """A policy from the moment its PUT was sent; seconds on the clock of the run.

    told_s: when the server said that it is in force, infinite if it never did: then it may or may not have been.
    """

    policy: Policy
    asked_s: float
    told_s: float = math.inf

    @property
    def version(self) -> str:
        """What its verdicts carry."""
        return self.policy.version


def permitted(reigns: Sequence[Reign], sent_s: float, ended_s: float) -> set[str]:
    """Return the versions that a verdict may carry whose request was sent and answered at these times.

    A policy may be in force from when it was asked for until another one is said to be. A request that was sent after
    a PUT had returned and answered before the next one was sent has exactly one.
    """
    found: set[str] = set()
    for at, reign in enumerate(reigns):
        over_s = min((later.told_s for later in reigns[at + 1 :]), default=math.inf)
        if reign.asked_s <= ended_s and over_s >= sent_s:
            found.add(reign.version)
    return found


def breach(verdict: Verdict, policy: Policy) -> str | None:
    """Return the first contradiction between a verdict and its policy; None if there is none.

    Every stage must be the policy's, in its order; those before the exit must have left the posterior inside their
    band, and the exit's must be on the side of its own that the reason names.
    """
    steps = policy.steps(verdict.media)
    order = [step.stage for step in steps]
    asked = [report.stage for report in verdict.stages]
    if asked != order[: len(asked)]:
        return f"stages {asked}, and the policy asks {order}"
    last = verdict.exit.stage
    for step, report in zip(steps, verdict.stages, strict=False):
        if report.outcome != "answered" or report.posterior is None:
            continue
        side = _side(step, report.posterior)
        if report.stage != last and side:
            return f"no exit at {report.stage}: {report.posterior:.4f}, {side} [{step.low:g}, {step.high:g}]"
        if report.stage == last and verdict.exit.reason != (side or verdict.exit.reason):
            return f"exit {verdict.exit.reason} at {report.posterior:.4f}, {side} [{step.low:g}, {step.high:g}]"
        if report.stage == last and not side and verdict.exit.reason in ("above_band", "below_band"):
            return f"exit {verdict.exit.reason} at {report.posterior:.4f}, inside [{step.low:g}, {step.high:g}]"
    return None


def renamed(policy: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the same policy under another version."""
    return {**copy.deepcopy(dict(policy)), "version": version}


def altered(policy: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return a policy of about the same cost with different verdicts: narrower bands, clips without signs."""
    other = renamed(policy, version)
    decision_threshold = other.get("decision_threshold", 0.5)
    for step in (*other["photo"], *other["clip"]):
        low, high = step["exit"]
        step["exit"] = [min(1.5 * low, decision_threshold), max(1 - 1.5 * (1 - high), decision_threshold)]
    other["clip"] = [step for step in other["clip"] if step["stage"] != "signs"]
    return other


def _side(step: Step, posterior: float) -> str:
    if posterior > step.high + _ROUNDING:
        return "above_band"
    return "below_band" if posterior < step.low - _ROUNDING else ""
