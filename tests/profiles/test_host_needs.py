"""Memory and cores of the host."""

from typing import Any

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.host_needs import check_host, host_needs
from roadwork_serve.profiles.load import load_profile


def gib(profile: str, part: str, overrides: dict[str, Any] | None = None) -> float:
    return next(need.gib for need in host_needs(load_profile(profile, overrides)) if need.part == part)


def cache_of(gib: float) -> dict[str, Any]:
    return {"engines": {"qwen3-vl": {"vllm": {"arguments": {"mm_processor_cache_gb": gib}}}}}


def test_every_engine_has_its_processes_and_its_cache_of_pictures() -> None:
    assert gib("gpu-24gb", "qwen3-vl", cache_of(4)) - gib("gpu-24gb", "qwen3-vl", cache_of(0)) == 4
    assert gib("gpu-24gb", "qwen3-vl") == gib("gpu-24gb", "qwen3-vl", cache_of(0.25))
    twice = {"engines": {"qwen3-vl": {"replicas": 2}}}
    assert gib("gpu-24gb", "qwen3-vl", twice) == 2 * gib("gpu-24gb", "qwen3-vl")


def test_decoding_processes_count() -> None:
    more = {"ingress": {"decode_processes": 8, "replicas": 2, "num_cpus": 1}}
    need = next(need for need in host_needs(load_profile("gpu-24gb", more)) if need.part == "ingress and decoding")
    assert need.cores == 2 * (1 + 8) and need.gib == pytest.approx(2 * (0.5 + 8 * 0.3))


def test_models_on_a_gpu_pass_through_the_hosts_memory() -> None:
    assert gib("gpu-24gb", "loading models") == 5.0  # a file of the checkpoint that vLLM reads
    assert gib("cpu", "loading models") == 0.0  # where they stay


def test_the_profile_without_a_gpu_fits_the_machine_it_is_made_for() -> None:
    check_host(load_profile("cpu"), 8.0 * 1e9 / 2**30, 2)


def test_an_error_says_how_much_is_missing() -> None:
    profile = load_profile("gpu-24gb")
    needed = sum(need.gib for need in host_needs(profile))
    check_host(profile, needed, 64)
    check_host(profile, None, 64)
    with pytest.raises(
        ConfigError, match=rf"need about {needed:.1f} GiB of memory on the host and 8\.0 GiB are free.*largest part is"
    ):
        check_host(profile, 8.0, 64)
    with pytest.raises(ConfigError, match=r"reserves .* CPU cores and there are 1: lower num_cpus"):
        check_host(profile, 64.0, 1)
