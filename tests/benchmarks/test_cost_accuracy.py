"""Tests of the cost and accuracy benchmark: predictions and costs of each method on synthetic rows."""

import itertools
import json
import math
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cost_accuracy import __main__ as benchmark
from benchmarks.cost_accuracy import rows as row_cache
from benchmarks.cost_accuracy.comparison import MethodComparison, score
from benchmarks.cost_accuracy.frugal import NEVER, Frugal
from benchmarks.cost_accuracy.methods import by_policy, hand_set_cascade, single_stage, stage_flops, tuned
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.schema import MediaKind
from roadwork_serve.testbed.scene_dataset import draw_scene
from tests.calibration.synthetic_rows import synthetic_rows
from tests.evaluation.fakes import POLICY, RED, judge_by_colour, row, write_jpeg

ROWS = [each for each in synthetic_rows(700) if each.metadata.kind == "photo"]
OTHERS = [each for each in synthetic_rows(500, seed=1) if each.metadata.kind == "photo"]
STAGE1, VLM = stage_flops("backbone"), stage_flops("backbone") + stage_flops("signs") + stage_flops("vlm")
ALL = VLM + stage_flops("reasoner")
STAGES = ("backbone", "signs", "vlm", "reasoner")
LOGITS = st.floats(-30, 30)


@pytest.fixture(scope="module")
def comparison() -> MethodComparison:
    """Return all methods, fitted to ROWS."""
    return MethodComparison(ROWS, POLICY)


def scored_row(
    backbone: float, signs: float | None = None, vlm: float = 0.0, reasoner: float = 0.0, label: bool = True
) -> EvaluationRow:
    records = {"backbone": backbone, "signs": signs, "vlm": vlm, "reasoner": reasoner}
    return row(label=label, records={stage: (logit, None) for stage, logit in records.items()})


@pytest.mark.parametrize(
    ("one", "answer", "cost_flops"),
    [
        (scored_row(1.8, -4, -9, -9), True, STAGE1),  # a score of 0.858
        (scored_row(-1.8, 4, 9, 9), False, STAGE1),
        (scored_row(1.7, None, -0.1, 9), False, VLM),  # 0.846: inside the band, and an abstention does not vote
        (scored_row(-1.7, None, 0.1, -9), True, VLM),
        (scored_row(0, 0.0, -1, 9), False, VLM),  # a neutral score does not vote, either
        (scored_row(0, 4, 9, -9), True, VLM),
        (scored_row(0, -4, 9, -0.1), False, ALL),
        (scored_row(0, 0.1, -9, 0.1), True, ALL),  # confidence does not count
    ],
)
def test_the_hand_set_cascade_votes(one: EvaluationRow, answer: bool, cost_flops: float) -> None:
    predictions = hand_set_cascade([one])
    assert (predictions.roadwork.tolist(), predictions.cost_flops.tolist()) == ([answer], [cost_flops])


@given(st.lists(st.tuples(LOGITS, st.none() | LOGITS, LOGITS, LOGITS, st.booleans()), min_size=1, max_size=20))
def test_the_hand_set_cascade_has_three_costs_and_uses_only_stages_it_pays_for(
    logit_rows: list[tuple[float, float | None, float, float, bool]],
) -> None:
    rows = [scored_row(*each) for each in logit_rows]
    predictions = hand_set_cascade(rows)
    replacements = {STAGE1: (None, 0.0, 0.0), VLM: (..., ..., 0.0), ALL: (..., ..., ...)}
    for (first, *rest, label), answer, cost_flops in zip(
        logit_rows, predictions.roadwork, predictions.cost_flops, strict=True
    ):
        visible = [old if new is ... else new for old, new in zip(rest, replacements[cost_flops], strict=True)]
        again = hand_set_cascade([scored_row(first, *visible, label=not label)])  # pyright: ignore[reportArgumentType]
        assert (again.roadwork[0], again.cost_flops[0]) == (answer, cost_flops)


def test_a_method_that_never_runs_the_vlm_costs_exactly_the_backbone(comparison: MethodComparison) -> None:
    tflop = round(stage_flops("backbone") / 1e12, 3)
    sure = [scored_row(9, label=True), scored_row(-9, label=False), scored_row(9, label=False)]
    methods = [single_stage("backbone"), hand_set_cascade, comparison.frugal.method((0.0, 0.0, 0.0)), by_policy(POLICY)]
    assert [score("", sure, way(sure)).tflop for way in methods] == [tflop] * 4
    assert [round(score("", sure, way(sure)).accuracy, 3) for way in methods] == [0.667] * 4


def test_no_candidate_beats_the_front_on_the_rows_it_was_fitted_to(comparison: MethodComparison) -> None:
    frugal = comparison.frugal
    for one in frugal.candidates:
        reached = frugal.within(one.cost_flops)
        assert reached.cost_flops <= one.cost_flops and reached.accuracy >= one.accuracy
    for cheaper, dearer in itertools.pairwise(frugal.front):
        assert cheaper.cost_flops < dearer.cost_flops and cheaper.accuracy < dearer.accuracy
    for one in frugal.front:
        found = score("", ROWS, frugal.method(one.thresholds)(ROWS))
        assert (found.tflop, found.accuracy) == (round(one.cost_flops / 1e12, 3), round(one.accuracy, 4))


