"""Dry runs of make, and its locks."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.server import ROOT

CPU, GPU = "--requirements constraints.txt", "--requirements ops/gpu/requirements.txt"
LOCKS = [ROOT / "constraints.txt", *sorted(ROOT.glob("ops/*/requirements.txt")), ROOT / "ops/bootstrap/uv.txt"]


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
    """Return the installations that a target would make, without those of uv and of the project itself."""
    dry = ["make", "--dry-run", "--directory", str(project), target]
    done = subprocess.run(dry, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if " pip install " in line]
    return [line for line in lines if "ops/bootstrap/uv.txt" not in line and "--editable ." not in line]


def requirements(lock: Path) -> list[Requirement]:
    """Return the pinned packages of a lock."""
    lines = lock.read_text().splitlines()
    return [Requirement(line.removesuffix("\\")) for line in lines if line and line[0] not in " #"]


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
    here = [each for each in requirements(LOCKS[0]) if each.marker is None or each.marker.evaluate()]
    pinned = requirements(ROOT / "ops/gpu/requirements.txt")
    assert {each.name for each in here} <= {each.name for each in pinned}
    pins = {f"{each.name}{each.specifier}" for each in pinned}
    overrides = [line for line in (ROOT / "ops/gpu/overrides.txt").read_text().splitlines() if line[0] != "#"]
    assert {"vllm==0.32.0", *overrides} <= pins


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_every_pin_has_hashes(lock: Path) -> None:
    blocks = re.split(r"\n(?! )", lock.read_text().strip())
    assert blocks and all(re.match(r"[\w.-]+==\S+.*\\\n +--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


@pytest.mark.parametrize("target", ["setup", "gpu", "test-vllm", "test-miner", "test-browser", "dist"])
def test_every_installation_is_by_hash(target: str, project: Path) -> None:
    (project / ".venv/.ready").unlink()
    for lock in LOCKS:
        (project / lock.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lock, project / lock.relative_to(ROOT))
    dry = ["make", "--dry-run", "--directory", str(project), target]
    done = subprocess.run(dry, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [line for line in done if " pip install " in line or " uv build " in line]
    assert len(lines) >= 3
    for line in lines:
        if "--editable ." in line:
            assert "--no-deps --build-constraints ops/bootstrap/requirements.txt" in line
        else:
            assert "--require-hashes" in line
    docker = (ROOT / "ops/Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", docker)
    assert len(installs) == 3 and all("--require-hashes" in each or "--no-deps " in each for each in installs)


def test_a_project_of_the_locked_versions_is_written_for_uv(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "ops/locked_project.py"), str(tmp_path / "new"), str(LOCKS[0])]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for more, count in (([], len(ours["dependencies"])), (["--everything"], len(requirements(LOCKS[0])))):
        subprocess.run([*command, *more], check=True)
        made = tomllib.loads((tmp_path / "new/pyproject.toml").read_text())
        assert len(made["project"]["dependencies"]) == count
        pins = [Requirement(each) for each in made["tool"]["uv"]["override-dependencies"]]
        assert pins == requirements(LOCKS[0]) and made["project"]["version"] == ours["version"]
