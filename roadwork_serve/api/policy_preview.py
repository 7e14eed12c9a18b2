"""Replay of recorded predictions under another policy."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.policy import Policy, Skip, Walk
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.profiles.flops import stage_cost
from roadwork_serve.profiles.stage_kinds import in_usual_order
from roadwork_serve.schema import MAX_FLIPPED, UNCLEAR, ExitPreview, FlippedEntry, Label, PolicyPreview


@dataclass(frozen=True, slots=True)
class ReplayedExit:
    """The exit of a journal row under a policy."""

    #: The exit stage; None if the policy needs a stage without a recorded prediction.
    stage: str | None
    #: Whether the label is the positive one, by the predictions that are recorded.
    positive: bool
    #: GFLOP of the stages that ran, at the size of the production models.
    gflops: float


def preview_policy(
    rows: Iterable[JournalRow], current: Policy, proposed: Policy, labels: tuple[Label, Label]
) -> PolicyPreview:
    """Return a comparison of two policies.

    Args:
        rows: Recorded predictions, the newest first.
        current: The active policy.
        proposed: The policy that may replace it.
        labels: The positive and the negative label of the task.
    """
    exits_current, exits_proposed = Counter[str](), Counter[str]()
    entries = unknown_current = unknown_proposed = known = flipped = labeled = correct_current = correct_proposed = 0
    gflops_current = gflops_proposed = 0.0
    flipped_entries: list[FlippedEntry] = []
    for row in rows:
        before, after = replay_stages(row, current), replay_stages(row, proposed)
        entries += 1
        unknown_current += before.stage is None
        unknown_proposed += after.stage is None
        if before.stage is not None:
            exits_current[before.stage] += 1
        if after.stage is not None:
            exits_proposed[after.stage] += 1
        if before.stage is None or after.stage is None:
            continue
        known += 1
        if before.positive != after.positive:
            flipped += 1
            if flipped <= MAX_FLIPPED:
                flipped_entries.append(_flipped(row, labels[0] if after.positive else labels[1]))
        gflops_current += before.gflops
        gflops_proposed += after.gflops
        if (truth := row.human_positive) is not None:
            labeled += 1
            correct_current += before.positive == truth
            correct_proposed += after.positive == truth
    return PolicyPreview(
        version=proposed.version,
        entries=entries,
        exits=[
            ExitPreview(stage=stage, current=exits_current[stage], proposed=exits_proposed[stage])
            for stage in in_usual_order({**exits_current, **exits_proposed})
        ],
        unknown_proposed=unknown_proposed,
        unknown_current=unknown_current,
        flipped=flipped,
        flipped_entries=flipped_entries,
        labeled=labeled,
        correct_current=correct_current,
        correct_proposed=correct_proposed,
        gflops_current=gflops_current / max(1, known),
        gflops_proposed=gflops_proposed / max(1, known),
    )


def _flipped(row: JournalRow, proposed: Label) -> FlippedEntry:
    prediction = row.prediction
    return FlippedEntry(
        id=prediction.id,
        filename=prediction.filename,
        media=prediction.verdict.media,
        media_available=row.media_available,
        proposed=proposed,
        human_label=None if row.annotation is None else row.annotation.label or UNCLEAR,
    )


def replay_stages(row: JournalRow, policy: Policy) -> ReplayedExit:
    """Return the exit of a row under a policy, by the predictions recorded for it, those of an audit included."""
    kind, gflops, known = row.prediction.verdict.media, 0.0, True
    walk = Walk(policy, kind)
    for move in walk:
        if isinstance(move, Skip):
            continue
        report = row.report(move.step.stage)
        if report is None or report.head != move.step.head:  # the prediction of another head is another prediction
            known = False
            break
        gflops += stage_cost(report, kind).gflops
        recorded = None if report.probability is None else logit(report.probability)
        walk.record(move.step, recorded, report.evidence.text_probability)
    progress = walk.progress
    positive = progress.posterior >= policy.decision_threshold
    answered = progress.last_answered if known else None
    return ReplayedExit(None if answered is None else answered.stage, positive, gflops)
