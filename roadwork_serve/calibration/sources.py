"""Loads evaluation rows from a file, or from a journal with audits."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from roadwork_serve.calibration.journal_rows import journal_row, journal_rows
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow, read_rows
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.store import PASSWORD_VARIABLE, Store


def load_rows(file: Path | None, journal: str | None, policy: Policy, head: Path | None = None) -> list[EvaluationRow]:
    """Load the rows of a file, or of the journal at a URL (its password may be in ROADWORK_JOURNAL_PASSWORD).

    policy: computes the pseudo-labels of items without a human label. head: recomputes the journal's stage 1
    predictions with this head. Raises ConfigError when there are no rows, or not exactly one source is given.
    """
    if (file is None) == (journal is None):
        raise ConfigError("give one of --rows FILE and --journal URL")
    if file is not None and head is not None:
        raise ConfigError("a file of rows holds no features to apply a head to; make rows with that head instead")
    if file is not None:
        found = read_rows(file)
    else:
        cases = list(_cases(journal or "", Filter(audited=True)))
        found = journal_rows(cases, policy)
        if head is not None:
            from roadwork_serve.calibration.rescore import rescore
            from roadwork_serve.engines.features import Head

            entries = [case.prediction for case in cases]
            features = {entry.id: entry.features for entry in entries if entry.features is not None}
            found = rescore(found, features, Head.load(head))
    if not found:
        raise ConfigError(
            f"{file or 'the journal'} holds no item that every stage has processed; make rows with `roadwork evaluate "
            "--all-stages --rows FILE`, or collect them with `audit: {share: 0.05}` in the rollout"
        )
    return found


def arm_rows(journal: str, arm: str, policy: Policy) -> list[EvaluationRow]:
    """Return the human-labelled rows of one arm of an A/B test, `a` or `b`."""
    return [journal_row(case, policy) for case in _cases(journal, Filter(arm=arm, labeled=True))]


def with_head(policy: Policy, head: Path | None) -> Policy:
    """Return the policy with the head in that folder for stage 1; unchanged for None."""
    if head is None:
        return policy
    folder = str(head.absolute())
    for kind in ("photo", "clip"):
        steps = policy.steps(kind)
        policy = policy.with_steps(
            kind, [step.model_copy(update={"head": folder}) if step.stage == "backbone" else step for step in steps]
        )
    return policy


def _cases(journal: str, wanted: Filter) -> Iterator[JournalRow]:
    with closing(Store.open(journal, password=os.environ.get(PASSWORD_VARIABLE))) as store:
        yield from store.find(wanted)
