"""Evaluation rows and features from the journal."""

from dataclasses import replace

import numpy as np
import pytest

from roadwork_serve.calibration.journal_rows import journal_row, journal_rows
from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.step import Step
from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.journal_features import features_from_journal
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.schema import Box, Evidence, StageReport, TextLine
from tests.journal.made import entry, report

STEPS = (
    Step(stage="backbone", exit=(0.2, 0.8)),
    Step(stage="signs", exit=(0.0, 1.0)),
    Step(stage="vlm", exit=(0.5, 0.5)),
)
POLICY = Policy(
    version="p", photo=STEPS, clip=(Step(stage="backbone", exit=(0.2, 0.8)), Step(stage="video", exit=(0.5, 0.5)))
)


def case(
    name: str,
    *reports: StageReport,
    audit: tuple[StageReport, ...] | None = None,
    annotation: Annotation | None = None,
    **fields,
) -> JournalRow:
    verdict = fields.pop("verdict", {}) | {"stages": list(reports)}
    return JournalRow(
        entry(name, fields.pop("probability", 0.9), verdict=verdict, **fields), audit, annotation=annotation
    )


def words(meaning: str | None) -> StageReport:
    box = Box(x0=0, y0=0, x1=1, y1=1)
    return report(
        "signs", 0.9, evidence=Evidence(text_lines=[TextLine(text="X", confidence=1, meaning=meaning, box=box)])
    )


def test_rows_are_the_sampled_entries_with_a_full_audit() -> None:
    sure, vlm, signs = report("backbone", 0.9), report("vlm", 0.2, compute_ms=80, batch_size=4), report("signs", None)
    cases = [
        case("a", sure, audit=(vlm, signs)),
        case("early", sure),
        case("given up", sure, audit=None),
    ]
    drawn = replace(cases[0], prediction=replace(cases[0].prediction, audit_rate=0.25, key="camera"))
    (row,) = journal_rows([drawn, *cases[1:]], POLICY)
    assert (row.metadata.name, row.metadata.group, row.weight) == ("a", "camera", 4.0)
    assert {record.stage: record.logit for record in row.records} == {
        "backbone": pytest.approx(logit(0.9)),
        "vlm": pytest.approx(logit(0.2)),
        "signs": None,
    }
    assert row.record("vlm").ms == 20  # type: ignore[union-attr]


def test_an_entry_that_was_not_sampled_is_no_row_even_with_all_predictions() -> None:
    reports = (report("backbone", 0.5), report("signs", None), report("vlm", 0.7))
    assert journal_rows([case("a", *reports), case("b", *reports, audit=())], POLICY) == []


def test_the_label_is_human_or_else_that_of_the_full_cascade() -> None:
    reports = report("backbone", 0.9), report("signs", None), report("vlm", 0.01)
    nobody = journal_row(case("a", *reports), POLICY)
    assert (nobody.metadata.label, nobody.metadata.pseudo_labeled, not nobody.metadata.ignore) == (False, True, True)
    somebody = journal_row(case("a", *reports, annotation=Annotation("roadwork", "ann", 1.0)), POLICY)
    assert (somebody.metadata.label, somebody.metadata.pseudo_labeled) == (True, False)
    unsure = journal_row(case("a", *reports, annotation=Annotation(None, "ann", 1.0)), POLICY)
    assert unsure.metadata.ignore


def test_stages_of_the_answer_are_distinguished_from_audited_ones() -> None:
    row = journal_row(case("a", report("backbone", 0.9, posterior=0.9), audit=(report("vlm", 0.2),)), POLICY)
    assert row.entered == ("backbone",)


def test_features_are_labelled_by_people_or_later_stages_and_never_by_stage_1() -> None:
    cases = [
        case("vlm", report("backbone", 0.99), report("vlm", 0.3)),
        case("marked", report("backbone", 0.99), annotation=Annotation("none", "ann", 1.0)),
        case("alone", report("backbone", 0.99)),
        case("twice", report("backbone", 0.5), report("closeup", 0.99)),
        case("unclear", report("vlm", 0.9), annotation=Annotation(None, "ann", 1.0)),
        case("clip", report("video", 0.9), verdict={"media": "clip"}),
        case("bare", report("vlm", 0.9), features=None),
        case("read", words("begin"), report("vlm", 0.6), key="trip"),
        case("neutral", words("neutral"), report("vlm", 0.6)),
    ]
    closer = Step(stage="closeup", exit=(0.2, 0.8))
    found = features_from_journal(cases, POLICY.with_steps("photo", (STEPS[0], closer, *STEPS[1:])))
    assert found.name == ("vlm", "marked", "read", "neutral")
    assert found.target[:2] == pytest.approx([0.3, 0.0], abs=1e-6)
    assert found.human_labeled.tolist() == [False, True, False, False]
    assert np.isnan(found.has_text[:2]).all() and found.has_text[2:].tolist() == [1.0, 0.0]
    assert found.group[2] == "trip" and found.group[0] == cases[0].prediction.sha256
    assert (found.model, found.recipe, found.x.dtype) == ("made", "cls", np.float32)


def test_features_of_two_backbones_do_not_mix() -> None:
    one, other = case("a", report("vlm", 0.3)), case("b", report("vlm", 0.3), features_model="other")
    with pytest.raises(ConfigError, match="are of made, other"):
        features_from_journal([one, other], POLICY)


def test_an_empty_journal_is_an_error() -> None:
    with pytest.raises(ConfigError, match="holds no photo with features"):
        features_from_journal([], POLICY)
