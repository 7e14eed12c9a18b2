"""Readings of the driver, from a stand-in for nvidia-ml-py."""

import sys
from dataclasses import replace

import pytest

from roadwork_serve.profiles.nvml import NvmlReading, read_nvml, visible_indices
from tests.fake_nvml import ADA, L4, RTX_4090, FakeGpu, fake_nvml


def reading(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu, **more: object) -> NvmlReading | None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*gpus, **more))  # type: ignore[arg-type]
    return read_nvml()


def test_free_memory_is_that_which_nobody_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    desktop = replace(RTX_4090, desktop={812: 0.7, 990: 0.3})
    found = reading(monkeypatch, desktop, L4, names={812: "/usr/lib/xorg/Xorg :0", 990: "/usr/bin/gnome-shell"})
    assert found is not None and (found.driver, found.cuda) == ("580.65.06", 13000)
    first, second = found.gpus
    assert (first.total_gib, first.free_gib, first.capability) == (23.6, 22.6, ADA)
    assert first.holders == "Xorg 812 (0.7 GiB), gnome-shell 990 (0.3 GiB)"
    assert (second.index, second.free_gib, second.holders) == (1, 22.1, "")


def test_memory_without_a_process_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = replace(RTX_4090, reserved=0.0, compute={5: None, 6: 2.0})
    found = reading(monkeypatch, hidden)
    assert found is not None
    (gpu,) = found.gpus
    assert gpu.holders == "process 6 (2.0 GiB), process 5 (unknown)"
    nameless = replace(gpu, processes=())
    assert nameless.holders == "2.0 GiB of the driver or of processes that are not visible here"


def test_processes_that_make_room_count_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(replace(RTX_4090, compute={7: 12.0, 8: 1.0})))
    found = read_nvml(lambda pid: pid == 7)
    assert found is not None and found.gpus[0].free_gib == 22.6
    assert [each.pid for each in found.gpus[0].processes] == [8]


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetMemoryInfo", "nvmlSystemGetCudaDriverVersion_v2"])
def test_a_failing_driver_is_not_fatal(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    assert reading(monkeypatch, RTX_4090, fails=fails) is None


def test_a_driver_that_hides_processes_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    found = reading(monkeypatch, replace(L4, compute={3: 1.0}), fails="nvmlDeviceGetComputeRunningProcesses")
    assert found is not None and found.gpus[0].free_gib == 21.1


def test_without_the_library_there_is_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_nvml() is None


@pytest.mark.parametrize(
    ("variable", "visible"),
    [(None, {0, 1}), ("", set()), ("1", {1}), ("1,0", {0, 1}), ("GPU-ab", {0}), ("7", set()), ("MIG-ab", set())],
)
def test_cuda_visible_devices_restricts_the_gpus(variable: str | None, visible: set[int]) -> None:
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible_indices(["GPU-abc", "GPU-def"], environment) == visible
