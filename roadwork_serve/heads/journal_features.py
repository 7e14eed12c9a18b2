"""Journal answers as features to train heads on."""

from collections.abc import Iterable

import numpy as np

from roadwork_serve.calibration.journal_rows import journal_row
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.replay import full_cascade_posterior
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.journal.record import JournalRow

_MEANS_NOTHING = (None, "neutral")


def features_from_journal(cases: Iterable[JournalRow], policy: Policy) -> FeatureSet:
    """Photos with what stage 1 made of them, and what others said: to train a head on.

    The target is what people said, else what the stages behind stage 1 say together; stage 1's own word is left out, so
    that a head never learns from heads before it, and photos that nobody but stage 1 has judged are left out with it.
    Clips are left out too: what is true of a clip need not be true of each of its frames. Raises ConfigError where
    nothing is left, or where features are of several backbones.
    """
    kept: list[tuple[JournalRow, float, bool, float]] = []
    for case in cases:
        if case.entry.features is None or case.entry.verdict.media != "photo":
            continue
        if case.mark is not None:
            if case.mark.label is not None:
                kept.append((case, float(case.mark.label == "roadwork"), True, _words(case)))
            continue
        progress = full_cascade_posterior(journal_row(case, policy), policy, without="backbone")
        if progress.spoken is not None:
            kept.append((case, progress.posterior, False, _words(case)))
    if not kept:
        raise ConfigError(
            "the journal holds no photo with features that people or later stages have judged; let some traffic "
            "through, with journal.features: true"
        )
    models = {case.entry.features_model for case, *_ in kept}
    if len(models) > 1:
        raise ConfigError(f"the journal's features are of {', '.join(sorted(models))}; take a window with one of them")
    return FeatureSet(
        model=models.pop(),
        recipe="cls",
        x=np.concatenate([np.asarray(case.entry.features, np.float32) for case, *_ in kept]),
        target=np.array([target for _, target, _, _ in kept], np.float32),
        human_labeled=np.array([people for _, _, people, _ in kept], dtype=bool),
        weight=np.ones(len(kept), np.float32),
        words=np.array([words for *_, words in kept], np.float32),
        group=tuple(case.entry.key or case.entry.sha256 for case, *_ in kept),
        name=tuple(case.entry.id for case, *_ in kept),
        origin=("journal",),
    )


def _words(case: JournalRow) -> float:
    """1 or 0, NaN where the sign reader did not look."""
    report = case.report("signs")
    if report is None:
        return np.nan
    return float(any(words.meaning not in _MEANS_NOTHING for words in report.evidence.words))
