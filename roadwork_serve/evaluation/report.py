"""How good the cascade is on labelled rows, and what it saves."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.challenges import SubnetScore
from roadwork_serve.evaluation.photo_report import PhotoReport
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.run import Failure
from roadwork_serve.profiles.flops import flops
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.provenance import environment
from roadwork_serve.schema import MediaKind


@dataclass(frozen=True, slots=True)
class Subset:
    """A part of the rows. exit_mix: share of its items that left at each stage."""

    n: int
    accuracy: float
    exit_mix: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Every number of an evaluation. Measures without a suffix are of stills; NaN where the sample cannot tell.

    n: scored stills and clips together, n_stills and n_clips; degraded, failed: of all items, scored or not.
    accuracy_stage1: stage 1 alone on every still, its posterior against the policy's threshold.
    accuracy_vlm_all: the fast VLM alone on every still, raw P(YES) from 0.5 up; `_best` at the
        threshold that suits this very sample best, which flatters it.
    reward: mean of what Subnet 72 would have paid, see `metrics.reward`.
    flops_ratio: compute of the fast VLM on every still over that of the cascade, at production prices;
        flops_ratio_clips: the video model on every clip over the cascade.
    earned: where the items were challenges of Subnet 72.
    needs: by the cheapest stage that can know the label, as the renderer says.
    """

    n: int
    n_stills: int
    n_clips: int
    accuracy: float
    accuracy_clips: float
    accuracy_stage1: float
    accuracy_vlm_all: float
    accuracy_vlm_all_best: float
    mcc: float
    auc: float
    brier: float
    ece: float
    reward: float
    exit_mix: dict[str, float]
    exit_mix_clips: dict[str, float]
    flops_ratio: float
    flops_ratio_clips: float
    gflops_per_still: float
    gflops_per_clip: float
    confusion: metrics.Confusion
    confusion_clips: metrics.Confusion
    by_needs: dict[str, Subset]
    by_needs_clips: dict[str, Subset]
    degraded: int
    failed: tuple[Failure, ...]
    profile: str
    policy_version: str
    models: dict[str, str]
    photos: PhotoReport | None = None
    earned: SubnetScore | None = None
    seed: int | None = None
    command: str = ""
    elapsed_s: float = math.nan
    environment: dict[str, str] = field(default_factory=dict)


def evaluate(
    rows: Sequence[EvaluationRow],
    failed: Sequence[Failure],
    policy: Policy,
    profile: str,
    photos: PhotoReport | None = None,
    earned: SubnetScore | None = None,
    seed: int | None = None,
    command: str = "",
    elapsed_s: float = math.nan,
) -> EvaluationReport:
    """The report on these rows; those that are not scored count for nothing."""
    scored = [row for row in rows if row.about.scored]
    stills, clips = ([row for row in scored if row.about.kind == kind] for kind in ("photo", "clip"))
    truth, p, said = _truth(stills), np.array([row.probability for row in stills]), _said(stills)
    first = policy.photo[0].stage
    stage1 = np.array([_posterior(row, first, policy.prior) >= policy.decision_threshold for row in stills], dtype=bool)
    heard, vlm = _logits(stills, "vlm")
    spent, spent_clips = _spent(stills), _spent(clips)
    return EvaluationReport(
        n=len(scored),
        n_stills=len(stills),
        n_clips=len(clips),
        accuracy=metrics.accuracy(truth, said),
        accuracy_clips=metrics.accuracy(_truth(clips), _said(clips)),
        accuracy_stage1=metrics.accuracy(truth, stage1),
        accuracy_vlm_all=metrics.accuracy(heard, vlm >= 0),
        accuracy_vlm_all_best=metrics.best_threshold(heard, vlm)[1],
        mcc=metrics.mcc(truth, said),
        auc=metrics.auc(truth, p),
        brier=metrics.brier(truth, p),
        ece=metrics.ece(truth, p),
        reward=metrics.reward(truth, p),
        exit_mix=_exit_mix(stills, policy, "photo"),
        exit_mix_clips=_exit_mix(clips, policy, "clip"),
        flops_ratio=flops(["vlm"], "photo") / spent,
        flops_ratio_clips=flops(["video"], "clip") / spent_clips,
        gflops_per_still=spent / 1e9,
        gflops_per_clip=spent_clips / 1e9,
        confusion=metrics.confusion(truth, said),
        confusion_clips=metrics.confusion(_truth(clips), _said(clips)),
        by_needs=_by_needs(stills, policy, "photo"),
        by_needs_clips=_by_needs(clips, policy, "clip"),
        degraded=sum(row.degraded for row in rows),
        failed=tuple(failed),
        profile=profile,
        policy_version=policy.version,
        models=_models(rows),
        photos=photos,
        earned=earned,
        seed=seed,
        command=command,
        elapsed_s=elapsed_s,
        environment=environment(),
    )


def write_report(path: Path, report: EvaluationReport) -> None:
    """The report as JSON, null where a number cannot be told."""
    write_json(path, asdict(report))


def _truth(rows: Sequence[EvaluationRow]) -> metrics.Truth:
    return np.array([row.about.label for row in rows], dtype=bool)


def _said(rows: Sequence[EvaluationRow]) -> metrics.Truth:
    return np.array([row.said for row in rows], dtype=bool)


def _posterior(row: EvaluationRow, stage: str, prior: float) -> float:
    look = row.look(stage)
    return prior if look is None or look.posterior is None else look.posterior


def _logits(rows: Sequence[EvaluationRow], stage: str) -> tuple[metrics.Truth, metrics.Scores]:
    """Truth and raw logit of the rows on which the stage spoke."""
    spoken = [(row.about.label, look.logit) for row in rows if (look := row.look(stage)) and look.logit is not None]
    return np.array([label for label, _ in spoken], dtype=bool), np.array([logit for _, logit in spoken])


def _spent(rows: Sequence[EvaluationRow]) -> float:
    """Mean FLOPs an item at production prices."""
    if not rows:
        return math.nan
    return sum(flops(row.entered, row.about.kind) for row in rows) / len(rows)


def _exit_mix(rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind) -> dict[str, float]:
    left = Counter(row.exit_stage for row in rows)
    return {step.stage: left[step.stage] / len(rows) for step in policy.steps(kind)} if rows else {}


def _by_needs(rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind) -> dict[str, Subset]:
    parts: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        if row.about.needs is not None:
            parts.setdefault(row.about.needs, []).append(row)
    return {
        needs: Subset(len(part), metrics.accuracy(_truth(part), _said(part)), _exit_mix(part, policy, kind))
        for needs, part in sorted(parts.items(), key=lambda entry: STAGES.index(entry[0]))
    }


def _models(rows: Sequence[EvaluationRow]) -> dict[str, str]:
    """The model that spoke for each stage, marked where it was a miniature."""
    return {look.stage: look.model + (" (miniature)" if look.miniature else "") for row in rows for look in row.looks}
