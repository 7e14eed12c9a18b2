"""A stand-in for nvidia-ml-py with made-up GPUs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

GIB = 2**30
Capability = tuple[int, int]
ADA, AMPERE, HOPPER, TURING = (8, 9), (8, 6), (9, 0), (7, 5)


@dataclass(frozen=True)
class FakeGpu:
    """A GPU. gib: its memory, reserved: of it, by the driver. compute, desktop: GiB of processes by their pid."""

    name: str
    gib: float
    capability: Capability = ADA
    reserved: float = 0.4
    compute: Mapping[int, float | None] = field(default_factory=dict)
    desktop: Mapping[int, float | None] = field(default_factory=dict)


# Memory with the reserve, as nvidia-smi shows it.
RTX_4090 = FakeGpu("NVIDIA GeForce RTX 4090", 24.0)
RTX_3090 = FakeGpu("NVIDIA GeForce RTX 3090", 24.0, AMPERE)
RTX_3060 = FakeGpu("NVIDIA GeForce RTX 3060", 12.0, AMPERE)
L4 = FakeGpu("NVIDIA L4", 22.5)
H100 = FakeGpu("NVIDIA H100 80GB HBM3", 79.7, HOPPER)


def fake_nvml(
    *gpus: FakeGpu,
    driver: str = "580.65.06",
    cuda: int = 13000,
    names: Mapping[int, str] | None = None,
    fails: str = "",
) -> ModuleType:
    """Return the module. names: commands by pid. fails: the function that raises."""
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError, nvml.nvmlMemory_v2 = type("NVMLError", (Exception,), {}), 2

    def memory(index: int, version: int) -> SimpleNamespace:
        gpu = gpus[index]
        used = sum(gib or 0.0 for gib in (*gpu.compute.values(), *gpu.desktop.values()))
        total, reserved = gpu.gib * GIB, gpu.reserved * GIB
        return SimpleNamespace(total=total, reserved=reserved, used=used * GIB, free=total - reserved - used * GIB)

    def running(held: Mapping[int, float | None]) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=None if g is None else int(g * GIB)) for pid, g in held.items()]

    def process_name(pid: int) -> str:
        if pid not in (names or {}):
            raise nvml.NVMLError("not found")
        return (names or {})[pid]

    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda index: gpus[index].name,
        "nvmlDeviceGetUUID": lambda index: f"GPU-{index}0000000",
        "nvmlDeviceGetCudaComputeCapability": lambda index: list(gpus[index].capability),
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetComputeRunningProcesses": lambda index: running(gpus[index].compute),
        "nvmlDeviceGetGraphicsRunningProcesses": lambda index: running(gpus[index].desktop),
        "nvmlSystemGetProcessName": process_name,
        "nvmlSystemGetDriverVersion": lambda: driver,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: cuda,
    }

    def called(name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if name == fails:
                raise nvml.NVMLError("unknown error")
            return functions[name](*args, **named)

        return call

    for name in functions:
        setattr(nvml, name, called(name))
    return nvml
