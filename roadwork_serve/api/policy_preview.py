"""What another policy would have made of answers that were given."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from roadwork_serve.api.stats import gflops
from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.policy import ExitCascade, Policy, Skip
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.schema import ExitPreview, Label, PolicyPreview


@dataclass(frozen=True, slots=True)
class ReplayedExit:
    """Where an answer would have left, None where it would have gone on to a stage that never judged it."""

    stage: str | None
    label: Label
    gflops: float


def preview_policy(cases: Iterable[JournalRow], now: Policy, then: Policy) -> PolicyPreview:
    """The answers under the policy in force and under another, side by side."""
    exits_now, exits_then = Counter[str](), Counter[str]()
    count = unknown = unknown_now = known = turned = marked = right_now = right_then = 0
    gflops_now = gflops_then = 0.0
    for case in cases:
        before, after = replay_stages(case, now), replay_stages(case, then)
        count += 1
        unknown += after.stage is None
        unknown_now += before.stage is None
        if before.stage is not None:
            exits_now[before.stage] += 1
        if after.stage is not None:
            exits_then[after.stage] += 1
        if before.stage is None or after.stage is None:
            continue
        known += 1
        turned += before.label != after.label
        gflops_now += before.gflops
        gflops_then += after.gflops
        if case.mark is not None and case.mark.label is not None:
            marked += 1
            right_now += before.label == case.mark.label
            right_then += after.label == case.mark.label
    return PolicyPreview(
        version=then.version,
        answers=count,
        exits=[
            ExitPreview(stage=stage, now=exits_now[stage], then=exits_then[stage])
            for stage in STAGES
            if stage in exits_now or stage in exits_then
        ],
        unknown=unknown,
        unknown_now=unknown_now,
        turned=turned,
        marked=marked,
        right_now=right_now,
        right_then=right_then,
        gflops_now=gflops_now / max(1, known),
        gflops_then=gflops_then / max(1, known),
    )


def replay_stages(case: JournalRow, policy: Policy) -> ReplayedExit:
    """Where a policy would have let an answer leave, from what the stages said of it, then or beside it."""
    kind, progress, spent = case.entry.verdict.media, policy.start(), 0.0
    while True:
        move = policy.next_step(kind, progress, math.inf)
        label: Label = "roadwork" if progress.posterior >= policy.decision_threshold else "none"
        if isinstance(move, ExitCascade):
            return ReplayedExit(None if progress.spoken is None else progress.spoken.stage, label, spent)
        if isinstance(move, Skip):
            progress = progress.past()
            continue
        report = case.report(move.step.stage)
        if report is None or report.head != move.step.head:  # another head's word is another word
            return ReplayedExit(None, label, spent)
        spent += gflops(report, kind)
        said = None if report.probability is None else logit(report.probability)
        progress = progress.after(move.step, said, report.evidence.text_probability)
