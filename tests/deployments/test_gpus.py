"""The available GPUs, the placement of engines on them, and the profile that auto chooses."""

import logging
import os
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import gpus
from deployments.gpus import check_named_gpus, cluster_gpus, gpu_options, profile_for_gpus
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles import requirements
from roadwork_serve.profiles.choice import GPU_PROFILES, ClusterGpus
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from tests.fake_nvml import H100, L4, RTX_3060, RTX_3090, RTX_4090, FakeGpu, fake_nvml

HERE, THERE = "a", "b"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Fake a machine with vLLM and a compiler, whose Ray offers eight GPUs by name."""
    monkeypatch.setattr(requirements, "find_spec", lambda name: object())
    monkeypatch.setattr(requirements, "_missing_for_triton", lambda environment: [])
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", str({f"gpu_{at}": 1 for at in range(8)}).replace("'", '"'))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    caplog.set_level(logging.INFO, logger="ray.serve.roadwork")


def driver(monkeypatch: pytest.MonkeyPatch, *found: FakeGpu, **more: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*found, **more))


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[str, dict[str, float]], dead: str = "") -> None:
    """Fake a Ray cluster with these nodes; this process runs on HERE."""
    listed = [{"NodeID": name, "Alive": name != dead, "Resources": resources} for name, resources in nodes]
    monkeypatch.setattr(gpus.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(gpus.ray, "nodes", lambda: listed)
    monkeypatch.setattr(gpus.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: HERE))
    monkeypatch.setattr(gpus.ray, "cluster_resources", lambda: {k: v for _, each in nodes for k, v in each.items()})


def chosen(monkeypatch: pytest.MonkeyPatch, *found: FakeGpu, **more: Any) -> Profile:
    """Return the profile that auto chooses on a machine with these GPUs."""
    driver(monkeypatch, *found, **more)
    return profile_for_gpus(cluster_gpus(), {})


def named(profile: Profile) -> dict[str, int | None]:
    return {name: profile.engines[name].gpu for name in profile.users() if profile.engines[name].device == "cuda"}


def test_local_gpu_memory_is_what_the_driver_reports_as_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver(monkeypatch, replace(RTX_4090, desktop={812: 1.0}), L4, names={812: "/usr/lib/xorg/Xorg"})
    cluster(monkeypatch, (HERE, {"GPU": 2.0}))
    assert cluster_gpus().nodes == ((22.6, 22.1),)
    assert "GPU 0, NVIDIA GeForce RTX 4090: 22.6 of 23.6 GiB free, held by Xorg 812 (1.0 GiB)" in caplog.text


def test_ray_may_use_fewer_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, H100, RTX_4090)
    cluster(monkeypatch, (HERE, {"GPU": 1.0}))
    assert cluster_gpus() == ClusterGpus(((0.0, 23.6),))
    assert cluster_gpus().gib == (23.6,)


def test_only_visible_gpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, RTX_4090, L4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cluster_gpus().nodes == ((0.0, 22.1),)
    assert gpus.gpu_resources() == {"gpu_1": 1.0}


def test_gpu_memory_of_other_nodes_follows_from_the_accelerator_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver(monkeypatch, RTX_4090)
    cluster(
        monkeypatch,
        (HERE, {"GPU": 1.0, "CPU": 8.0}),
        (THERE, {"GPU": 2.0, "accelerator_type:L4": 1.0}),
        ("c", {"GPU": 1.0, "accelerator_type:Made-Up": 1.0}),
        ("d", {"CPU": 64.0}),
        ("e", {"GPU": 8.0, "accelerator_type:H100": 1.0}),
        dead="e",
    )
    assert cluster_gpus().gib == (23.6, 22.0, 22.0, gpus.ASSUMED_GIB)
    assert cluster_gpus().by_index == (22.0, 22.0)
    assert "2 GPUs of type L4 are assumed to have 22 GiB each" in caplog.text
    assert "The memory of 1 GPUs (Made-Up) is unknown; 23.6 GiB each are assumed" in caplog.text


def test_a_failing_driver_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, H100, fails="nvmlDeviceGetMemoryInfo")
    cluster(monkeypatch, (HERE, {"GPU": 1.0, "accelerator_type:A100-80G": 1.0}))
    assert cluster_gpus().gib == (79.1,)


def test_without_the_driver_library_or_ray_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpus.ray, "is_initialized", lambda: False)
    assert cluster_gpus() == ClusterGpus()
    driver(monkeypatch, RTX_4090)
    assert cluster_gpus().gib == (23.6,)


def test_replicas_of_this_node_make_room_for_those_of_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, replace(RTX_4090, compute={os.getpid(): 14.0, os.getppid(): 1.0}))
    assert cluster_gpus().gib == (8.6,)  # not under Ray
    cluster(monkeypatch, (HERE, {"GPU": 1.0}))
    assert cluster_gpus().gib == (23.6,)  # both below or at what stands for the raylet here: this process's parent
    driver(monkeypatch, replace(RTX_4090, compute={1: 14.0}))
    assert cluster_gpus().gib == (9.6,)


DESKTOP = {812: 1.0}


@pytest.mark.parametrize(
    ("there", "expected", "placed"),
    [
        ((), "cpu", {}),
        ((RTX_3060,), "cpu", {}),
        ((L4,), "gpu-24gb", None),
        ((RTX_3090,), "gpu-24gb", None),
        ((RTX_4090,), "gpu-24gb", None),
        ((replace(RTX_4090, desktop=DESKTOP),), "gpu-24gb", None),
        ((L4, L4), "gpu-2x24gb", {"qwen3-vl": 0, "qwen3-vl-thinking": 1}),
        ((replace(RTX_4090, desktop=DESKTOP), RTX_4090), "gpu-2x24gb", {"qwen3-vl": 0, "qwen3-vl-thinking": 1}),
        ((RTX_3060, RTX_4090), "gpu-24gb", {"qwen3-vl": 1}),
        ((RTX_3060, RTX_3090, RTX_4090), "gpu-2x24gb", {"qwen3-vl": 1, "qwen3-vl-thinking": 2}),
        ((RTX_4090, H100), "gpu-80gb", {"qwen3-vl": 1, "qwen3-vl-thinking": 1}),
        ((replace(H100, gib=48.4),), "gpu-24gb", None),
        ((H100,), "gpu-80gb", None),
        ((H100, H100), "gpu-80gb", None),
    ],
)
def test_auto_takes_the_first_profile_that_fits(
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[FakeGpu, ...],
    expected: str,
    placed: dict[str, int] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    profile = chosen(monkeypatch, *there)
    assert profile.name == expected
    assert f"Profile auto chose {expected}" in caplog.text
    found = named(profile)
    if placed is None:
        assert set(found.values()) == {None}
    else:
        assert {name: found[name] for name in placed} == placed and None not in found.values()


def test_auto_logs_why_no_profile_fits(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    chosen(monkeypatch, replace(RTX_4090, compute={99: 12.0}), names={99: "/usr/bin/python train.py"})
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "the GPUs stay idle: no other fits GPUs with 11.6 GiB free. Free some memory" in record.getMessage()
    assert all(f"{name}: " in record.getMessage() for name in GPU_PROFILES)
    assert "held by python 99 (12.0 GiB)" in caplog.text


def test_auto_refuses_an_old_driver(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(monkeypatch, RTX_4090, driver="570.86.15", cuda=12080).name == "cpu"
    assert "the driver 570.86.15 supports CUDA 12.8" in caplog.text and "R580" in caplog.text


def test_auto_requires_vllm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert chosen(monkeypatch, H100).name == "cpu"
    assert "vllm is not installed: run `make gpu`" in caplog.text


def test_auto_names_no_gpu_where_ray_does_not_offer_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver(monkeypatch, RTX_4090, RTX_4090)
    cluster(monkeypatch, (HERE, {"GPU": 2.0}))
    assert profile_for_gpus(cluster_gpus(), {}).name == "gpu-24gb"


def test_overrides_apply_to_the_chosen_profile() -> None:
    smaller = {"engines": {"qwen3-vl": {"vllm": {"kv_cache_gib": 1.5}}}}
    one = ClusterGpus(((22.0,),))
    profile = profile_for_gpus(one, smaller)
    assert (profile.name, profile.engines["qwen3-vl"].vllm.kv_cache_gib) == ("gpu-24gb", 1.5)
    with pytest.raises(ConfigError, match="not a known field"):
        profile_for_gpus(one, {"polcy": "mini"})


def test_the_table_of_gpus_agrees_with_the_profiles() -> None:
    assert load_profile("gpu-24gb").gpus_gib == (gpus.KNOWN_GIB["L4"],)
    assert load_profile("gpu-2x24gb").gpus_gib == (gpus.KNOWN_GIB["L4"],) * 2
    assert load_profile("gpu-80gb").gpus_gib[0] <= gpus.KNOWN_GIB["H100"]


def test_an_error_says_how_to_offer_gpus_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("gpu-2x24gb")
    check_named_gpus(profile)
    monkeypatch.delenv("RAY_OVERRIDE_RESOURCES")
    says = (
        "names GPU 0 and no node of Ray offers the resource gpu_0: run `roadwork serve`, or start each node with "
        '`ray start --resources \'{"gpu_0": 1, "gpu_1": 1}\'`, or set RAY_OVERRIDE_RESOURCES='
    )
    with pytest.raises(ConfigError) as error:
        check_named_gpus(profile)
    assert says in str(error.value)
    cluster(monkeypatch, (HERE, {"GPU": 2.0, "gpu_0": 1.0}))
    with pytest.raises(ConfigError, match="no node of Ray offers the resource gpu_1"):
        check_named_gpus(profile)


def test_an_engine_without_a_gpu_keeps_its_environment() -> None:
    on_cpu = EngineSpec(backend="transformers", model="m")
    assert gpu_options(on_cpu) == {"num_gpus": 0}
    on_gpu = EngineSpec(backend="transformers", model="m", device="cuda", num_gpus=0.5)
    assert gpu_options(on_gpu) == {"num_gpus": 0.5, "runtime_env": {"env_vars": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}}}


def test_under_mps_small_models_take_precedence_over_language_models() -> None:
    language = load_profile("gpu-24gb").engines["qwen3-vl"]
    assert gpu_options(language)["runtime_env"]["env_vars"]["CUDA_MPS_CLIENT_PRIORITY"] == "1"
    backbone = gpu_options(load_profile("gpu-24gb").engines["dinov3"])["runtime_env"]["env_vars"]
    assert "CUDA_MPS_CLIENT_PRIORITY" not in backbone, "normal"
