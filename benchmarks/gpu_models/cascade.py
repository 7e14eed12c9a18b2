"""What the cascade's latency comes to under the exit mix of an evaluation, from the medians of its stages.

A sum of measured parts, with no queue, no transport and no decoding: not a measurement of the server.
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
ALONE: dict[Kind, str] = {"photo": "vlm", "clip": "video"}  # what a server without a cascade would run
HOW = (
    "Computed from the median latency of each stage at batch 1 (of a clip: its frames as one batch) and the exit mix "
    "of the test track, not measured end to end: no queue, no transport, no decoding of pictures. The exit mix is "
    "that of the profile which was evaluated, miniatures and all."
)


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a policy. conditional: asked only where words are likely. gflop: what a look at it costs."""

    stage: str
    conditional: bool
    gflop: float


def cascade(results: Results, report: Path, plan: Plan) -> Cascade:
    """Raise ValueError if a stage was not measured or the report is not of the policy that ships."""
    told = json.loads(report.read_text(encoding="utf-8"))
    policy = _policy(told, report)
    prices = yaml.safe_load((PROFILES / "flops.yaml").read_text(encoding="utf-8"))
    used: dict[str, str] = {}

    def of(kind: Kind, mix: Mapping[str, float], mean_gflop: float | None) -> Estimate:
        steps = [
            Step(each["stage"], "min_text_probability" in each, prices[each["stage"]].get(kind, math.nan))
            for each in policy[kind]
        ]
        rows = {stage: _row(results, stage, kind, plan) for stage in dict.fromkeys([*mix, ALONE[kind]])}
        used.update({f"{kind}: {stage}": str(row.case) for stage, row in rows.items()})
        stage_ms = {stage: row.timing.median_ms for stage, row in rows.items()}
        return estimate(steps, mix, stage_ms, ALONE[kind], mean_gflop)

    photo = of("photo", told["exit_mix"], told["gflops_per_still"])
    clip = of("clip", told["exit_mix_clips"], told["gflops_per_clip"])
    return Cascade(HOW, report.name, told["policy_version"], told["seed"], used, photo, clip)


def estimate(
    steps: Sequence[Step],
    mix: Mapping[str, float],
    stage_ms: Mapping[str, float],
    alone: str,
    mean_gflop: float | None = None,
) -> Estimate:
    """Return the latency of items that leave at each stage with these shares.

    mean_gflop: of an item, at the steps' prices; tells how many items visited the conditional stage.
    """
    if list(mix) != [step.stage for step in steps]:
        raise ValueError(f"the exit mix is of {', '.join(mix)}, the policy asks {', '.join(s.stage for s in steps)}")
    most, least = [], []
    for i, leaving in enumerate(steps):
        before = steps[: i + 1]
        most.append((mix[leaving.stage], sum(stage_ms[s.stage] for s in before)))
        paid = [s for s in before if s is leaving or not s.conditional]
        least.append((mix[leaving.stage], sum(stage_ms[s.stage] for s in paid)))
    visits = _visits(steps, mix, mean_gflop)
    mean = None if visits is None else sum(visits[s.stage] * stage_ms[s.stage] for s in steps)
    return Estimate(dict(mix), dict(stage_ms), spread(most), spread(least), mean, alone, stage_ms[alone])


def spread(shares: Sequence[tuple[float, float]]) -> Spread:
    """Of (share, milliseconds) pairs whose shares add up to 1."""

    def quantile(q: float) -> float:
        reached = 0.0
        for share, ms in sorted(shares, key=lambda pair: pair[1]):
            reached += share
            if reached >= q - 1e-9:
                return ms
        raise ValueError(f"the shares add up to {reached:g} and not to 1: {shares}")

    return Spread(sum(share * ms for share, ms in shares), quantile(0.5), quantile(0.9), quantile(0.99))


def _visits(steps: Sequence[Step], mix: Mapping[str, float], mean_gflop: float | None) -> dict[str, float] | None:
    """Share of the items that a stage sees: all that come so far, and of one conditional stage what the mean tells."""
    reach = {step.stage: sum(mix[s.stage] for s in steps[i:]) for i, step in enumerate(steps)}
    doubtful = [step for step in steps if step.conditional]
    if not doubtful:
        return reach
    if len(doubtful) > 1 or mean_gflop is None:
        return None
    sure = sum(reach[s.stage] * s.gflop for s in steps if not s.conditional)
    stage = doubtful[0].stage
    seen = (mean_gflop - sure) / doubtful[0].gflop
    # Outside these the report was priced otherwise, or stages failed and were passed over.
    if not mix[stage] - 1e-3 <= seen <= reach[stage] + 1e-3:
        return None
    return {**reach, stage: seen}


def _policy(told: Mapping[str, Any], report: Path) -> dict[str, Any]:
    profile = PROFILES / f"{told['profile']}.yaml"
    if not profile.is_file():
        raise ValueError(f"{report} is of the profile {told['profile']}, which does not ship: evaluate one that does")
    named = yaml.safe_load(profile.read_text(encoding="utf-8"))["policy"]
    policy = yaml.safe_load((PROFILES / f"policies/{named}.yaml").read_text(encoding="utf-8"))
    if policy["version"] != told["policy_version"]:
        raise ValueError(
            f"{report} was made with the policy {told['policy_version']}, and {named} is now {policy['version']}: "
            "run `make bench` again"
        )
    return policy


def _row(results: Results, stage: str, kind: Kind, plan: Plan) -> Row:
    """Return the row for a stage's latency; for stage 1 the compiled one if it was measured."""
    images = plan.frames if kind == "clip" else 1
    usual = {"side": plan.usual_side, "batch": 1}
    found: Row | None = None
    match stage:
        case "backbone":
            for mode in ("compiled", "eager"):
                found = found or results.find("stage1", mode=mode, side=plan.sides[0], batch=images)
        case "signs":
            found = results.find("florence", batch=images, new_tokens=plan.usual_tokens)
        case "vlm":
            found = results.find("qwen", what="prefill + 1 token", **usual)
        case "reasoner":
            found = results.find("qwen", what="prefill + tokens", **usual)
        case "video":
            found = results.find("molmo", frames=plan.frames)
    if found is None:
        raise ValueError(f"{stage} was not measured for a {kind}: run the parts stage1, florence, qwen and molmo first")
    return found
