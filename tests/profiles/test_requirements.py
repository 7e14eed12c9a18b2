"""Missing requirements are reported before anything loads."""

import sys
from pathlib import Path

import pytest

from roadwork_serve.profiles import requirements
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.nvml import read_nvml
from roadwork_serve.profiles.requirements import missing_requirements
from tests.fake_nvml import RTX_4090, TURING, FakeGpu, fake_nvml

GPU_PROFILE = load_profile("gpu-24gb")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Fake a machine with all that is needed; return its folder of programs."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include/Python.h").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gcc").touch(0o755)
    monkeypatch.setattr(requirements, "find_spec", lambda name: object())
    monkeypatch.setattr(requirements.sysconfig, "get_path", lambda name: str(tmp_path / name))
    return tmp_path / "bin"


def missing(monkeypatch: pytest.MonkeyPatch, path: Path, *gpus: FakeGpu, **more: object) -> list[str]:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*gpus, **more))  # type: ignore[arg-type]
    return missing_requirements(GPU_PROFILE, read_nvml(), {"PATH": str(path)})


def test_nothing_is_missing_on_a_complete_machine(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    assert missing(monkeypatch, machine, RTX_4090) == []


def test_an_old_driver_is_named_with_the_one_to_install(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    (message,) = missing(monkeypatch, machine, RTX_4090, driver="570.86.15", cuda=12080)
    assert "the driver 570.86.15 supports CUDA 12.8" in message and "need 13.0: install the driver R580" in message


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    old = FakeGpu("Quadro RTX 8000", 48.0, TURING)
    (message,) = missing(monkeypatch, machine, old)
    assert message.startswith("Quadro RTX 8000 computes no bfloat16")
    assert missing(monkeypatch, machine, old, RTX_4090) == []


def test_a_missing_compiler_and_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    (machine / "gcc").rename(machine / "clang")
    assert missing(monkeypatch, machine, RTX_4090) == []
    (machine / "clang").unlink()
    (machine.parent / "include/Python.h").unlink()
    compiler, headers = missing(monkeypatch, machine, RTX_4090)
    assert "there is no C compiler" in compiler and "install gcc" in compiler
    assert "has no Python.h" in headers and "python3-dev" in headers


def test_cc_names_the_compiler(machine: Path) -> None:
    (message,) = missing_requirements(GPU_PROFILE, None, {"PATH": str(machine), "CC": "icc"})
    assert message.startswith("CC names icc, which is not there")
    assert missing_requirements(GPU_PROFILE, None, {"PATH": str(machine), "CC": "gcc"}) == []


def test_vllm_must_be_installed(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert missing(monkeypatch, machine, RTX_4090) == ["vllm is not installed: run `make gpu`"]


def test_a_profile_without_a_gpu_needs_nothing(machine: Path) -> None:
    assert missing_requirements(load_profile("cpu"), None, {"PATH": "/nowhere"}) == []