def test_single_stages_are_among_what_frugal_tries(comparison: MethodComparison) -> None:
    candidates = {(round(each.cost_flops), round(each.accuracy, 9)) for each in comparison.frugal.candidates}
    for stage in ("backbone", "vlm", "reasoner"):
        predictions = single_stage(stage)(ROWS)
        correct = np.mean([s == r.metadata.label for s, r in zip(predictions.roadwork, ROWS, strict=True)])
        assert (round(stage_flops(stage)), round(float(correct), 9)) in candidates


def test_a_stage_left_out_costs_nothing_and_has_no_effect(comparison: MethodComparison) -> None:
    frugal, one = comparison.frugal, scored_row(9, 0.1, -9, 0.1)
    left_out = ((NEVER, NEVER, NEVER), (NEVER, NEVER, 0.0), (1.1, NEVER, NEVER), (1.1, 0.0, 0.0), (1.1, 1.1, 1.1))
    predictions = [frugal.method(each)([one]) for each in left_out]
    assert [bool(each.roadwork[0]) for each in predictions] == [True, False, True, True, True]
    backbone, signs, vlm, reasoner = (stage_flops(stage) for stage in STAGES)
    paid = [reasoner, vlm, backbone + reasoner, backbone + signs, backbone + signs + vlm + reasoner]
    assert [each.cost_flops[0] for each in predictions] == paid


def test_images_without_text_go_on_to_the_next_stage(comparison: MethodComparison) -> None:
    (silent,) = {
        each.thresholds[1]
        for each in comparison.frugal.candidates
        if each.thresholds[0] == NEVER and each.cost_flops == stage_flops("signs")
    }
    loud = comparison.frugal.method((NEVER, silent + 1e-9, 0.0))([scored_row(0, 4.0), scored_row(0, None)])
    assert loud.cost_flops.tolist() == [stage_flops("signs"), stage_flops("signs") + stage_flops("vlm")]


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(0, 1)] * 3), st.tuples(*[st.floats(0, 0.5)] * 3))
def test_higher_thresholds_never_cost_less(
    comparison: MethodComparison, hasty: tuple[float, ...], more: tuple[float, ...]
) -> None:
    careful = [threshold + beyond for threshold, beyond in zip(hasty, more, strict=True)]
    assert (
        comparison.frugal.method(careful)(OTHERS).cost_flops >= comparison.frugal.method(hasty)(OTHERS).cost_flops
    ).all()


@pytest.mark.parametrize("correct", [True, False])
def test_a_stage_that_is_always_right_or_never_has_no_scorer(correct: bool) -> None:
    rows = [scored_row(3, 4, 5, 5, label=correct), scored_row(-2, -4, -5, -5, label=not correct)] * 10
    frugal = Frugal(rows)
    assert frugal.within(math.inf).accuracy == correct
    assert frugal.within(0.0) is frugal.front[0]


def test_the_policy_is_judged_as_the_router_would() -> None:
    predictions = by_policy(POLICY)(ROWS)
    methods = [replay(each, POLICY) for each in ROWS]
    assert predictions.roadwork.tolist() == [way.progress.posterior >= POLICY.decision_threshold for way in methods]
    left_first = np.array([way.exit_stage == "backbone" and way.done for way in methods])
    assert 0 < left_first.sum() < len(ROWS)
    assert (predictions.cost_flops[left_first] == STAGE1).all() and (predictions.cost_flops[~left_first] > STAGE1).all()


def test_methods_are_fitted_to_one_set_and_tested_on_another(comparison: MethodComparison) -> None:
    found = comparison.evaluate(OTHERS)
    at = {each.name: each for each in found.methods}
    assert {"stage 1 alone", "fast VLM on every item", "hand-set cascade", comparison.ours} < set(at)
    assert at[comparison.ours] == score(comparison.ours, OTHERS, by_policy(POLICY)(OTHERS))
    assert at["stage 1 alone"].tflop < at[comparison.ours].tflop < at[f"all stages of {POLICY.version}"].tflop
    budget = by_policy(POLICY)(ROWS).cost_flops.mean()
    frugal_candidate = comparison.frugal.within(float(budget))
    assert (
        at[f"FrugalGPT, with the budget of {POLICY.version}"].accuracy
        == score("", OTHERS, comparison.frugal.method(frugal_candidate.thresholds)(OTHERS)).accuracy
    )
    for each in found.differences:
        difference = at[comparison.ours].accuracy - at[each.name].accuracy
        assert (each.only_shipped - each.only_other) / found.n == pytest.approx(difference, abs=2e-4)
        assert each.low <= difference + 2e-4 and difference - 2e-4 <= each.high
    assert all(each.low <= each.accuracy <= each.high for each in found.methods)
    assert [each.tflop for each in found.bands] == sorted(each.tflop for each in found.bands)


