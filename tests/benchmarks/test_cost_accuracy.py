"""The cascade's worth: what each way says and spends on made-up rows, and what no way may do."""

import itertools
import json
import math
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cost_accuracy import __main__ as worth
from benchmarks.cost_accuracy import rows as kept
from benchmarks.cost_accuracy.frugal import NEVER, Frugal
from benchmarks.cost_accuracy.places import Field, place
from benchmarks.cost_accuracy.ways import alone, by_hand, price, tuned, under
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
STAGE1, VLM = price("backbone"), price("backbone") + price("signs") + price("vlm")
ALL = VLM + price("reasoner")
LOOKS = ("backbone", "signs", "vlm", "reasoner")
WORDS = st.floats(-30, 30)


@pytest.fixture(scope="module")
def field() -> Field:
    """All ways, fitted to ROWS."""
    return Field(ROWS, POLICY)


def said(
    backbone: float, signs: float | None = None, vlm: float = 0.0, reasoner: float = 0.0, label: bool = True
) -> EvaluationRow:
    records = {"backbone": backbone, "signs": signs, "vlm": vlm, "reasoner": reasoner}
    return row(label=label, records={stage: (logit, None) for stage, logit in records.items()})


@pytest.mark.parametrize(
    ("one", "answer", "flop"),
    [
        (said(1.8, -4, -9, -9), True, STAGE1),  # a score of 0.858
        (said(-1.8, 4, 9, 9), False, STAGE1),
        (said(1.7, None, -0.1, 9), False, VLM),  # 0.846: in doubt, and silence does not vote
        (said(-1.7, None, 0.1, -9), True, VLM),
        (said(0, 0.0, -1, 9), False, VLM),  # neutral words do not vote, either
        (said(0, 4, 9, -9), True, VLM),
        (said(0, -4, 9, -0.1), False, ALL),
        (said(0, 0.1, -9, 0.1), True, ALL),  # how sure any of them is does not count
    ],
)
def test_the_hand_set_cascade_votes(one: EvaluationRow, answer: bool, flop: float) -> None:
    judged = by_hand([one])
    assert (judged.said.tolist(), judged.flop.tolist()) == ([answer], [flop])


@given(st.lists(st.tuples(WORDS, st.none() | WORDS, WORDS, WORDS, st.booleans()), min_size=1, max_size=20))
def test_the_hand_set_cascade_spends_one_of_three_sums_and_sees_only_what_it_pays_for(
    words: list[tuple[float, float | None, float, float, bool]],
) -> None:
    rows = [said(*each) for each in words]
    judged = by_hand(rows)
    deaf = {STAGE1: (None, 0.0, 0.0), VLM: (..., ..., 0.0), ALL: (..., ..., ...)}
    for (first, *rest, label), answer, flop in zip(words, judged.said, judged.flop, strict=True):
        heard = [old if new is ... else new for old, new in zip(rest, deaf[flop], strict=True)]
        again = by_hand([said(first, *heard, label=not label)])  # pyright: ignore[reportArgumentType]
        assert (again.said[0], again.flop[0]) == (answer, flop)


def test_a_way_that_never_asks_the_vlm_costs_exactly_the_backbone(field: Field) -> None:
    tflop = round(price("backbone") / 1e12, 3)
    sure = [said(9, label=True), said(-9, label=False), said(9, label=False)]
    ways = [alone("backbone"), by_hand, field.frugal.judge((0.0, 0.0, 0.0)), under(POLICY)]
    assert [place("", sure, way(sure)).tflop for way in ways] == [tflop] * 4
    assert [round(place("", sure, way(sure)).accuracy, 3) for way in ways] == [0.667] * 4


def test_no_thresholds_that_were_tried_beat_the_line_on_the_rows_it_was_fitted_to(field: Field) -> None:
    frugal = field.frugal
    for one in frugal.tried:
        reached = frugal.within(one.flop)
        assert reached.flop <= one.flop and reached.accuracy >= one.accuracy
    for cheaper, dearer in itertools.pairwise(frugal.line):
        assert cheaper.flop < dearer.flop and cheaper.accuracy < dearer.accuracy
    for one in frugal.line:
        found = place("", ROWS, frugal.judge(one.thresholds)(ROWS))
        assert (found.tflop, found.accuracy) == (round(one.flop / 1e12, 3), round(one.accuracy, 4))


def test_single_stages_are_among_what_frugal_tries(field: Field) -> None:
    tried = {(round(each.flop), round(each.accuracy, 9)) for each in field.frugal.tried}
    for stage in ("backbone", "vlm", "reasoner"):
        judged = alone(stage)(ROWS)
        right = np.mean([s == r.metadata.label for s, r in zip(judged.said, ROWS, strict=True)])
        assert (round(price(stage)), round(float(right), 9)) in tried


