"""Accuracy of the cascade on labelled rows, and the compute it saves."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.by_source import SourceReport, source_report, stage1_posterior
from roadwork_serve.evaluation.challenges import SubnetScore
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.run import Failure
from roadwork_serve.profiles.flops import flops
from roadwork_serve.profiles.stage_kinds import in_usual_order
from roadwork_serve.provenance import environment
from roadwork_serve.schema import MediaKind

NONE_DECLARED = TrainingData()


@dataclass(frozen=True, slots=True)
class Subset:
    """Metrics of a part of the rows."""

    n: int
    accuracy: float
    #: Share of the items that exited at each stage.
    exit_mix: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Every metric of an evaluation.

    Metrics without a suffix are of photos, those with `_clips` of clips; NaN when the sample does not define them.
    Ignored items, and items that the models were trained on, count towards none of them.
    """

    #: Photos and clips together.
    n: int
    n_stills: int
    n_clips: int
    #: Number of items left out because a model was trained on them, as far as its weights declare.
    seen_in_training: int
    accuracy: float
    accuracy_clips: float
    #: Stage 1 alone on every photo: its posterior against the policy's threshold.
    accuracy_stage1: float
    #: The fast VLM alone on every photo, at P(YES) = 0.5.
    accuracy_vlm_all: float
    #: The fast VLM alone at the threshold that is best on this sample, which is optimistic.
    accuracy_vlm_all_best: float
    mcc: float
    auc: float
    brier: float
    ece: float
    #: Mean reward that Subnet 72 would have paid, see `metrics.reward`.
    reward: float
    #: Share of the items that exited at each stage.
    exit_mix: dict[str, float]
    exit_mix_clips: dict[str, float]
    #: FLOPs of the fast VLM on every photo divided by those of the cascade, for models of production size.
    flops_ratio: float
    #: FLOPs of the video model on every clip divided by those of the cascade, for models of production size.
    flops_ratio_clips: float
    gflops_per_still: float
    gflops_per_clip: float
    confusion: metrics.Confusion
    confusion_clips: metrics.Confusion
    #: By the cheapest stage that can know the label, as the renderer reports it.
    by_needs: dict[str, Subset]
    by_needs_clips: dict[str, Subset]
    #: Number of degraded verdicts, ignored items included.
    degraded: int
    #: Files that got no verdict, ignored items included.
    failed: tuple[Failure, ...]
    profile: str
    policy_version: str
    #: Model of each stage.
    models: dict[str, str]
    #: Photos by source; None when no photo has a source.
    sources: SourceReport | None = None
    #: Set when the items were challenges of Subnet 72.
    subnet_score: SubnetScore | None = None
    seed: int | None = None
    command: str = ""
    elapsed_s: float = math.nan
    environment: dict[str, str] = field(default_factory=dict)


def evaluate(
    rows: Sequence[EvaluationRow],
    failed: Sequence[Failure],
    policy: Policy,
    profile: str,
    seen: TrainingData = NONE_DECLARED,
    subnet_score: SubnetScore | None = None,
    seed: int | None = None,
    command: str = "",
    elapsed_s: float = math.nan,
) -> EvaluationReport:
    """Compute the report of these rows.

    seen: data that the models were trained on, which counts towards no metric but those of `sources`.
    """
    judged = [row for row in rows if not row.metadata.ignore]
    kept = [row for row in judged if not seen.covers(row.metadata.source, row.metadata.group)]
    stills, clips = ([row for row in kept if row.metadata.kind == kind] for kind in ("photo", "clip"))
    truth, p, predicted = _truth(stills), np.array([row.probability for row in stills]), _predicted(stills)
    stage1 = np.array([stage1_posterior(row, policy) >= policy.decision_threshold for row in stills], dtype=bool)
    vlm_truth, vlm = _logits(stills, "vlm")
    cost, cost_clips = _mean_flops(stills), _mean_flops(clips)
    return EvaluationReport(
        n=len(kept),
        n_stills=len(stills),
        n_clips=len(clips),
        seen_in_training=len(judged) - len(kept),
        accuracy=metrics.accuracy(truth, predicted),
        accuracy_clips=metrics.accuracy(_truth(clips), _predicted(clips)),
        accuracy_stage1=metrics.accuracy(truth, stage1),
        accuracy_vlm_all=metrics.accuracy(vlm_truth, vlm >= 0),
        accuracy_vlm_all_best=metrics.best_threshold(vlm_truth, vlm)[1],
        mcc=metrics.mcc(truth, predicted),
        auc=metrics.auc(truth, p),
        brier=metrics.brier(truth, p),
        ece=metrics.ece(truth, p),
        reward=metrics.reward(truth, p),
        exit_mix=_exit_mix(stills, policy, "photo"),
        exit_mix_clips=_exit_mix(clips, policy, "clip"),
        flops_ratio=flops(["vlm"], "photo") / cost,
        flops_ratio_clips=flops(["video"], "clip") / cost_clips,
        gflops_per_still=cost / 1e9,
        gflops_per_clip=cost_clips / 1e9,
        confusion=metrics.confusion(truth, predicted),
        confusion_clips=metrics.confusion(_truth(clips), _predicted(clips)),
        by_needs=_by_needs(stills, policy, "photo"),
        by_needs_clips=_by_needs(clips, policy, "clip"),
        degraded=sum(row.degraded for row in rows),
        failed=tuple(failed),
        profile=profile,
        policy_version=policy.version,
        models=_models(rows),
        sources=source_report(rows, policy, seen),
        subnet_score=subnet_score,
        seed=seed,
        command=command,
        elapsed_s=elapsed_s,
        environment=environment(),
    )


def write_report(path: Path, report: EvaluationReport) -> None:
    """Write the report as JSON; NaN becomes null."""
    write_json(path, asdict(report))


def _truth(rows: Sequence[EvaluationRow]) -> metrics.Truth:
    return np.array([row.metadata.label for row in rows], dtype=bool)


def _predicted(rows: Sequence[EvaluationRow]) -> metrics.Truth:
    return np.array([row.predicted_label for row in rows], dtype=bool)


def _logits(rows: Sequence[EvaluationRow], stage: str) -> tuple[metrics.Truth, metrics.Scores]:
    """Return the label and raw logit of the rows on which the stage ran and did not abstain."""
    pairs = [
        (row.metadata.label, record.logit) for row in rows if (record := row.record(stage)) and record.logit is not None
    ]
    return np.array([label for label, _ in pairs], dtype=bool), np.array([logit for _, logit in pairs])


def _mean_flops(rows: Sequence[EvaluationRow]) -> float:
    """Return the mean FLOPs per item for models of production size."""
    if not rows:
        return math.nan
    return sum(flops(row.entered, row.metadata.kind) for row in rows) / len(rows)


def _exit_mix(rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind) -> dict[str, float]:
    exits = Counter(row.exit_stage for row in rows)
    return {step.stage: exits[step.stage] / len(rows) for step in policy.steps(kind)} if rows else {}


def _by_needs(rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind) -> dict[str, Subset]:
    parts: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        if row.metadata.needs is not None:
            parts.setdefault(row.metadata.needs, []).append(row)
    return {
        needs: Subset(
            len(part := parts[needs]), metrics.accuracy(_truth(part), _predicted(part)), _exit_mix(part, policy, kind)
        )
        for needs in in_usual_order(parts)
    }


def _models(rows: Sequence[EvaluationRow]) -> dict[str, str]:
    """Return the model of each stage; miniatures are marked."""
    return {
        record.stage: record.model + (" (miniature)" if record.miniature else "")
        for row in rows
        for record in row.records
    }
