"""The revision that results are stamped with."""

import subprocess
from pathlib import Path

import pytest

from roadwork_serve.provenance import code_revision


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    results = tmp_path / "benchmarks/results"
    results.mkdir(parents=True)
    (results / "decode.json").write_text("{}")
    (tmp_path / "server.py").write_text("")
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "First"),
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_revision_is_the_commit_hash(checkout: Path) -> None:
    revision = code_revision(checkout, exclude=("benchmarks/results",))
    assert len(revision) == 40
    assert set(revision) <= set("0123456789abcdef")


def test_changed_code_is_marked(checkout: Path) -> None:
    (checkout / "server.py").write_text("import os")
    assert code_revision(checkout, exclude=("benchmarks/results",)).endswith("+")


def test_a_result_measured_before_does_not_count_as_changed(checkout: Path) -> None:
    (checkout / "benchmarks/results/decode.json").write_text('{"sides": {}}')
    assert not code_revision(checkout, exclude=("benchmarks/results",)).endswith("+")


def test_outside_of_a_checkout_there_is_no_revision(tmp_path: Path) -> None:
    assert code_revision(tmp_path) == ""
