"""The GPUs that Ray may use, the placement of engines on them, and the choice of a profile."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.choice import ClusterGpus, choose_profile
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.nvml import read_nvml
from roadwork_serve.profiles.profile import Profile

_LOG = logging.getLogger("ray.serve.roadwork.gpus")
ASSUMED_GIB = 23.6
# Memory available to CUDA in GiB, by Ray's accelerator types; of families with two sizes, the smaller one.
KNOWN_GIB = {
    "T4": 14.5, "V100": 15.7, "A10G": 22.0, "L4": 22.0, "L40S": 44.4, "A100": 39.3, "A100-40G": 39.3, "A100-80G": 79.1,
    "H100": 79.1, "H20": 95.0, "H200": 139.8, "B200": 178.0, "RTX-PRO-6000": 94.9, "GeForce-RTX-3090": 23.6,
    "GeForce-RTX-4090": 23.6, "GeForce-RTX-5090": 31.3,
}  # fmt: skip


def gpu_resource(index: int) -> str:
    """Return the name of the Ray resource that stands for the GPU of this index on a node."""
    return f"gpu_{index}"


def gpu_resources() -> dict[str, float]:
    """Return the resources with which Ray is started on this machine, one for each GPU that it may use."""
    reading = read_nvml()
    return {} if reading is None else {gpu_resource(gpu.index): 1.0 for gpu in reading.gpus if gpu.visible}


def gpu_options(engine: EngineSpec) -> dict[str, Any]:
    """Return the options of a Ray actor that runs this engine: its share of a GPU, and the GPU if the engine names it.

    The engine of a named GPU books the resource of that GPU in place of Ray's GPU, which Ray would choose itself. CUDA
    numbers GPUs in the order of the PCI bus, as Ray and nvidia-smi do; by default it would begin with the fastest.
    """
    if engine.device != "cuda":
        return {"num_gpus": 0}
    variables = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if engine.backend == "vllm":
        variables["CUDA_MPS_CLIENT_PRIORITY"] = "1"  # below normal, where MPS runs (ops/gpu/mps.sh)
    if engine.gpu is None:
        return {"num_gpus": engine.num_gpus, "runtime_env": {"env_vars": variables}}
    variables["CUDA_VISIBLE_DEVICES"] = str(engine.gpu)
    return {
        "num_gpus": 0,
        "resources": {gpu_resource(engine.gpu): engine.num_gpus},
        "runtime_env": {"env_vars": variables},
    }


def cluster_gpus() -> ClusterGpus:
    """Return the GPUs that Ray may use, with the memory that is free, and log them. Without Ray, this machine's."""
    if not ray.is_initialized():
        return ClusterGpus(tuple(filter(None, [_local_gib()])))
    here = ray.get_runtime_context().get_node_id()
    found: list[tuple[float, ...]] = []
    for node in ray.nodes():
        count = int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0
        if count:
            found.append(_node_gib(node["Resources"], count, node["NodeID"] == here))
    return ClusterGpus(tuple(found))


def profile_for_gpus(gpus: ClusterGpus, overrides: Mapping[str, Any]) -> Profile:
    """Return the first profile that fits the GPUs, else cpu. The log has the reason and the remedy.

    Raises ConfigError if the overrides are invalid.
    """
    choice = choose_profile(gpus, read_nvml() if gpus.gib else None, overrides, check_named_gpus)
    _LOG.log(logging.WARNING if choice.idle_gpus else logging.INFO, "%s", choice.reason)
    return choice.profile


def check_named_gpus(profile: Profile) -> None:
    """Check that Ray offers the GPUs that the profile names.

    Raises:
        ConfigError: It does not, because it was started otherwise than by `roadwork serve`.
    """
    named = sorted({gpu for name in profile.users() if (gpu := profile.engines[name].gpu) is not None})
    offered = ray.cluster_resources() if ray.is_initialized() else _override_resources()
    if absent := [index for index in named if gpu_resource(index) not in offered]:
        resources = json.dumps({gpu_resource(index): 1 for index in range(named[-1] + 1)})
        raise ConfigError(
            f"profile {profile.name} names GPU {absent[0]} and no node of Ray offers the resource "
            f"{gpu_resource(absent[0])}: run `roadwork serve`, or start each node with `ray start --resources "
            f"'{resources}'`, or set RAY_OVERRIDE_RESOURCES='{resources}' for `serve run`; or remove gpu "
            "from all engines"
        )


def _override_resources() -> dict[str, float]:
    """Return the resources that this environment gives to a Ray that is started later."""
    return json.loads(os.environ.get("RAY_OVERRIDE_RESOURCES") or "{}")


def _node_gib(resources: Mapping[str, float], count: int, here: bool) -> tuple[float, ...]:
    """Return the memory of a node's GPUs by index. If Ray may use fewer than it has, the smallest are assumed."""
    found = _local_gib() if here else ()
    smallest = sorted((index for index, gib in enumerate(found) if gib), key=lambda index: found[index])[:count]
    if here and len(smallest) == count:
        return tuple(gib if index in smallest else 0.0 for index, gib in enumerate(found))
    types = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    for name in types:
        if name in KNOWN_GIB:
            _LOG.info("%d GPUs of type %s are assumed to have %g GiB each.", count, name, KNOWN_GIB[name])
            return (KNOWN_GIB[name],) * count
    _LOG.warning(
        "The memory of %d GPUs (%s) is unknown; %g GiB each are assumed. If that is wrong, name a profile instead of "
        "auto.",
        count, ", ".join(types) or "of unknown type", ASSUMED_GIB,
    )  # fmt: skip
    return (ASSUMED_GIB,) * count


def _local_gib() -> tuple[float, ...]:
    """Return the free memory of this machine's GPUs by index, and log it with the processes that hold the rest."""
    reading = read_nvml(_is_of_this_ray)
    if reading is None:
        return ()
    for gpu in reading.gpus:
        held = f", held by {gpu.holders}" if gpu.holders else ""
        _LOG.info("GPU %d, %s: %g of %g GiB free%s.", gpu.index, gpu.name, gpu.free_gib, gpu.total_gib, held)
    return tuple(gpu.free_gib if gpu.visible else 0.0 for gpu in reading.gpus)


def _is_of_this_ray(pid: int) -> bool:
    """Return True for the processes of this node's replicas, which end before those of a new version load models."""
    if not ray.is_initialized():
        return False
    raylet = os.getppid()  # of the worker that builds the application
    while pid > 1 and pid != raylet:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # it has ended, or is of another container
            return False
        pid = next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
    return pid == raylet
