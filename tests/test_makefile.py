"""Dry runs of make."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU, GPU = "--constraints constraints.txt", "--requirements ops/gpu/requirements.txt"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the files that the Makefile reads, and a complete .venv."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "ops/gpu/requirements.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv").mkdir()
    touch(tmp_path / ".venv/.ready", 2)
    return tmp_path


def touch(path: Path, at: float) -> None:
    path.touch()
    os.utime(path, (at, at))


def installs(project: Path, target: str) -> list[str]:
    """Return the installations that a target would make."""
    dry = ["make", "--dry-run", "--directory", str(project), target]
    done = subprocess.run(dry, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if " pip install " in line and "uv==" not in line]


@pytest.mark.parametrize("target", ["serve", "test", "check"])
def test_a_complete_environment_is_not_reinstalled(project: Path, target: str) -> None:
    assert installs(project, target) == []
    touch(project / ".venv/.gpu", 2)
    assert installs(project, target) == []


def test_only_make_gpu_installs_gpu_packages(project: Path) -> None:
    (project / ".venv/.ready").unlink()
    for target in ("serve", "test", "check"):
        (installed,) = installs(project, target)
        assert CPU in installed and GPU not in installed
    *_, last = installs(project, "gpu")
    assert GPU in last


def test_serve_after_make_gpu_uses_the_gpu_lock(project: Path) -> None:
    touch(project / ".venv/.gpu", 2)
    touch(project / "constraints.txt", 3)
    assert installs(project, "serve") == []
    touch(project / "ops/gpu/requirements.txt", 3)
    (installed,) = installs(project, "serve")
    assert GPU in installed and CPU not in installed


def test_the_gpu_lock_includes_the_packages_of_the_other() -> None:
    """The tests must run in either environment."""
    names = [
        {line.partition("==")[0] for line in (ROOT / name).read_text().splitlines()}
        for name in ("constraints.txt", "ops/gpu/requirements.txt")
    ]
    assert names[0] <= names[1]
    pins = (ROOT / "ops/gpu/requirements.txt").read_text().splitlines()
    overrides = [line for line in (ROOT / "ops/gpu/overrides.txt").read_text().splitlines() if line[0] != "#"]
    assert {"vllm==0.32.0", *overrides} <= set(pins)
