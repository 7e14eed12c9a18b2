"""The script that starts NVIDIA's MPS, over a stand-in for its daemon."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.server import ROOT

SCRIPT = ROOT / "ops/gpu/mps.sh"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in whose PATH is a daemon that prints its arguments, its input and its variables."""
    daemon = tmp_path / "nvidia-cuda-mps-control"
    daemon.write_text('#!/bin/sh\necho "args: $*"\n[ "$#" = 0 ] && cat\nenv | grep ^CUDA_ | sort\n')
    daemon.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "pipes")}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=30)


def test_it_runs_in_the_foreground_in_a_private_folder(environment: dict[str, str]) -> None:
    done = run(environment, "start")
    pipes = environment["CUDA_MPS_PIPE_DIRECTORY"]
    assert done.returncode == 0 and "args: -f" in done.stdout
    assert f"CUDA_MPS_PIPE_DIRECTORY={pipes}" in done.stdout.splitlines()
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in done.stdout.splitlines(), "cards have the numbers of nvidia-smi"
    assert Path(pipes).stat().st_mode & 0o077 == 0


def test_it_stops_and_explains_itself(environment: dict[str, str]) -> None:
    assert "args: \nquit\n" in run(environment, "stop").stdout
    assert run(environment).returncode == 2
    none = run({"PATH": "/usr/bin:/bin"}, "start")
    assert none.returncode == 1 and "it comes with NVIDIA's driver" in none.stderr


def test_the_unit_and_the_script_agree() -> None:
    unit = (ROOT / "ops/systemd/roadwork-mps.service").read_text()
    assert "ExecStart=/opt/roadwork-serve/ops/gpu/mps.sh start" in unit
    assert "CUDA_MPS_PIPE_DIRECTORY=/run/roadwork-mps" in unit and "RuntimeDirectory=roadwork-mps" in unit
