"""The available GPUs, and the profile that auto chooses for them."""

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from deployments import gpus
from deployments.gpus import GPU_PROFILES, gpu_memory_gib, profile_for_gpus
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile

HERE, THERE = "a", "b"
GIB = 2**30


@pytest.fixture(autouse=True)
def vllm_is_there(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda name: object() if name == "vllm" else None)
    caplog.set_level(logging.INFO, logger="ray.serve.roadwork")


def driver(monkeypatch: pytest.MonkeyPatch, *gib: float, reserved: float = 0.4, fails: str = "") -> None:
    """Fake nvidia-ml-py with GPUs of these sizes. fails: the call that raises."""
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError, nvml.nvmlMemory_v2 = type("NVMLError", (Exception,), {}), 2

    def call(name: str, answer: Any) -> None:
        def called(*_: Any, **__: Any) -> Any:
            if name == fails:
                raise nvml.NVMLError("unknown error")
            return answer(*_) if callable(answer) else answer

        setattr(nvml, name, called)

    call("nvmlInit", None)
    call("nvmlShutdown", None)
    call("nvmlDeviceGetCount", len(gib))
    call("nvmlDeviceGetHandleByIndex", lambda index: index)
    call(
        "nvmlDeviceGetMemoryInfo",
        lambda index: SimpleNamespace(total=int(gib[index] * GIB), reserved=int(reserved * GIB)),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[str, dict[str, float]], dead: str = "") -> None:
    """Fake a Ray cluster with these nodes; this process runs on HERE."""
    listed = [{"NodeID": name, "Alive": name != dead, "Resources": resources} for name, resources in nodes]
    monkeypatch.setattr(gpus.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(gpus.ray, "nodes", lambda: listed)
    monkeypatch.setattr(gpus.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: HERE))


def test_local_gpu_memory_comes_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, 24.0, 22.5)
    cluster(monkeypatch, (HERE, {"GPU": 2.0}))
    assert gpu_memory_gib() == (22.1, 23.6)


def test_ray_may_use_fewer_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, 80.0, 24.0)
    cluster(monkeypatch, (HERE, {"GPU": 1.0}))
    assert gpu_memory_gib() == (23.6,)


def test_gpu_memory_of_other_nodes_follows_from_the_accelerator_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver(monkeypatch, 24.0)
    cluster(
        monkeypatch,
        (HERE, {"GPU": 1.0, "CPU": 8.0}),
        (THERE, {"GPU": 2.0, "accelerator_type:L4": 1.0}),
        ("c", {"GPU": 1.0, "accelerator_type:Made-Up": 1.0}),
        ("d", {"CPU": 64.0}),
        ("e", {"GPU": 8.0, "accelerator_type:H100": 1.0}),
        dead="e",
    )
    assert gpu_memory_gib() == (23.6, 22.0, 22.0, gpus.ASSUMED_GIB)
    assert "2 GPUs of type L4 are assumed to have 22 GiB each" in caplog.text
    assert "The memory of 1 GPUs (Made-Up) is unknown; 23.6 GiB each are assumed" in caplog.text


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_a_failing_driver_is_not_fatal(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    driver(monkeypatch, 80.0, fails=fails)
    cluster(monkeypatch, (HERE, {"GPU": 1.0, "accelerator_type:A100-80G": 1.0}))
    assert gpu_memory_gib() == (79.1,)


def test_without_the_driver_library_or_ray_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpus.ray, "is_initialized", lambda: False)
    assert gpu_memory_gib() == ()
    driver(monkeypatch, 24.0)
    assert gpu_memory_gib() == (23.6,)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ((), "cpu"),
        ((16.0,), "cpu"),
        ((22.0,), "gpu-24gb"),
        ((22.0, 22.0), "gpu-24gb"),
        ((23.6, 23.6), "gpu-2x24gb"),
        ((44.4,), "gpu-24gb"),
        ((79.1,), "gpu-80gb"),
        ((139.8, 139.8), "gpu-80gb"),
    ],
)
def test_auto_takes_the_first_profile_that_fits(
    there: tuple[float, ...], chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert profile_for_gpus(there, {}).name == chosen
    assert f"Profile auto chose {chosen}" in caplog.text


def test_auto_logs_why_no_profile_fits(caplog: pytest.LogCaptureFixture) -> None:
    profile_for_gpus((16.0,), {})
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "the GPUs stay idle: no other fits GPUs of 16 GiB" in record.getMessage()
    assert all(f"{name}: " in record.getMessage() for name in GPU_PROFILES)
    assert "gpu-24gb: a GPU of 16 GiB is" in record.getMessage()


def test_auto_requires_vllm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda name: None)
    assert profile_for_gpus((79.1,), {}).name == "cpu"
    assert "vllm is not installed. Run `make gpu`" in caplog.text


def test_overrides_apply_to_the_chosen_profile() -> None:
    smaller = {"engines": {"qwen3-vl": {"vllm": {"kv_cache_gib": 1.5}}}}
    chosen = profile_for_gpus((22.0,), smaller)
    assert (chosen.name, chosen.engines["qwen3-vl"].vllm.kv_cache_gib) == ("gpu-24gb", 1.5)
    with pytest.raises(ConfigError, match="not a known field"):
        profile_for_gpus((22.0,), {"polcy": "mini"})


def test_the_table_of_gpus_agrees_with_the_profiles() -> None:
    assert load_profile("gpu-24gb").gpus_gib == (gpus.KNOWN_GIB["L4"],)
    assert load_profile("gpu-2x24gb").gpus_gib == (gpus.KNOWN_GIB["GeForce-RTX-4090"],) * 2
    assert load_profile("gpu-80gb").gpus_gib[0] <= gpus.KNOWN_GIB["H100"]
