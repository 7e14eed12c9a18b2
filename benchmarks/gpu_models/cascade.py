"""Estimated latency of the cascade under the exit mix of an evaluation, from the medians of its stages.

It is a sum of measured parts, without queueing, transport or decoding: not a measurement of the server.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.gpu_models.plan import Plan
from benchmarks.gpu_models.results import Cascade, Estimate, Results, Row, Spread

Kind = Literal["photo", "clip"]
ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "roadwork_serve/profiles"
SINGLE_STAGE: dict[Kind, str] = {"photo": "vlm", "clip": "video"}  # the stage that a server without a cascade would run
METHOD = (
    "Computed from the median latency of each stage at batch 1 (for a clip: its frames as one batch) and the exit mix "
    "of the test track, not measured end to end: no queue, no transport, no decoding. The exit mix is that of the "
    "evaluated profile, even if its models are miniatures."
)


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a policy."""

    stage: str
    #: Runs only if the image probably has text.
    conditional: bool
    #: Compute per item.
    gflop: float


def cascade(results: Results, report: Path, plan: Plan) -> Cascade:
    """Return the estimate. Raises ValueError if a stage was not measured or the report is not of the shipped policy."""
    evaluation = json.loads(report.read_text(encoding="utf-8"))
    policy = _policy(evaluation, report)
    stage_flops = yaml.safe_load((PROFILES / "flops.yaml").read_text(encoding="utf-8"))
    used: dict[str, str] = {}

    def of(kind: Kind, mix: Mapping[str, float], mean_gflop: float | None) -> Estimate:
        steps = [
            Step(each["stage"], "min_text_probability" in each, stage_flops[each["stage"]].get(kind, math.nan))
            for each in policy[kind]
        ]
        rows = {stage: _row(results, stage, kind, plan) for stage in dict.fromkeys([*mix, SINGLE_STAGE[kind]])}
        used.update({f"{kind}: {stage}": str(row.case) for stage, row in rows.items()})
        stage_ms = {stage: row.timing.median_ms for stage, row in rows.items()}
        return estimate(steps, mix, stage_ms, SINGLE_STAGE[kind], mean_gflop)

    photo = of("photo", evaluation["exit_mix"], evaluation["gflops_per_still"])
    clip = of("clip", evaluation["exit_mix_clips"], evaluation["gflops_per_clip"])
    return Cascade(METHOD, report.name, evaluation["policy_version"], evaluation["seed"], used, photo, clip)


def estimate(
    steps: Sequence[Step],
    mix: Mapping[str, float],
    stage_ms: Mapping[str, float],
    single_stage: str,
    mean_gflop: float | None = None,
) -> Estimate:
    """Return the latency of items that exit at each stage with these shares.

    The `mean_gflop` per item, at the costs of the steps, determines how many items visited the conditional stage.
    """
    if list(mix) != [step.stage for step in steps]:
        raise ValueError(f"the exit mix is of {', '.join(mix)}, the policy has {', '.join(s.stage for s in steps)}")
    upper, lower = [], []
    for i, exit_step in enumerate(steps):
        before = steps[: i + 1]
        upper.append((mix[exit_step.stage], sum(stage_ms[s.stage] for s in before)))
        run_steps = [s for s in before if s is exit_step or not s.conditional]
        lower.append((mix[exit_step.stage], sum(stage_ms[s.stage] for s in run_steps)))
    visits = _visits(steps, mix, mean_gflop)
    mean = None if visits is None else sum(visits[s.stage] * stage_ms[s.stage] for s in steps)
    return Estimate(dict(mix), dict(stage_ms), spread(upper), spread(lower), mean, single_stage, stage_ms[single_stage])


def spread(shares: Sequence[tuple[float, float]]) -> Spread:
    """Return the latency percentiles of (share, milliseconds) pairs whose shares add up to 1."""

    def quantile(q: float) -> float:
        reached = 0.0
        for share, ms in sorted(shares, key=lambda pair: pair[1]):
            reached += share
            if reached >= q - 1e-9:
                return ms
        raise ValueError(f"the shares add up to {reached:g} and not to 1: {shares}")

    return Spread(sum(share * ms for share, ms in shares), quantile(0.5), quantile(0.9), quantile(0.99))


def _visits(steps: Sequence[Step], mix: Mapping[str, float], mean_gflop: float | None) -> dict[str, float] | None:
    """Return the share of items that visits each stage, or None if it is unknown.

    A conditional stage is visited by only some of the items that reach it; their share follows from the mean compute.
    """
    reach = {step.stage: sum(mix[s.stage] for s in steps[i:]) for i, step in enumerate(steps)}
    conditional = [step for step in steps if step.conditional]
    if not conditional:
        return reach
    if len(conditional) > 1 or mean_gflop is None:
        return None
    unconditional = sum(reach[s.stage] * s.gflop for s in steps if not s.conditional)
    stage = conditional[0].stage
    visits = (mean_gflop - unconditional) / conditional[0].gflop
    # Outside this range the report used other costs, or stages failed and were skipped.
    if not mix[stage] - 1e-3 <= visits <= reach[stage] + 1e-3:
        return None
    return {**reach, stage: visits}


def _policy(evaluation: Mapping[str, Any], report: Path) -> dict[str, Any]:
    profile = PROFILES / f"{evaluation['profile']}.yaml"
    if not profile.is_file():
        raise ValueError(
            f"{report} was made with the profile {evaluation['profile']}, which is not shipped: evaluate one that is"
        )
    policy_name = yaml.safe_load(profile.read_text(encoding="utf-8"))["policy"]
    policy = yaml.safe_load((PROFILES / f"policies/{policy_name}.yaml").read_text(encoding="utf-8"))
    if policy["version"] != evaluation["policy_version"]:
        raise ValueError(
            f"{report} was made with the policy {evaluation['policy_version']}, and {policy_name} is now "
            f"{policy['version']}: run `make bench` again"
        )
    return policy


def _row(results: Results, stage: str, kind: Kind, plan: Plan) -> Row:
    """Return the row for the latency of a stage; for stage 1 the compiled one if it was measured."""
    images = plan.frames if kind == "clip" else 1
    usual = {"side": plan.reference_side, "batch": 1}
    row: Row | None = None
    match stage:
        case "backbone":
            for mode in ("compiled", "eager"):
                row = row or results.find("stage1", mode=mode, side=plan.sides[0], batch=images)
        case "signs":
            row = results.find("florence", batch=images, new_tokens=plan.reference_tokens)
        case "vlm":
            row = results.find("qwen", operation="prefill + 1 token", **usual)
        case "reasoner":
            row = results.find("qwen", operation="prefill + tokens", **usual)
        case "video":
            row = results.find("molmo", frames=plan.frames)
    if row is None:
        raise ValueError(f"{stage} was not measured for a {kind}: run the parts stage1, florence, qwen and molmo first")
    return row
