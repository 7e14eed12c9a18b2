"""Whether a checkpoint fits into what is free, from its headers, before gigabytes of it are read."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from roadwork_serve.errors import ModelError

GIB = 2**30
_FLOATS = ("F64", "F32", "F16", "BF16")  # of safetensors: what loading turns into the engine's dtype
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_BITS = {"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16}  # anything else counts as a byte


def cap_gpu_memory(gpu_memory_gib: float | None, device: str) -> None:
    """Let PyTorch take no more of the card than this, for the whole process. Raises ModelError without a card."""
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ModelError(
            "device is cuda and PyTorch sees no GPU: look what `nvidia-smi` says and whether this PyTorch was built "
            "for CUDA (torch.version.cuda), or set device: cpu"
        )
    if gpu_memory_gib is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_memory_gib * GIB / torch.cuda.mem_get_info()[1]))


def check_room(model: str, folder: Path | None, *, dtype: str, device: str, gpu_memory_gib: float | None) -> None:
    """Raises ModelError when the weights in the folder, made into dtype, are larger than what is free for them.

    folder: with model*.safetensors; None or one without is not judged. The weights of a GPU's model pass through RAM.
    """
    needed = weights_bytes(folder, dtype) if folder else 0
    spare = free_ram()
    if spare is not None and needed > spare:
        raise ModelError(
            f"{model} takes {needed / GIB:.1f} GiB of memory in {dtype} and {spare / GIB:.1f} GiB are free: free some, "
            "book more for the replica, take a smaller checkpoint, or set dtype: bfloat16 where it is float32"
        )
    if device != "cuda":
        return
    free = torch.cuda.mem_get_info()[0]
    room = min(free, gpu_memory_gib * GIB) if gpu_memory_gib is not None else free
    if needed > room:
        limit = f", gpu_memory_gib allows {gpu_memory_gib:g}" if gpu_memory_gib is not None else ""
        raise ModelError(
            f"{model} takes {needed / GIB:.1f} GiB in {dtype} and {free / GIB:.1f} GiB of the card are free{limit}: "
            "raise gpu_memory_gib, give other engines less of the card, or take a smaller checkpoint or dtype"
        )


def weights_bytes(folder: Path, dtype: str) -> int:
    """Of all model*.safetensors in the folder once loaded as dtype; 0 where there is none or one cannot be read."""
    width = 8 * getattr(torch, dtype).itemsize
    bits = 0
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            for kind, shape in _tensors(file):
                bits += math.prod(shape) * (width if kind in _FLOATS else _BITS.get(kind, 8))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return 0  # damaged: loading says so
    return bits // 8


def free_ram(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take: what the kernel has, or less in a container; None off Linux."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return max(0, min([free, *_left_in_groups(root)]))


def _tensors(file: Path) -> Iterator[tuple[str, list[int]]]:
    """dtype and shape of every tensor, from the header: its length in 8 bytes, then JSON (safetensors' format)."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(min(length, _MAX_HEADER)))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield tensor["dtype"], tensor["shape"]


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each memory limit of the control groups around this process leaves; file caches count as free."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        old = controllers == "memory"
        top = groups / "memory" if old else groups
        limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        here = top / path.lstrip("/")
        for group in (here, *here.parents):
            if group.is_relative_to(top):
                try:
                    stat = dict(each.split() for each in (group / "memory.stat").read_text().splitlines())
                    used = int((group / usage).read_text()) - int(stat.get("inactive_file", 0))
                    yield int((group / limit).read_text()) - used
                except (OSError, ValueError):  # "max": no limit, or not there
                    continue
