"""`roadwork evaluate`, over stages that judge by colour."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.testbed.scene_dataset import draw_scene
from tests.evaluation.fakes import BLUE, RED, judge_by_colour, write_jpeg, write_policy


@pytest.fixture(autouse=True)
def colour_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return write_policy(tmp_path / "policy.yaml")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_evaluate_scenes_prints_tables_and_writes_the_report_and_the_rows(tmp_path: Path, policy: str) -> None:
    report, rows = tmp_path / "report.json", tmp_path / "rows.jsonl"
    options = ["--scenes", 10, "--seed", 9001, "--report", report, "--rows", rows, "--all-stages", "--policy", policy]
    result = run("evaluate", *options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(report.read_text())
    assert (numbers["n"], numbers["n_stills"], numbers["n_clips"], numbers["seed"]) == (10, 9, 1, 9001)
    assert numbers["accuracy_vlm_all"] is not None
    assert f"{numbers['accuracy']:.4f}" in result.stdout
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [line["metadata"]["seed"] for line in lines] == [9_001_000_000 + index for index in range(10)]
    assert {record["stage"] for record in lines[0]["records"]} == {"backbone", "signs", "vlm", "reasoner"}
    fitted = run("calibrate", "--rows", rows, "--out", tmp_path / "fitted.yaml", "--policy", policy, "--holdout", 0)
    assert fitted.exit_code == 2 and "10 rows are too few to fit anything to" in fitted.stderr


MANIFEST = """file,label,source_repo,path,licence,notes
roadwork/a.jpg,roadwork,town,a,MIT,group=drive_1
none/b.jpg,none,cones,b,MIT,hard negative: cones
none/c.jpg,none,town,c,MIT,
none/d.jpg,none,Mi3-Lab/workzone,d,ODC-By-1.0,group=clip_boston
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Write photos of two sources that no weights declare, and of one that the miniatures were trained on."""
    folder = tmp_path / "photos"
    for name, colour in (("roadwork/a", RED), ("none/b", RED), ("none/c", BLUE), ("none/d", RED)):
        write_jpeg(folder / f"{name}.jpg", colour)
    (folder / "manifest.csv").write_text(MANIFEST)
    return folder


@pytest.mark.parametrize("option", ["--photos", "--data"])
def test_evaluate_reports_stage_1_and_the_cascade_by_source(
    tmp_path: Path, policy: str, photos: Path, option: str
) -> None:
    report = tmp_path / "report.json"
    result = run("evaluate", option, photos, "--report", report, "--policy", policy)
    assert result.exit_code == 0, result.output
    numbers = json.loads(report.read_text())
    for model in ("stage1", "cascade"):
        part = numbers["sources"]["photos"][model]
        assert part["overall"]["accuracy"] == pytest.approx(2 / 3)
        assert (part["macro"]["accuracy"], part["macro"]["balanced_accuracy"]) == (0.5, 1)
        assert (part["overall"]["hard_false_positives"], part["overall"]["plain_false_positives"]) == (1, 0)
        assert part["by_source"]["cones"]["auc"] is None
    assert "mean over 2 sources" in result.stdout
    assert "Hard negatives classified as roadwork: 1 of 1 none/b.jpg" in result.stdout
    assert "do not quote the pooled numbers" in result.stdout


def test_evaluate_keeps_what_the_weights_were_trained_on_out_of_the_headline(
    tmp_path: Path, policy: str, photos: Path
) -> None:
    report, rows = tmp_path / "report.json", tmp_path / "rows.jsonl"
    result = run("evaluate", "--photos", photos, "--report", report, "--rows", rows, "--policy", policy)
    assert result.exit_code == 0, result.output
    numbers = json.loads(report.read_text())
    assert (numbers["n"], numbers["seen_in_training"]) == (3, 1)
    assert numbers["accuracy"] == pytest.approx(2 / 3), "the photo that was trained on, and is wrong, does not count"
    assert list(numbers["sources"]["photos"]["cascade"]["by_source"]) == ["cones", "town"]
    assert list(numbers["sources"]["seen_in_training"]["cascade"]["by_source"]) == ["Mi3-Lab/workzone"]
    assert "1 other items were seen in training" in result.stdout
    assert len(rows.read_text().splitlines()) == 4


def test_evaluate_leaves_out_sources_and_lists_those_there_are(tmp_path: Path, policy: str, photos: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--report", report, "--policy", policy, "--exclude-source", "cones", "--exclude-source", "town"]
    result = run("evaluate", "--photos", photos, *options)
    assert result.exit_code == 0, result.output
    numbers = json.loads(report.read_text())
    assert (numbers["n"], numbers["seen_in_training"], numbers["accuracy"]) == (0, 1, None)
    wrong = run("evaluate", "--data", photos, "--exclude-source", "twon")
    assert wrong.exit_code == 2
    assert "no item has source twon" in wrong.output and "Mi3-Lab/workzone, cones, town" in wrong.output


def labelled(folder: Path) -> Path:
    """Write two photos of each class; the stages classify one correctly and the other wrongly."""
    for name, colour in (("a", RED), ("b", BLUE)):
        write_jpeg(folder / "roadwork" / f"{name}.jpg", colour)
        write_jpeg(folder / "none" / f"{name}.jpg", colour)
    return folder


def test_evaluate_accepts_any_labelled_dataset_and_lists_corrupt_files(tmp_path: Path, policy: str) -> None:
    folder, report = labelled(tmp_path / "data"), tmp_path / "report.json"
    (folder / "none" / "c.jpg").write_bytes(b"no picture")
    result = run("evaluate", "--data", folder, "--data", "scenes:3:7", "--report", report, "--policy", policy)
    assert result.exit_code == 1, "a file got no verdict"
    numbers = json.loads(report.read_text())
    assert (numbers["n"], numbers["subnet_score"]) == (7, None)
    assert [each["name"] for each in numbers["failed"]] == ["none/c.jpg"]


def test_evaluate_reward_estimates_the_subnet_reward_on_challenges_of_the_data(tmp_path: Path, policy: str) -> None:
    folder, report = labelled(tmp_path / "data"), tmp_path / "report.json"
    options = ["--data", folder, "--reward", "--challenges", 60, "--report", report, "--policy", policy]
    result = run("evaluate", *options)
    assert result.exit_code == 0, result.output
    earned = json.loads(report.read_text())["subnet_score"]
    assert earned["challenges"] == 60
    assert sum(part["n"] for part in earned["by_augmentation"].values()) == 60
    assert 0.3 < earned["by_augmentation"]["whole"]["accuracy"] < 0.7
    assert f"would have paid {earned['reward']:.4f} on average" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--scenes", "--photos", "--data"]),
        (["--scenes", 2, "--data", "scenes:2"], ["one of"]),
        (["--scenes", 2, "--reward"], ["--data scenes:2000"]),
        (["--scenes", 2, "--exclude-source", "town"], ["--exclude-source goes with"]),
        (["--data", "/nowhere"], ["/nowhere does not exist"]),
        (["--scenes", 2, "--rows", "rows.csv"], ["rows.csv must end in .jsonl"]),
        (["--scenes", 2, "--report", "report.html"], ["report.html must end in .json"]),
    ],
)
def test_evaluate_explains_missing_or_conflicting_options(arguments: list[object], expected: list[str]) -> None:
    result = run("evaluate", *arguments)
    assert result.exit_code == 2
    assert all(word in result.output for word in expected)


def test_evaluate_exits_with_1_when_a_file_got_no_verdict(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(wanted: list[tuple[int, str]], workers: int) -> Generator[Sample]:
        good = draw_scene(1, "photo")
        yield from [good, Sample(good.metadata, b"no picture")]

    monkeypatch.setattr("roadwork_serve.testbed.scene_dataset.draw_scenes", broken)
    result = run("evaluate", "--scenes", 2, "--policy", policy)
    assert result.exit_code == 1
    assert "got no verdict" in result.stdout


def test_evaluate_exits_with_1_when_there_was_nothing_to_judge(photos: Path, policy: str) -> None:
    excluded = [word for name in ("cones", "town", "Mi3-Lab/workzone") for word in ("--exclude-source", name)]
    assert run("evaluate", "--photos", photos, "--policy", policy, *excluded).exit_code == 1
