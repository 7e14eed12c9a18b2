"""Estimates of the memory and the CPU cores that the processes of a profile need on the host, beside the GPUs.

The sizes of processes are estimates: those of vLLM from vLLM 0.32 on a CPU (4 GB in three processes with 1 GiB of KV
cache), the others from processes of the profile `cpu`. Not yet measured on hardware with a GPU.
"""

from dataclasses import dataclass

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import PROCESSOR_CACHE_GIB, EngineSpec
from roadwork_serve.profiles.gpu_memory import weights_gib
from roadwork_serve.profiles.profile import Profile

RAY_GIB = 1.5  # Ray's own processes, Serve's controller and proxy, and the object store
INGRESS_GIB, DECODER_GIB, JOURNAL_GIB = 0.5, 0.3, 0.3
REPLICA_GIB = 0.5  # Python with the project, and onnxruntime
TORCH_GIB = 0.4  # PyTorch, on top
CUDA_GIB = 1.5  # PyTorch or TensorRT with the libraries of CUDA, on top
VLLM_GIB = 3.0  # vLLM's replica and its engine core together
SHARD_GIB = 5.0  # the largest file of a checkpoint; vLLM reads one after another
VLLM_CORES = 2.0  # the engine core, which never waits while there is work, and the replica, which prepares pictures


@dataclass(frozen=True, slots=True)
class HostNeed:
    """The memory and the cores that a part of the server needs."""

    part: str
    gib: float
    #: Cores that it keeps busy under full load.
    cores: float


def host_needs(profile: Profile) -> tuple[HostNeed, ...]:
    """Return the needs of Ray, the ingress, each engine, and of loading the models, which happens at once."""
    ingress, journal = profile.ingress, profile.journal
    needs = [
        HostNeed("Ray", RAY_GIB, 0.5),
        HostNeed(
            "ingress and decoding",
            ingress.replicas * (INGRESS_GIB + ingress.decode_processes * DECODER_GIB),
            ingress.replicas * (ingress.num_cpus + ingress.decode_processes),
        ),
    ]
    if journal.enabled:
        needs.append(HostNeed("journal", JOURNAL_GIB, journal.num_cpus))
    for name in profile.users():
        engine = profile.engines[name]
        needs.append(HostNeed(name, engine.replicas * _process_gib(engine), engine.replicas * _cores(engine)))
    loading = sum(_loading_gib(name, profile) for name in profile.users())
    return (*needs, HostNeed("loading models", loading, 0.0))


def check_host(profile: Profile, memory_gib: float | None, cores: float) -> None:
    """Check that the host has enough free memory and cores.

    Args:
        profile: The profile.
        memory_gib: Free memory; None if it is unknown.
        cores: Cores of the host.

    Raises:
        ConfigError: It has too little; the message has the largest part.
    """
    needs = host_needs(profile)
    needed, largest = sum(need.gib for need in needs), max(needs, key=lambda need: need.gib)
    if memory_gib is not None and needed > memory_gib:
        raise ConfigError(
            f"the processes of profile {profile.name} need about {needed:.1f} GiB of memory on the host and "
            f"{memory_gib:.1f} GiB are free, and Ray stops processes when it runs out: free some, or leave out stages "
            f"(the largest part is {largest.part} with {largest.gib:.1f} GiB)"
        )
    booked = profile.ingress.replicas * profile.ingress.num_cpus + profile.journal.num_cpus * profile.journal.enabled
    booked += sum(profile.engines[name].replicas * profile.engines[name].num_cpus for name in profile.users())
    if booked > cores:
        raise ConfigError(
            f"profile {profile.name} reserves {booked:g} CPU cores and there are {cores:g}: lower num_cpus of its "
            "engines, or ingress.num_cpus"
        )


def _process_gib(engine: EngineSpec) -> float:
    if engine.backend == "vllm":
        return VLLM_GIB + float(engine.vllm.arguments.get("mm_processor_cache_gb", PROCESSOR_CACHE_GIB))
    if engine.device == "cuda":
        return REPLICA_GIB + CUDA_GIB
    return REPLICA_GIB + (TORCH_GIB if engine.backend == "transformers" else 0.0)


def _cores(engine: EngineSpec) -> float:
    return max(engine.num_cpus, VLLM_CORES if engine.backend == "vllm" else float(engine.threads))


def _loading_gib(name: str, profile: Profile) -> float:
    """Return the memory for weights on their way to a GPU. On a CPU they stay, and are checked when they are loaded."""
    engine = profile.engines[name]
    if engine.device == "cpu" or engine.backend not in ("vllm", "transformers"):
        return 0.0
    gib = weights_gib(name, engine)
    return min(SHARD_GIB, gib) if engine.backend == "vllm" else gib