def test_a_stage_left_out_is_neither_paid_nor_heard(field: Field) -> None:
    frugal, one = field.frugal, said(9, 0.1, -9, 0.1)
    left_out = ((NEVER, NEVER, NEVER), (NEVER, NEVER, 0.0), (1.1, NEVER, NEVER), (1.1, 0.0, 0.0), (1.1, 1.1, 1.1))
    judged = [frugal.judge(each)([one]) for each in left_out]
    assert [bool(each.said[0]) for each in judged] == [True, False, True, True, True]
    backbone, signs, vlm, reasoner = (price(stage) for stage in LOOKS)
    paid = [reasoner, vlm, backbone + reasoner, backbone + signs, backbone + signs + vlm + reasoner]
    assert [each.flop[0] for each in judged] == paid


def test_silent_signs_are_passed_by(field: Field) -> None:
    (silent,) = {
        each.thresholds[1] for each in field.frugal.tried if each.thresholds[0] == NEVER and each.flop == price("signs")
    }
    loud = field.frugal.judge((NEVER, silent + 1e-9, 0.0))([said(0, 4.0), said(0, None)])
    assert loud.flop.tolist() == [price("signs"), price("signs") + price("vlm")]


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(0, 1)] * 3), st.tuples(*[st.floats(0, 0.5)] * 3))
def test_more_care_never_costs_less(field: Field, hasty: tuple[float, ...], more: tuple[float, ...]) -> None:
    careful = [threshold + beyond for threshold, beyond in zip(hasty, more, strict=True)]
    assert (field.frugal.judge(careful)(OTHERS).flop >= field.frugal.judge(hasty)(OTHERS).flop).all()


@pytest.mark.parametrize("right", [True, False])
def test_a_stage_that_was_always_right_or_never_gives_nothing_to_fit(right: bool) -> None:
    rows = [said(3, 4, 5, 5, label=right), said(-2, -4, -5, -5, label=not right)] * 10
    frugal = Frugal(rows)
    assert frugal.within(math.inf).accuracy == right
    assert frugal.within(0.0) is frugal.line[0]


def test_the_policy_is_judged_as_the_router_would() -> None:
    judged = under(POLICY)(ROWS)
    ways = [replay(each, POLICY) for each in ROWS]
    assert judged.said.tolist() == [way.progress.posterior >= POLICY.decision_threshold for way in ways]
    left_first = np.array([way.exit_stage == "backbone" and way.done for way in ways])
    assert 0 < left_first.sum() < len(ROWS)
    assert (judged.flop[left_first] == STAGE1).all() and (judged.flop[~left_first] > STAGE1).all()


def test_a_field_is_fitted_to_its_own_rows_alone_and_judges_others(field: Field) -> None:
    found = field.on(OTHERS)
    at = {each.name: each for each in found.places}
    assert {"stage 1 alone", "fast VLM on all", "hand-set cascade", field.ours} < set(at)
    assert at[field.ours] == place(field.ours, OTHERS, under(POLICY)(OTHERS))
    assert at["stage 1 alone"].tflop < at[field.ours].tflop < at[f"all stages of {POLICY.version}"].tflop
    budget = under(POLICY)(ROWS).flop.mean()
    rival = field.frugal.within(float(budget))
    assert (
        at[f"FrugalGPT, budget of {POLICY.version}"].accuracy
        == place("", OTHERS, field.frugal.judge(rival.thresholds)(OTHERS)).accuracy
    )
    for each in found.versus:
        difference = at[field.ours].accuracy - at[each.name].accuracy
        assert (each.gained - each.lost) / found.n == pytest.approx(difference, abs=2e-4)
        assert each.low <= difference + 2e-4 and difference - 2e-4 <= each.high
    assert all(each.low <= each.accuracy <= each.high for each in found.places)
    assert [each.tflop for each in found.bands] == sorted(each.tflop for each in found.bands)


def test_parts_add_up_and_groups_get_no_interval(field: Field) -> None:
    def photo(group: str, label: bool, hard: bool = False) -> SampleMetadata:
        return SampleMetadata("a.jpg", "photo", label, group=group, hard_negative=hard)

    abouts = [photo("drive", True), photo("drive", True), photo("cones", False), photo("cones", False, True)]
    rows = [row(metadata=about, records=dict.fromkeys(LOOKS, (4.0, None)), text_probability=0.1) for about in abouts]
    found = field.on(rows)
    assert {name: (part.n, part.roadwork) for name, part in found.parts.items()} == {
        "drive": (2, 2), "cones": (2, 0), "hard negatives": (1, 0),
    }  # fmt: skip
    assert found.always == 0.5
    for each in found.places:
        assert found.parts["drive"].right[each.name] + found.parts["cones"].right[each.name] == 4 * each.accuracy
        assert math.isnan(each.low) and math.isnan(each.high)


