"""Features to train heads on, from the predictions in a journal."""

from collections.abc import Iterable

import numpy as np

from roadwork_serve.calibration.journal_rows import journal_row
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.replay import full_cascade_posterior
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.profiles.stage_kinds import role_of, stage_names

_IRRELEVANT = (None, "neutral")


def features_from_journal(cases: Iterable[JournalRow], policy: Policy) -> FeatureSet:
    """Return the features of journaled photos with their targets.

    The target is the human label, or else the posterior of the stages behind stage 1. Stage 1 and its closer look are
    excluded, so that a head is never trained on the output of an earlier head; photos that no other stage has seen are
    left out. So are clips, whose label need not hold for each frame. Raises ConfigError when nothing is left, or when
    the features come from several backbones.
    """
    of_the_backbone = tuple(stage for stage in stage_names() if role_of(stage) == "features")
    chosen: list[tuple[JournalRow, float, bool, float]] = []
    for case in cases:
        if case.prediction.features is None or case.prediction.verdict.media != "photo":
            continue
        if case.annotation is not None:
            if (positive := case.human_positive) is not None:
                chosen.append((case, float(positive), True, _has_text(case)))
            continue
        progress = full_cascade_posterior(journal_row(case, policy), policy, without=of_the_backbone)
        if progress.last_answered is not None:
            chosen.append((case, progress.posterior, False, _has_text(case)))
    if not chosen:
        raise ConfigError(
            "the journal holds no photo with features and a label from people or later stages; serve some traffic "
            "with journal.features: true"
        )
    models = {case.prediction.features_model for case, *_ in chosen}
    if len(models) > 1:
        raise ConfigError(f"the journal's features are of {', '.join(sorted(models))}; take a window with one of them")
    return FeatureSet(
        model=models.pop(),
        recipe="cls",
        x=np.concatenate([np.asarray(case.prediction.features, np.float32) for case, *_ in chosen]),
        target=np.array([target for _, target, _, _ in chosen], np.float32),
        human_labeled=np.array([people for _, _, people, _ in chosen], dtype=bool),
        weight=np.ones(len(chosen), np.float32),
        has_text=np.array([words for *_, words in chosen], np.float32),
        group=tuple(case.prediction.key or case.prediction.sha256 for case, *_ in chosen),
        name=tuple(case.prediction.id for case, *_ in chosen),
        origin=("journal",),
    )


def _has_text(case: JournalRow) -> float:
    """Return 1 or 0 for readable text, NaN when the sign stage did not run."""
    report = case.report("signs")
    if report is None:
        return np.nan
    return float(any(line.meaning not in _IRRELEVANT for line in report.evidence.text_lines))
