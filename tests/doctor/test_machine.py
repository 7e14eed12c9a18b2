"""Checks of cores, GPUs, ports and folders."""

import os
import socket
import sys
from pathlib import Path

import pytest

from roadwork_serve.doctor import machine
from roadwork_serve.doctor.machine import folders, gpus, port, usable_cores
from roadwork_serve.profiles.nvml import read_nvml
from roadwork_serve.running_server import RunningServer
from tests.fake_nvml import RTX_4090, fake_nvml


def test_a_container_may_use_fewer_cores_than_there_are(tmp_path: Path) -> None:
    there = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == there
    quota = tmp_path / "sys/fs/cgroup/cpu.max"
    quota.parent.mkdir(parents=True)
    quota.write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 0.5
    quota.write_text("max 100000\n")
    assert usable_cores(tmp_path) == there


def test_a_driver_that_cannot_be_asked_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [each.text for each in gpus(None, tmp_path / "none")] == ["none, and the profile cpu needs none"]
    (tmp_path / "version").touch()
    (note,) = gpus(None, tmp_path / "version")
    assert note.level == "note" and "make gpu" in note.text


def test_gpus_are_shown_with_their_driver_and_who_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(RTX_4090))
    driver, gpu = gpus(read_nvml())
    assert driver.text == "580.65.06, for CUDA up to 13.0"
    assert (gpu.topic, gpu.text) == ("GPU 0", "NVIDIA GeForce RTX 4090: 23.6 of 23.6 GiB free")


def test_a_port_in_use_is_a_problem_unless_the_server_is_ones_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        refused = port("127.0.0.1", number, None)
        assert refused.level == "problem" and f"process {os.getpid()}" in refused.text
        own = port("127.0.0.1", number, RunningServer("127.0.0.1:1", f"http://127.0.0.1:{number}"))
        assert own.level == "ok" and str(number) in own.text
    assert port("127.0.0.1", number, None).level == "ok"


def test_folders_are_checked_without_making_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, environment = tmp_path / "one/state", {"HF_HOME": str(tmp_path / "hub"), "RAY_TMPDIR": str(tmp_path)}
    found = folders(state, environment, tmp_path / "none")
    assert [each.topic for each in found] == ["State folder", "Weights folder", "Ray's folder"]
    assert {each.level for each in found} == {"ok"} and not (tmp_path / "one").exists()
    (tmp_path / "one").touch()
    refused = folders(state, environment, tmp_path / "none")[0]
    assert refused.level == "problem" and "ROADWORK_STATE" in refused.text
    monkeypatch.setattr(machine, "_SHARED_GIB", 1e9)
    assert folders(tmp_path, environment, tmp_path)[-1].level == "note"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_state_folder_of_another_user_is_a_problem(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert "belongs to another user" in folders(tmp_path)[0].text