def test_tuning_promises_nothing_on_few_rows_and_saves_on_many() -> None:
    assert tuned(ROWS[:100], POLICY) is None
    many = [each for each in synthetic_rows(2000) if each.metadata.kind == "photo"]
    better = tuned(many, POLICY)
    assert better is not None and better.certificate is not None
    assert under(better)(OTHERS).flop.mean() < 0.6 * VLM


def test_a_stage_that_was_not_asked_is_named() -> None:
    with pytest.raises(ConfigError, match=r"reasoner did not speak on a; .*--all-stages"):
        by_hand([row(records=dict.fromkeys(LOOKS[:3], (1.0, None)))])


def test_photographs_that_taught_the_miniatures_are_told_from_others() -> None:
    cmu = "ODC-By-1.0 (CMU ROADWork; redistributed by Mi3-Lab/workzone, MIT code)"
    licences = [(cmu, "clip_boston"), (cmu, "clip_houston"), ("unlicensed, evaluation only", "u_p1")]
    abouts = [SampleMetadata("a", "photo", True, group=group, licence=licence) for licence, group in licences]
    assert [kept.taught(about) for about in abouts] == [True, False, False]


def test_rows_are_made_once_for_each_count_seed_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)
    drawn: list[int] = []

    def draw(wanted: list[tuple[int, MediaKind]], workers: int) -> Generator[Sample]:
        for seed, kind in wanted:
            drawn.append(seed)
            yield draw_scene(seed, kind)

    monkeypatch.setattr(kept, "draw_scenes", draw)
    first = kept.of_scenes(10, 1, tmp_path)
    assert [each.metadata.seed for each in first] == drawn == list(range(1_000_000, 1_000_009))
    assert all(each.record(stage) is not None for each in first for stage in LOOKS)
    assert kept.of_scenes(10, 1, tmp_path) == first and len(drawn) == 9
    for count, seed in ((11, 1), (10, 2)):
        drawn.clear()
        assert len(kept.of_scenes(count, seed, tmp_path)) == len(drawn) == count - 1
    drawn.clear()
    monkeypatch.setattr(kept, "judges", lambda: "other weights")
    assert len(kept.of_scenes(10, 1, tmp_path)) == len(drawn) == 9


def test_what_was_broken_off_is_not_taken_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)

    def draw(wanted: list[tuple[int, MediaKind]], workers: int) -> Generator[Sample]:
        yield draw_scene(*wanted[0])
        raise OSError("broken off")

    monkeypatch.setattr(kept, "draw_scenes", draw)
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as broken:
            kept.of_scenes(10, 1, tmp_path)
        assert broken.group_contains(OSError, match="broken off")


def test_a_photograph_without_a_verdict_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)
    write_jpeg(tmp_path / "a.jpg", RED)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    manifest = tmp_path / "manifest.csv"
    head, lines = "file,label,source_repo,path,licence,notes", ["a.jpg,roadwork,,,MIT,", "c.jpg,none,,,MIT,AMBIGUOUS"]
    write_jpeg(tmp_path / "c.jpg", RED)
    manifest.write_text("\n".join([head, *lines]))
    assert [each.metadata.name for each in kept.of_photos(tmp_path, tmp_path)] == ["a.jpg"]
    manifest.write_text("\n".join([head, *lines, "b.jpg,none,,,MIT,"]))
    with pytest.raises(ConfigError, match=r"b.jpg got no verdict: .*; mend or remove it"):
        kept.of_photos(tmp_path, tmp_path)


@pytest.mark.parametrize("arguments", [["--photos", "absent"], ["--quick"]])
def test_without_photographs_that_half_is_left_out(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worth, "of_scenes", lambda count, seed: ROWS if seed == worth.FIT_SEED else OTHERS)
    out = tmp_path / "cost_accuracy.json"
    assert worth.main([*arguments, "--out", str(out)]) == 0
    assert "No photographs" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert list(result["judged"]) == ["rendered scenes"]
    assert result["environment"]["command"].startswith("python -m benchmarks.cost_accuracy --")
    assert result["models"]["vlm"] == "m (miniature)"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
