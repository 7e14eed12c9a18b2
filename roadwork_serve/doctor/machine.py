"""Cores, memory, GPUs, ports and folders."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from roadwork_serve.doctor.finding import Finding, Level
from roadwork_serve.errors import ConfigError
from roadwork_serve.free_memory import GIB, free_ram
from roadwork_serve.ports import check_port
from roadwork_serve.profiles.nvml import NvmlReading
from roadwork_serve.running_server import RunningServer

_STATE_GIB = 3.0  # the journal keeps up to 2 GiB of media by default
_TEMPORARY_GIB = 1.0  # logs, sockets and spilled objects of Ray
_SHARED_GIB = 0.3  # Ray's object store, which roadwork-serve limits to 256 MiB
_DRIVER = Path("/proc/driver/nvidia/version")


def usable_cores(root: Path = Path("/")) -> float:
    """Return the cores that this process may use: its affinity, and in a container its quota."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return min(float(there), int(quota) / int(period))
    except (OSError, ValueError):  # "max": no limit, or not there
        return float(there)


def cores_and_memory() -> list[Finding]:
    """Return what there is of both."""
    free = free_ram()
    memory = "unknown" if free is None else f"{free / GIB:.1f} GiB free"
    return [Finding("Cores", "ok", f"{usable_cores():g}"), Finding("Memory", "ok", memory)]


def gpus(reading: NvmlReading | None, driver: Path = _DRIVER) -> list[Finding]:
    """Return the driver and the GPUs. The reading is that of NVML; None without it."""
    if reading is None:
        if driver.exists() or shutil.which("nvidia-smi"):
            text = "there is an NVIDIA driver that cannot be asked: run `make gpu`, or install roadwork-serve[gpu]"
            return [Finding("GPUs", "note", text)]
        return [Finding("GPUs", "ok", "none, and the profile cpu needs none")]
    cuda = f"{reading.cuda // 1000}.{reading.cuda % 1000 // 10}"
    findings = [Finding("Driver", "ok", f"{reading.driver}, for CUDA up to {cuda}")]
    for gpu in reading.gpus:
        held = f", held by {gpu.holders}" if gpu.holders else ""
        hidden = "" if gpu.visible else ", not in CUDA_VISIBLE_DEVICES"
        text = f"{gpu.name}: {gpu.free_gib:g} of {gpu.total_gib:g} GiB free{held}{hidden}"
        findings.append(Finding(f"GPU {gpu.index}", "ok", text))
    return findings


def port(host: str, number: int, server: RunningServer | None) -> Finding:
    """Return whether a server can listen there; `server` is the one that this user runs already."""
    if server is not None:
        return Finding("Port", "ok", f"your server runs at {server.url}; another one needs a state folder of its own")
    try:
        check_port(host, number)
    except ConfigError as error:
        return Finding("Port", "problem", str(error))
    return Finding("Port", "ok", f"{number} of {host} is free")


def folders(state: Path, environment: Mapping[str, str] = os.environ, shared: Path = Path("/dev/shm")) -> list[Finding]:  # noqa: S108
    """Return whether the folders that a server writes to can be written, and the space in them."""
    weights = Path(environment.get("HF_HOME") or Path.home() / ".cache/huggingface")
    temporary = Path(environment.get("RAY_TMPDIR") or tempfile.gettempdir())
    findings = [
        _folder("State folder", state, _STATE_GIB, "name another one in ROADWORK_STATE"),
        _folder("Weights folder", weights, 0.0, "name another one in HF_HOME"),
        _folder("Ray's folder", temporary, _TEMPORARY_GIB, "name another one, with a short path, in RAY_TMPDIR"),
    ]
    if shared.is_dir():
        remedy = "in a container, give it more (docker run --shm-size 1g), else Ray keeps objects on the disk"
        findings.append(_folder("Shared memory", shared, _SHARED_GIB, remedy))
    return findings


def _folder(topic: str, folder: Path, least_gib: float, remedy: str) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(topic, "problem", f"{folder} cannot be written, because of {there}: {remedy}")
    if there == folder and topic == "State folder" and folder.stat().st_uid != os.getuid():
        return Finding(topic, "problem", f"{folder} belongs to another user: {remedy}")
    free_gib = shutil.disk_usage(there).free / GIB
    level: Level = "ok" if free_gib >= least_gib else "note"
    advice = "" if level == "ok" else f", and {least_gib:g} may be needed: free some, or {remedy}"
    return Finding(topic, level, f"{folder}, {free_gib:.1f} GiB free{advice}")
