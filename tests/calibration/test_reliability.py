"""Reliability of probabilities before and after calibration, by stage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from roadwork_serve.calibration.calibrate import calibrate
from roadwork_serve.calibration.diagrams import pareto, reliability
from roadwork_serve.calibration.pareto import pareto_fronts
from roadwork_serve.calibration.reliability import Panel, bins, by_source, reliability_panels
from roadwork_serve.evaluation.rows import StageRecord
from tests.calibration.synthetic_rows import synthetic_rows
from tests.calibration.test_calibrate import POLICY, overstated
from tests.evaluation import fakes


@pytest.fixture(scope="module")
def drawn() -> list[Panel]:
    rows = overstated(500)
    policy, result = calibrate(rows, POLICY, "x")
    return reliability_panels(rows, policy, result)


def test_panels_show_each_stage_and_the_cascade_before_and_after(drawn: list[Panel]) -> None:
    assert [(panel.media, panel.stage) for panel in drawn] == [
        ("photo", "backbone"),
        ("photo", "vlm"),
        ("photo", "cascade"),
    ]
    stage1, vlm, whole = drawn
    assert stage1.quality_before.n == whole.quality_after.n == 500 > vlm.quality_after.n > 50
    assert stage1.quality_after.ece < stage1.quality_before.ece / 2
    assert stage1.quality_after.log_loss < stage1.quality_before.log_loss
    assert stage1.truth.mean() == pytest.approx(0.5, abs=0.1)


def test_a_stage_gated_by_text_probability_is_evaluated_only_where_it_runs() -> None:
    rows = overstated(200)
    records = [
        StageRecord("backbone", 0.1, None, "m", True, text_probability=0.9 if at % 2 else 0.1) for at in range(200)
    ]
    worded = [
        replace(row, records=(record, replace(row.records[1], stage="signs")))
        for row, record in zip(rows, records, strict=True)
    ]
    signs = POLICY.photo[1].model_copy(update={"stage": "signs", "min_text_probability": 0.5})
    gated = POLICY.with_steps("photo", (POLICY.photo[0], signs))
    policy, result = calibrate(worded, gated, "x")
    signs = next(panel for panel in reliability_panels(worded, policy, result) if panel.stage == "signs")
    assert signs.truth.tolist() == [row.metadata.label for row in worded[1::2]]


def test_sources_and_hard_negatives_are_reported_separately(drawn: list[Panel]) -> None:
    rows = overstated(500)
    split = [
        replace(row, metadata=replace(row.metadata, source="ours" if at % 2 else "theirs", hard_negative=at % 10 == 0))
        for at, row in enumerate(rows)
    ]
    found = by_source(split, drawn[-1])
    assert {name: after.n for name, (_, after) in found.items()} == {
        "hard negatives of theirs": 50,
        "ours": 250,
        "theirs": 200,
    }
    weighed = sum(before.n * before.log_loss for before, _ in found.values()) / 500
    assert weighed == pytest.approx(drawn[-1].quality_before.log_loss)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60))
def test_every_item_is_in_exactly_one_bin(items: list[tuple[bool, float]]) -> None:
    truth, p = (np.array(each) for each in zip(*items, strict=True))
    found = bins(truth, p)
    assert sum(each.n for each in found) == len(items)
    assert sum(each.n * each.positive_share for each in found) == pytest.approx(truth.sum())
    assert sum(each.n * each.mean_probability for each in found) == pytest.approx(p.sum())
    assert all(each.low - 1e-9 <= each.positive_share <= each.high + 1e-9 for each in found)


def test_figures_are_drawn_even_without_data(drawn: list[Panel], tmp_path: Path) -> None:
    rows = synthetic_rows(300)
    reliability(drawn, tmp_path / "deep" / "reliability.png")
    reliability([], tmp_path / "none.png")
    pareto(pareto_fronts(rows, fakes.POLICY, fakes.POLICY), tmp_path / "pareto.png", "GFLOP", 1e9)
    with Image.open(tmp_path / "deep" / "reliability.png") as picture:
        wide, tall = picture.size
    assert wide > 900 > tall > 300
    with Image.open(tmp_path / "pareto.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels.std(axis=(0, 1)) > 5).all()
    assert (tmp_path / "none.png").stat().st_size > 0