def test_parts_add_up_and_groups_get_no_interval(comparison: MethodComparison) -> None:
    def photo(group: str, label: bool, hard: bool = False) -> SampleMetadata:
        return SampleMetadata("a.jpg", "photo", label, group=group, hard_negative=hard)

    all_metadata = [photo("drive", True), photo("drive", True), photo("cones", False), photo("cones", False, True)]
    rows = [
        row(metadata=metadata, records=dict.fromkeys(STAGES, (4.0, None)), text_probability=0.1)
        for metadata in all_metadata
    ]
    found = comparison.evaluate(rows)
    assert {name: (part.n, part.roadwork) for name, part in found.subsets.items()} == {
        "drive": (2, 2), "cones": (2, 0), "hard negatives": (1, 0),
    }  # fmt: skip
    assert found.majority_baseline == 0.5
    for each in found.methods:
        assert (
            found.subsets["drive"].correct[each.name] + found.subsets["cones"].correct[each.name] == 4 * each.accuracy
        )
        assert math.isnan(each.low) and math.isnan(each.high)


def test_tuning_certifies_nothing_on_few_rows_and_saves_on_many() -> None:
    assert tuned(ROWS[:100], POLICY) is None
    many = [each for each in synthetic_rows(2000) if each.metadata.kind == "photo"]
    better = tuned(many, POLICY)
    assert better is not None and better.certificate is not None
    assert by_policy(better)(OTHERS).cost_flops.mean() < 0.6 * VLM


def test_a_missing_stage_is_named() -> None:
    with pytest.raises(ConfigError, match=r"reasoner was not run on a; .*--all-stages"):
        hand_set_cascade([row(records=dict.fromkeys(STAGES[:3], (1.0, None)))])


def test_training_photographs_are_recognized() -> None:
    cmu = "ODC-By-1.0 (CMU ROADWork; redistributed by Mi3-Lab/workzone, MIT code)"
    licences = [(cmu, "clip_boston"), (cmu, "clip_houston"), ("unlicensed, evaluation only", "u_p1")]
    all_metadata = [SampleMetadata("a", "photo", True, group=group, licence=licence) for licence, group in licences]
    assert [row_cache.in_training_set(metadata) for metadata in all_metadata] == [True, False, False]


def test_rows_are_made_once_for_each_count_seed_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)
    drawn: list[int] = []

    def draw(wanted: list[tuple[int, MediaKind]], workers: int) -> Generator[Sample]:
        for seed, kind in wanted:
            drawn.append(seed)
            yield draw_scene(seed, kind)

    monkeypatch.setattr(row_cache, "draw_scenes", draw)
    first = row_cache.scene_rows(10, 1, tmp_path)
    assert [each.metadata.seed for each in first] == drawn == list(range(1_000_000, 1_000_009))
    assert all(each.record(stage) is not None for each in first for stage in STAGES)
    assert row_cache.scene_rows(10, 1, tmp_path) == first and len(drawn) == 9
    for count, seed in ((11, 1), (10, 2)):
        drawn.clear()
        assert len(row_cache.scene_rows(count, seed, tmp_path)) == len(drawn) == count - 1
    drawn.clear()
    monkeypatch.setattr(row_cache, "fingerprint", lambda: "other weights")
    assert len(row_cache.scene_rows(10, 1, tmp_path)) == len(drawn) == 9


def test_an_interrupted_run_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)

    def draw(wanted: list[tuple[int, MediaKind]], workers: int) -> Generator[Sample]:
        yield draw_scene(*wanted[0])
        raise OSError("interrupted")

    monkeypatch.setattr(row_cache, "draw_scenes", draw)
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as broken:
            row_cache.scene_rows(10, 1, tmp_path)
        assert broken.group_contains(OSError, match="interrupted")


def test_a_photograph_without_a_verdict_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)
    write_jpeg(tmp_path / "a.jpg", RED)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    manifest = tmp_path / "manifest.csv"
    head, lines = "file,label,source_repo,path,licence,notes", ["a.jpg,roadwork,,,MIT,", "c.jpg,none,,,MIT,AMBIGUOUS"]
    write_jpeg(tmp_path / "c.jpg", RED)
    manifest.write_text("\n".join([head, *lines]))
    assert [each.metadata.name for each in row_cache.photo_rows(tmp_path, tmp_path)] == ["a.jpg"]
    manifest.write_text("\n".join([head, *lines, "b.jpg,none,,,MIT,"]))
    with pytest.raises(ConfigError, match=r"b.jpg got no verdict: .*; fix or remove it"):
        row_cache.photo_rows(tmp_path, tmp_path)


@pytest.mark.parametrize("arguments", [["--photos", "absent"], ["--quick"]])
def test_photographs_are_optional(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "scene_rows", lambda count, seed: ROWS if seed == benchmark.FIT_SEED else OTHERS)
    out = tmp_path / "cost_accuracy.json"
    assert benchmark.main([*arguments, "--out", str(out)]) == 0
    assert "No photographs" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert list(result["results"]) == ["rendered scenes"]
    assert result["environment"]["command"].startswith("python -m benchmarks.cost_accuracy --")
    assert result["models"]["vlm"] == "m (miniature)"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
