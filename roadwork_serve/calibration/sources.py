"""Rows to learn from: of a file, or of a journal whose traffic was surveyed."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from roadwork_serve.calibration.journal_rows import journal_row, journal_rows
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow, read_rows
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.store import Store

PASSWORD_VARIABLE = "ROADWORK_JOURNAL_PASSWORD"  # noqa: S105 - the name of a variable


def load_rows(file: Path | None, journal: str | None, policy: Policy, head: Path | None = None) -> list[EvaluationRow]:
    """Rows of the file, or of the journal at that URL: one of the two. The database's password may stand in
    ROADWORK_JOURNAL_PASSWORD.

    policy: that says what is true where nobody looked. head: of the journal's answers, stage 1 as this head would have
    spoken. Raises ConfigError where there are none.
    """
    if (file is None) == (journal is None):
        raise ConfigError("give one of --rows FILE and --from-journal URL")
    if file is not None and head is not None:
        raise ConfigError("a file of rows holds no features for a head to speak from; make rows with that head instead")
    if file is not None:
        found = read_rows(file)
    else:
        cases = list(_cases(journal or "", Filter(audited=True)))
        found = journal_rows(cases, policy)
        if head is not None:
            from roadwork_serve.calibration.rescore import rescore
            from roadwork_serve.engines.features import Head

            kept = {case.entry.id: case.entry.features for case in cases if case.entry.features is not None}
            found = rescore(found, kept, Head.load(head))
    if not found:
        raise ConfigError(
            f"{file or 'the journal'} holds no item that every stage has judged; make rows with `roadwork evaluate "
            "--ask-everyone --rows FILE`, or let rules with `survey: {share: 0.05}` collect them"
        )
    return found


def arm_rows(journal: str, arm: str, policy: Policy) -> list[EvaluationRow]:
    """Answers of one arm of an A/B test, `a` or `b`, that people have spoken of."""
    return [journal_row(case, policy) for case in _cases(journal, Filter(arm=arm, marked=True))]


def with_head(policy: Policy, head: Path | None) -> Policy:
    """The policy, stage 1 speaking with the head in that folder; as it is without one."""
    if head is None:
        return policy
    where = str(head.absolute())
    photo, clip = (
        tuple(replace(step, head=where) if step.stage == "backbone" else step for step in steps)
        for steps in (policy.photo, policy.clip)
    )
    return replace(policy, photo=photo, clip=clip)


def _cases(journal: str, wanted: Filter) -> Iterator[JournalRow]:
    with closing(Store.open(journal, password=os.environ.get(PASSWORD_VARIABLE))) as store:
        yield from store.find(wanted)
