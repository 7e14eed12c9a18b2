"""The GPUs of this machine as NVIDIA's driver reports them: their memory, who holds it, and its CUDA version."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOG = logging.getLogger("ray.serve.roadwork.nvml")
GIB = 2**30


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    #: Memory in GiB; None where the driver does not report it.
    gib: float | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. Its index is that of nvidia-smi, in the order of the PCI bus."""

    index: int
    name: str
    #: Compute capability: (8, 9) of an RTX 4090.
    capability: tuple[int, ...]
    #: Memory that CUDA can use, in GiB.
    total_gib: float
    #: Memory that is free, or held by processes that will make room, in GiB.
    free_gib: float
    #: The other processes, largest first.
    processes: tuple[GpuProcess, ...] = ()
    #: CUDA_VISIBLE_DEVICES of this process includes it.
    visible: bool = True

    @property
    def holders(self) -> str:
        """Describe who holds the rest of the memory; empty if it is free."""
        if self.total_gib - self.free_gib < 0.1:
            return ""
        named = [f"{each.name} ({'unknown' if each.gib is None else f'{each.gib:.1f} GiB'})" for each in self.processes]
        rest = self.total_gib - self.free_gib - sum(each.gib or 0.0 for each in self.processes)
        if rest >= 0.1:
            named.append(f"{rest:.1f} GiB of the driver or of processes that are not visible here")
        return ", ".join(named)


@dataclass(frozen=True, slots=True)
class NvmlReading:
    """A report of the driver."""

    gpus: tuple[Gpu, ...]
    #: Version of the driver, such as 580.65.06.
    driver: str
    #: Newest CUDA that the driver supports: 13000 is 13.0.
    cuda: int


def read_nvml(makes_room: Callable[[int], bool] = lambda pid: False) -> NvmlReading | None:
    """Ask the driver. Return None without a driver or without nvidia-ml-py, or if it reports an error, which is logged.

    Args:
        makes_room: Whether the memory of a process counts as free, because it ends before models are loaded.
    """
    try:
        import pynvml  # pyright: ignore[reportMissingImports] - of the gpu extra
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        visible = visible_indices([_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles])
        gpus = tuple(_gpu(pynvml, at, handle, at in visible, makes_room) for at, handle in enumerate(handles))
        driver, cuda = _text(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except pynvml.NVMLError as error:
        _LOG.warning("The driver does not report the state of its GPUs: %s.", error)
        return None
    finally:
        pynvml.nvmlShutdown()
    return NvmlReading(gpus, driver, cuda)


def visible_indices(uuids: Sequence[str], environment: Mapping[str, str] = os.environ) -> frozenset[int]:
    """Return the indices of the GPUs that CUDA_VISIBLE_DEVICES names by number or UUID; all if it is not set."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return frozenset(range(len(uuids)))
    found: set[int] = set()
    for name in (part.strip() for part in named.split(",")):
        if name.isdecimal():
            found.add(int(name))
        elif name:
            found |= {index for index, uuid in enumerate(uuids) if uuid.startswith(name)}
    return frozenset(found & set(range(len(uuids))))


def _gpu(nvml: Any, index: int, handle: Any, visible: bool, makes_room: Callable[[int], bool]) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    processes = _processes(nvml, handle)
    total = (memory.total - memory.reserved) / GIB
    free = memory.free / GIB + sum(each.gib or 0.0 for each in processes if makes_room(each.pid))
    return Gpu(
        index,
        _text(nvml.nvmlDeviceGetName(handle)),
        tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        _tenths(total),
        _tenths(min(total, free)),
        tuple(each for each in processes if not makes_room(each.pid)),
        visible,
    )


def _tenths(gib: float) -> float:
    """Round down, so that a plan does not count on memory that is not there."""
    return math.floor(gib * 10 + 1e-6) / 10


def _processes(nvml: Any, handle: Any) -> list[GpuProcess]:
    """Return the processes on a GPU, largest first; none where the driver does not report them."""
    found: dict[int, GpuProcess] = {}
    for query in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            running = query(handle)
        except nvml.NVMLError:
            continue
        for each in running:
            used = None if each.usedGpuMemory is None else each.usedGpuMemory / GIB
            found[each.pid] = GpuProcess(each.pid, _name(nvml, each.pid), used)
    return sorted(found.values(), key=lambda each: -(each.gib or 0.0))


def _name(nvml: Any, pid: int) -> str:
    try:
        command = _text(nvml.nvmlSystemGetProcessName(pid))
    except nvml.NVMLError:
        return f"process {pid}"
    return f"{Path(command.split()[0]).name if command.strip() else 'process'} {pid}"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
