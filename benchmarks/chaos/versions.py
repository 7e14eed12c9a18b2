"""Periods in which policies were active, and consistency checks of verdicts with them."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.schema import Verdict

_ROUNDING = 1e-9


@dataclass(slots=True)
class PolicyPeriod:
    """A policy from the moment its PUT was sent. Times are seconds on the clock of the run."""

    policy: Policy
    requested_s: float
    #: Time at which the server reported it as active; infinite if it never did, so that it may or may not have been.
    confirmed_s: float = math.inf

    @property
    def version(self) -> str:
        """The version that its verdicts carry."""
        return self.policy.version


def allowed_versions(periods: Sequence[PolicyPeriod], sent_s: float, ended_s: float) -> set[str]:
    """Return the versions that a verdict may carry, given the times of its request and its reply.

    A policy may be active from the request for it until the next one is confirmed. A request that was sent after a PUT
    had returned, and answered before the next one was sent, has exactly one allowed version.
    """
    found: set[str] = set()
    for at, period in enumerate(periods):
        ended_by_s = min((later.confirmed_s for later in periods[at + 1 :]), default=math.inf)
        if period.requested_s <= ended_s and ended_by_s >= sent_s:
            found.add(period.version)
    return found


def contradiction(verdict: Verdict, policy: Policy) -> str | None:
    """Return the first contradiction between a verdict and its policy; None if there is none.

    Every stage must be one of the policy's, in its order. Stages before the exit must have left the posterior inside
    their band; that of the exit must be on the side that the exit reason names.
    """
    steps = policy.steps(verdict.media)
    order = [step.stage for step in steps]
    reported = [report.stage for report in verdict.stages]
    if reported != order[: len(reported)]:
        return f"stages {reported}, but the policy has {order}"
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
