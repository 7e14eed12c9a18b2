"""Another task and a stage of another package, from the profile to the verdict, the journal, its labels and tuning."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.api.journal_reader import JournalReader
from roadwork_serve.api.policy_preview import preview_policy
from roadwork_serve.calibration.calibrate import calibrate
from roadwork_serve.calibration.journal_rows import journal_row
from roadwork_serve.calibration.thresholds import TuningSettings, tune
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import BadRequest, ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow, SampleMetadata, StageRecord
from roadwork_serve.journal.export import export_row
from roadwork_serve.journal.store import Store
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.flops import flops, profile_flops
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import HumanLabel, Verdict
from tests.journal.made import entry
from tests.own_stage import install

POLICY = {"version": "dark-1", "photo": [{"stage": "darkness", "exit": [0.5, 0.5]}]}
POLICY["clip"] = POLICY["photo"]
OVERRIDES: dict[str, Any] = {
    "task": "potholes",
    "engines": {"own": {"backend": "own", "model": "darkness-1"}},
    "stages": {**dict.fromkeys(("signs", "vlm", "reasoner", "video", "backbone")), "darkness": {"engine": "own"}},
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (grey,) * 3).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
async def verdicts(installed: None) -> tuple[Profile, list[Verdict]]:
    profile = load_profile("mini", OVERRIDES)
    async with local_cascade(profile, Policy.parse(POLICY)) as cascade:
        return profile, [await cascade.classify(picture(grey)) for grey in (10, 245)]


async def test_a_stage_of_another_package_gives_the_labels_of_another_task(
    verdicts: tuple[Profile, list[Verdict]],
) -> None:
    profile, (dark, bright) = verdicts
    assert [(each.label, each.positive) for each in (dark, bright)] == [("pothole", True), ("none", False)]
    assert dark.exit.stage == "darkness" and dark.stages[0].model == "darkness-1"
    assert deployment_of(profile.stages) == "DarknessStage"
    assert profile_flops(profile)["darkness"].photo == flops(["darkness"], "photo") == 5e8
    with pytest.raises(ConfigError, match="no FLOPs for a clip"):
        flops(["darkness"], "clip")


async def test_the_journal_labels_and_previews_count_them(
    verdicts: tuple[Profile, list[Verdict]], tmp_path: Path
) -> None:
    profile, found = verdicts
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    store = Store.open(url)
    store.commit(
        [replace(entry(each.answer_id, created_at_s=float(at)), verdict=each) for at, each in enumerate(found)]
    )
    reader = JournalReader(lambda: Store.open(url), profile.task)
    for each, label in zip(found, ("none", "none"), strict=True):
        labeled = await reader.label(each.answer_id, HumanLabel(label=label), "ann")
        assert labeled.human_label == label
    with pytest.raises(BadRequest, match="'pothole', 'none' or 'unclear'"):
        await reader.label(found[0].answer_id, HumanLabel(label="roadwork"), "ann")
    reader.close()

    rows = list(store.find())
    assert [export_row(row)["p_darkness"] > 0.5 for row in rows] == [True, False]
    assert [row.human_positive for row in rows] == [False, False]
    learned: list[EvaluationRow] = [journal_row(row, Policy.parse(POLICY)) for row in rows]
    assert [(row.predicted_label, row.metadata.label) for row in learned] == [(True, False), (False, False)]
    strict = [{"stage": "darkness", "exit": [0.9, 0.9999]}]
    proposed = {"version": "dark-2", "decision_threshold": 0.999, "photo": strict, "clip": strict}
    preview = preview_policy(rows, Policy.parse(POLICY), Policy.parse(proposed), ("roadwork", "none"))
    assert (preview.labeled, preview.correct_current, preview.correct_proposed) == (2, 1, 2)
    assert [each.stage for each in preview.exits] == ["darkness"]
    assert preview.gflops_current == 0.5
    store.close()


def test_it_is_calibrated_and_gets_exits_with_a_bound(installed: None) -> None:
    chance, rows = np.random.default_rng(0), list[EvaluationRow]()
    for at in range(600):
        label, name = bool(at % 2), f"photo-{at}"
        sure = 4.0 if label else -4.0
        stages = (
            StageRecord("darkness", chance.normal(sure, 6), None, "darkness-1", False, ms=1.0),
            StageRecord("vlm", 2 * sure, None, "vlm", False, ms=300.0),
        )
        rows.append(EvaluationRow(SampleMetadata(name, "photo", label), 0.5, label, "vlm", "last_stage", False, stages))
    steps = [{"stage": "darkness", "exit": [0.0, 1.0]}, {"stage": "vlm", "exit": [0.5, 0.5]}]
    policy = Policy.parse({"version": "dark-1", "photo": steps, "clip": [steps[1]]})
    calibrated, _ = calibrate(rows, policy, "dark-2")
    assert calibrated.photo[0].calibration != policy.photo[0].calibration
    tuned = tune(rows, calibrated, TuningSettings(risk_limit=0.05)).policy
    assert tuned.certificate is not None
    assert tuned.photo[0].stage == "darkness" and 0 < tuned.photo[0].low < tuned.photo[0].high < 1


def test_a_stage_that_no_package_adds_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"stage is 'darkness'; it should be 'backbone', .* or 'video'"):
        Policy.parse(POLICY)
    with pytest.raises(ConfigError, match="darkness"):
        load_profile("mini", OVERRIDES)


@pytest.mark.parametrize(
    ("value", "problem"),
    [("tests.own_stage:nothing", "cannot be loaded"), ("tests.own_stage:Darkness", "is no StageKind")],
)
def test_a_broken_entry_point_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, problem: str
) -> None:
    install(tmp_path, value=value)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"stages.darkness: stage darkness: its entry point {value}.*{problem}"):
        load_profile("mini", OVERRIDES)


def test_an_engine_without_a_model_of_this_package_runs_only_own_stages() -> None:
    with pytest.raises(ConfigError, match=r"engines\.ocr\.backend: own cannot run signs"):
        load_profile("mini", {"engines": {"ocr": {"backend": "own"}}})
