"""GPU detection, and the choice of a profile for the GPUs."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import ray

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import Profile

_LOG = logging.getLogger("ray.serve.roadwork.gpus")
GPU_PROFILES = ("gpu-80gb", "gpu-2x24gb", "gpu-24gb")  # in order of preference
GIB = 2**30
ASSUMED_GIB = 23.6
# Memory available to CUDA in GiB, by Ray's accelerator types; of families with two sizes, the smaller one.
KNOWN_GIB = {
    "T4": 14.5, "V100": 15.7, "A10G": 22.0, "L4": 22.0, "L40S": 44.4, "A100": 39.3, "A100-40G": 39.3, "A100-80G": 79.1,
    "H100": 79.1, "H20": 95.0, "H200": 139.8, "B200": 178.0, "RTX-PRO-6000": 94.9, "GeForce-RTX-3090": 23.6,
    "GeForce-RTX-4090": 23.6, "GeForce-RTX-5090": 31.3,
}  # fmt: skip


def gpu_memory_gib() -> tuple[float, ...]:
    """Return the memory in GiB of every GPU that Ray may use, and log it. Without Ray, of this machine's GPUs."""
    if not ray.is_initialized():
        return _local_memory_gib()
    here = ray.get_runtime_context().get_node_id()
    found: list[float] = []
    for node in ray.nodes():
        count = int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0
        if count:
            found += _node_memory_gib(node["Resources"], count, node["NodeID"] == here)
    return tuple(found)


def profile_for_gpus(gpus: Sequence[float], overrides: Mapping[str, Any]) -> Profile:
    """Return the first of GPU_PROFILES that fits the GPUs, else cpu. The log has the reason and the remedy.

    Raises ConfigError if the overrides are invalid.
    """
    if not gpus:
        _LOG.info("Profile auto chose cpu: there is no GPU.")
        return load_profile("cpu", overrides)
    if find_spec("vllm") is None:
        _LOG.warning(
            "Profile auto chose cpu, and the GPUs stay idle: vllm is not installed. Run `make gpu` and start again."
        )
        return load_profile("cpu", overrides)
    rejected: list[str] = []
    for name in GPU_PROFILES:
        try:
            profile = load_profile(name, overrides)
            plan_placement(profile, gpus)
        except ConfigError as error:
            rejected.append(f"{name}: {error}")
        else:
            _LOG.info("Profile auto chose %s.", name)
            return profile
    _LOG.warning(
        "Profile auto chose cpu, and the GPUs stay idle: no other fits GPUs of %s GiB. Name a profile that does. %s.",
        ", ".join(f"{gib:g}" for gib in gpus), "; ".join(rejected),
    )  # fmt: skip
    return load_profile("cpu", overrides)


def _node_memory_gib(resources: Mapping[str, float], count: int, here: bool) -> list[float]:
    """Return the memory of a node's GPUs. If Ray may use fewer than it has, the smallest are assumed."""
    if here and len(found := _local_memory_gib()) >= count:
        return sorted(found)[:count]
    types = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    for name in types:
        if name in KNOWN_GIB:
            _LOG.info("%d GPUs of type %s are assumed to have %g GiB each.", count, name, KNOWN_GIB[name])
            return [KNOWN_GIB[name]] * count
    _LOG.warning(
        "The memory of %d GPUs (%s) is unknown; %g GiB each are assumed. If that is wrong, name a profile instead of "
        "auto.",
        count, ", ".join(types) or "of unknown type", ASSUMED_GIB,
    )  # fmt: skip
    return [ASSUMED_GIB] * count


def _local_memory_gib() -> tuple[float, ...]:
    """Return the memory that the driver reports, minus its reserve; empty without a driver or nvidia-ml-py."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports] - of the gpu extra
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        memory = [pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2) for handle in handles]
    except pynvml.NVMLError as error:
        _LOG.warning("The driver does not report the memory of its GPUs: %s.", error)
        return ()
    finally:
        pynvml.nvmlShutdown()
    found = tuple(round((each.total - each.reserved) / GIB, 1) for each in memory)
    _LOG.info("The driver reports GPUs of %s GiB.", ", ".join(f"{gib:g}" for gib in found) or "no")
    return found
