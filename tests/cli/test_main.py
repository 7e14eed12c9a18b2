"""The command line, over stages that judge by colour."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app
from roadwork_serve.ray_environment import RAY, ray_environment
from roadwork_serve.schema import BatchResult
from tests.evaluation.fakes import BLUE, RED, judge_by_colour, mp4, write_jpeg, write_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def colour_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_colour(monkeypatch)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return write_policy(tmp_path / "policy.yaml")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_classify_prints_one_line_per_file(tmp_path: Path, policy: str) -> None:
    red, blue = write_jpeg(tmp_path / "[red].jpg", RED), write_jpeg(tmp_path / "blue.jpg", BLUE)
    result = run("classify", red, blue, "--profile", "mini", "--policy", policy)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if ".jpg" in line]
    assert [(line[0].endswith(name), line[1]) for line, name in zip(lines, ("[red].jpg", "blue.jpg"), strict=True)] == [
        (True, "roadwork"),
        (True, "none"),
    ]
    assert "miniatures" in result.stdout


def test_classify_json_matches_the_response_of_the_batch_route(tmp_path: Path, policy: str) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(mp4(RED))
    result = run("classify", clip, "--policy", policy, "--json")
    entry = BatchResult.model_validate_json(result.stdout).results[0]
    assert entry.verdict is not None
    assert (entry.verdict.media, entry.verdict.label, entry.verdict.policy_version) == ("clip", "roadwork", "test-1")


def test_classify_reports_failures_and_exits_with_1(tmp_path: Path, policy: str) -> None:
    result = run("classify", write_jpeg(tmp_path / "red.jpg", RED), tmp_path / "gone.jpg", "--policy", policy)
    assert result.exit_code == 1
    assert "roadwork" in result.stdout
    assert "problem" in result.stdout and "No such file" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "gpu-9000"], "'gpu-9000' does not ship with the project; use one of cpu, gpu-24gb, "),
        (["--policy", "strict"], "policy strict: policy 'strict' does not ship"),
    ],
)
def test_an_unknown_name_is_a_one_line_error(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run("classify", write_jpeg(tmp_path / "red.jpg", RED), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_an_invalid_url_is_a_one_line_error(tmp_path: Path) -> None:
    result = run("classify", write_jpeg(tmp_path / "red.jpg", RED), "--server", "http://[::1")
    assert result.exit_code == 2
    assert "'http://[::1' is no URL" in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_rows_file_is_a_one_line_error(tmp_path: Path) -> None:
    result = run("tune", "--policy", "mini", "--rows", tmp_path / "gone.jsonl", "--out", tmp_path / "out.yaml")
    assert result.exit_code == 2
    assert "roadwork evaluate --all-stages --rows" in result.stderr
    assert "Traceback" not in result.output


def test_render_writes_scenes_and_their_ground_truth(tmp_path: Path) -> None:
    result = run("render", "--out", tmp_path / "scenes", "--count", 2, "--seed", 3)
    assert result.exit_code == 0, result.output
    truths = [json.loads(line) for line in (tmp_path / "scenes" / "truth.jsonl").read_text().splitlines()]
    assert [truth["seed"] for truth in truths] == [3_000_000, 3_000_001]
    for truth in truths:
        with Image.open(tmp_path / "scenes" / truth["file"]) as image:
            assert image.width >= 640
        assert isinstance(truth["label"], bool)


def test_minis_train_passes_on_its_models_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    training = ModuleType("roadwork_serve.testbed.minis.train")
    vars(training).update(WEIGHTS=Path("shipped"), main=lambda *what, **more: asked.append((*what, more)))
    monkeypatch.setitem(sys.modules, training.__name__, training)
    assert run("minis", "train", "vlm", "--minutes", 2, "--no-resume", "--photos", tmp_path).exit_code == 0
    assert run("minis", "train", "--warm", "--out", tmp_path).exit_code == 0
    assert run("minis", "train", "oracle").exit_code == 2
    assert asked == [
        (["vlm"], 2.0, Path("shipped"), False, {"warm": False, "photos": tmp_path}),
        (["backbone", "tower", "vlm", "video"], 30.0, tmp_path, True, {"warm": True, "photos": None}),
    ]


def test_help_groups_the_commands_by_task() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    words = re.findall(r"^[╭│]─? (Run|Classify|Label and learn|Operate|[a-z-]+) ", text, flags=re.M)
    panels = [words.index(panel) for panel in ("Run", "Classify", "Label and learn", "Operate")]
    assert panels == sorted(panels)
    assert [words[at + 1] for at in panels] == ["serve", "classify", "journal", "policy"]


def every_option() -> list[tuple[str, click.Parameter]]:
    def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
        for each in command.params:
            yield name, each
        for child, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{name} {child}")

    return list(walk(typer.main.get_command(app), "roadwork"))


def test_every_option_has_a_help_text() -> None:
    for command, parameter in every_option():
        if parameter.name not in ("install_completion", "show_completion"):
            text = getattr(parameter, "help", None) or ""
            assert re.match(r"[A-Z0-9].* .*[.)]$", text), f"{command} {parameter.name}: {text!r}"


def test_one_option_means_one_thing_in_every_command() -> None:
    flags = {"--json": True, "--report": False, "--journal": False, "--server": False, "--all-stages": True}
    for command, parameter in every_option():
        for option in parameter.opts:
            if option in flags:
                assert parameter.is_flag is flags[option], f"{command} {option}"
            assert option not in ("--url", "--from-journal"), f"{command} {option}"


def test_help_is_instant_because_nothing_heavy_is_imported() -> None:
    heavy = ("torch", "ray", "transformers", "numpy", "pydantic", "fastapi", "httpx")
    code = f"import sys, roadwork_serve.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the configurations passed to `serve run`, called from another folder on a copy of the project."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    shutil.copy(ROOT / "serve_config.yaml", project)
    ran: list[dict[str, Any]] = []

    def execv(program: str, arguments: list[str]) -> None:
        assert arguments[:3] == [program, "-m", "deployments.serve_program"]
        assert Path.cwd() == project
        ran.append(yaml.safe_load(Path(arguments[3]).read_text()))
        os.chdir(elsewhere)

    monkeypatch.setattr("roadwork_serve.cli.serve._PROJECT", project)
    monkeypatch.setattr("os.execv", execv)
    monkeypatch.setattr("os.environ", {**os.environ})
    monkeypatch.chdir(elsewhere)
    return ran


def test_serve_runs_the_configuration_with_the_requested_profile(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    for options in ([], ["--profile", "mini"], ["--profile", "mine.yaml"], ["--profile", "../mine"]):
        assert run("serve", *options).exit_code == 0
    assert [config["applications"][0]["args"].pop("profile") for config in served] == [
        "auto",
        "mini",
        str(tmp_path / "elsewhere/mine.yaml"),
        str(tmp_path / "mine"),
    ]
    assert all(config == served[0] for config in served)
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["serve_config.yaml"]


@pytest.mark.parametrize("flags", [[], ["--open"], ["--no-dashboard"], ["--open", "--no-dashboard"]], ids=str)
def test_serve_hands_its_flags_to_the_program(
    flags: list[str], served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr("os.execv", lambda _, arguments: given.extend(arguments[4:]))
    assert run("serve", *flags).exit_code == 0
    assert given == flags


def test_serve_listens_where_it_is_told_to(served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[list[str]] = []
    before = os.execv
    monkeypatch.setattr("os.execv", lambda program, words: (arguments.append(words[4:]), before(program, words)))  # type: ignore[func-returns-value]
    for options in ([], ["--port", "8123"], ["--host", "192.0.2.1", "--open"]):
        assert run("serve", *options).exit_code == 0
    assert [tuple(each["http_options"].values()) for each in served] == [
        ("127.0.0.1", 8000),
        ("127.0.0.1", 8123),
        ("192.0.2.1", 8000),
    ]
    assert arguments == [[], [], ["--open"]]


def test_serve_runs_another_configuration_with_the_requested_profile(served: list[dict[str, Any]]) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = 8001
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    for options in ([], ["--profile", "mini"]):
        assert run("serve", "--config", "mine.yaml", *options).exit_code == 0
    assert [(each["http_options"]["port"], each["applications"][0]["args"]["profile"]) for each in served] == [
        (8001, "auto"),
        (8001, "mini"),
    ]
    result = run("serve", "--config", "gone.yaml")
    assert result.exit_code == 2 and "gone.yaml is not there" in result.stderr
    for text in ("", "- a list", "http_options: {port: 8001}"):
        Path("other.yaml").write_text(text)
        result = run("serve", "--config", "other.yaml")
        assert result.exit_code == 2 and "other.yaml names no applications" in result.stderr


def test_serve_sets_rays_environment_except_for_variables_the_user_has_set(
    served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    due = ray_environment()
    for name in due:
        monkeypatch.delenv(name, raising=False)
    assert run("serve").exit_code == 0
    assert {name: os.environ[name] for name in due} == due
    assert {"RAY_worker_niceness": "0"}.items() <= RAY.items() <= due.items()
    monkeypatch.setenv("RAY_worker_niceness", "5")
    assert run("serve").exit_code == 0
    assert {name: os.environ[name] for name in due} == due | {"RAY_worker_niceness": "5"}


def test_make_serve_runs_roadwork_serve_without_ray_settings() -> None:
    dry = ["make", "--dry-run", "--old-file=.venv/.ready", "--old-file=.venv/.serving", "serve"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".venv/bin/roadwork serve" in done.stdout.splitlines()
    assert "RAY_" not in (ROOT / "Makefile").read_text()
