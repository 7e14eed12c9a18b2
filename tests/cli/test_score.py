import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.batch_job import JobSpec
from roadwork_serve.cli.main import app


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command that replaced this process."""
    found: list[str] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: found.extend([program, *arguments]))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return found


def test_options_are_passed_to_the_batch_job(
    tmp_path: Path, handed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("photos", "--out", "scores.parquet", "--match", "*.jpg", "--match", "*.png", "--workers", 3)
    assert result.exit_code == 0, result.output
    *command, order = handed
    assert command == [sys.executable, sys.executable, "-m", "deployments.batch_job"]
    assert JobSpec.from_json(order) == JobSpec(
        source="photos", out=tmp_path / "scores.parquet", match=("*.jpg", "*.png"), workers=3
    )


def test_a_missing_package_is_named(handed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pandas" else object())
    result = run("photos", "--out", "scores.parquet")
    assert result.exit_code == 2 and not handed
    assert "pandas not installed; pip install 'roadwork-serve[bulk]'" in result.output


@pytest.mark.parametrize("name", ["scores.xlsx", "scores", "scores.json", "scores.parquet.gz"])
def test_another_format_is_refused_before_models_load(handed: list[str], name: str) -> None:
    result = run("photos", "--out", name)
    assert result.exit_code == 2 and not handed
    assert f"{name} must end in .parquet or .csv or .jsonl" in result.output


def test_names_that_are_not_utf8_reach_the_batch_job(tmp_path: Path, handed: list[str]) -> None:
    source = os.fsdecode(b"stra\xdfe")
    assert run(source, "--out", tmp_path / source / "scores.csv").exit_code == 0
    job = JobSpec.from_json(handed[-1])
    assert (job.source, job.out) == (source, tmp_path / source / "scores.csv")
