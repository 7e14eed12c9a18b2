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
SERVING = "--requirements ops/base/requirements.txt"
LOCKS = [ROOT / "constraints.txt", *sorted(ROOT.glob("ops/*/requirements.txt")), ROOT / "ops/bootstrap/uv.txt"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the files that the Makefile reads, and a complete .venv."""
    for name in (
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "ops/gpu/requirements.txt",
        "ops/base/requirements.txt",
    ):
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
    for target, lock in (("serve", SERVING), ("demo", SERVING), ("test", CPU), ("check", CPU)):
        (installed,) = installs(project, target)
        assert lock in installed and GPU not in installed
    *_, last = installs(project, "gpu")
    assert GPU in last


def test_tests_are_installed_on_top_of_serving(project: Path) -> None:
    (project / ".venv/.ready").rename(project / ".venv/.serving")
    assert installs(project, "serve") == []
    (installed,) = installs(project, "test")
    assert CPU in installed
    touch(project / ".venv/.ready", 2)
    touch(project / "ops/base/requirements.txt", 3)
    assert installs(project, "serve") == [], "constraints.txt includes it"


def test_serving_is_installed_without_tests_docs_training_pytorch_and_the_miner() -> None:
    base, everything = (requirements(ROOT / lock) for lock in ("ops/base/requirements.txt", "constraints.txt"))
    names = {each.name for each in base}
    others = {"pytest", "mkdocs-material", "scikit-learn", "lightning", "bittensor", "dvc", "pyright"}
    assert not names & (others | {"torch", "transformers", "triton", "timm"})
    pins, wanted = ({f"{each.name}{each.specifier}" for each in lock} for lock in (everything, base))
    assert wanted <= pins


def test_the_readme_has_the_size_that_make_shows() -> None:
    makefile, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    download, disk = (int(each) for each in re.findall(r"^SERVING_\w+_MB := (\d+)$", makefile, re.M))
    assert f"{download:,} MB to download" in readme and f"{disk:,} MB\n  on disk" in readme


def test_make_takes_the_newest_python_that_fits(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "make", "echo"):
        (programs / name).symlink_to(str(shutil.which(name)))

    def fake(name: str, version: tuple[int, int]) -> None:
        fits = (3, 11) <= version <= (3, 13)
        (programs / name).write_text(f"#!/bin/sh\nexit {0 if fits else 1}\n")
        (programs / name).chmod(0o755)

    def chosen() -> str:
        probe = "--eval=which: ; @echo chosen=$(PYTHON)"
        command = ["make", "--directory", str(project), "--no-print-directory", probe, "which"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": str(programs)})
        return done.stdout.strip().removeprefix("chosen=")

    assert chosen() == ""
    fake("python3", (3, 14))
    assert chosen() == ""
    fake("python3.11", (3, 11))
    assert chosen() == str(programs / "python3.11")
    fake("python3.12", (3, 12))
    assert chosen() == str(programs / "python3.12")
    fake("python3.13", (3, 10))  # one that cannot make environments, or a shim without a Python
    assert chosen() == str(programs / "python3.12")
    fake("python3.13", (3, 13))
    assert chosen() == str(programs / "python3.13")
    refused = ["make", "--directory", str(project), "setup"]
    done = subprocess.run([*refused, "PYTHON="], capture_output=True, text=True, env={"PATH": str(programs)})
    assert done.returncode != 0 and "Python 3.11, 3.12 or 3.13 with venv is needed" in done.stdout


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


@pytest.mark.parametrize("target", ["setup", "serve", "gpu", "test-vllm", "test-miner", "test-browser", "dist"])
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


def test_a_project_of_the_locked_versions_is_written_for_uv(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "ops/locked_project.py"), str(tmp_path / "new"), str(LOCKS[0])]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for more, count in (([], len(ours["dependencies"])), (["--everything"], len(requirements(LOCKS[0])))):
        subprocess.run([*command, *more], check=True)
        made = tomllib.loads((tmp_path / "new/pyproject.toml").read_text())
        assert len(made["project"]["dependencies"]) == count
        pins = [Requirement(each) for each in made["tool"]["uv"]["override-dependencies"]]
        assert pins == requirements(LOCKS[0]) and made["project"]["version"] == ours["version"]


def test_the_loop_needs_no_repository(project: Path) -> None:
    """From a ZIP or in an image there is no .git, without which DVC refuses to run."""
    shutil.copytree(ROOT / ".dvc", project / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    (project / "dvc.yaml").write_text("stages: {one: {cmd: touch made, outs: [made]}}\n")
    (project / ".venv/bin").symlink_to(Path(sys.executable).parent)
    environment = os.environ | {
        "GIT_CEILING_DIRECTORIES": str(project.parent),
        "DVC_SITE_CACHE_DIR": str(project / "site"),
    }
    loop = ["make", "--directory", str(project), "--assume-old", ".venv/.ready", "loop"]
    done = subprocess.run(loop, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "made").exists()
