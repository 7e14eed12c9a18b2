"""Memory checks before a checkpoint is loaded, from its headers, so that gigabytes are not read in vain."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.errors import ModelError
from roadwork_serve.free_memory import GIB, free_ram

_FLOATS = ("F64", "F32", "F16", "BF16")  # types of safetensors that loading converts to the dtype of the engine
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_BITS = {"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16}  # anything else counts as a byte


def cap_gpu_memory(options: LoadOptions) -> None:
    """Limit the GPU memory of PyTorch in this process.

    Raises:
        ModelError: The device is cuda and there is no GPU.
    """
    if options.device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ModelError(
            "device is cuda and PyTorch sees no GPU: check the output of `nvidia-smi` and whether this PyTorch was "
            "built for CUDA (torch.version.cuda), or set device: cpu"
        )
    if (limit_gib := options.gpu_memory_gib) is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * GIB / torch.cuda.mem_get_info()[1]))


def check_memory(model: str, folder: Path | None, options: LoadOptions) -> None:
    """Check that the weights fit into free memory. The weights of a model on a GPU pass through RAM.

    Args:
        model: Name of the model for the error message.
        folder: Folder with model*.safetensors. None, or a folder without them, is not checked.
        options: Settings for loading.

    Raises:
        ModelError: The weights are larger than the free memory.
    """
    dtype = options.dtype
    needed = weights_bytes(folder, dtype) if folder else 0
    spare = free_ram()
    if spare is not None and needed > spare:
        raise ModelError(
            f"{model} takes {needed / GIB:.1f} GiB of memory in {dtype} and {spare / GIB:.1f} GiB are free: free some, "
            "raise memory_mb of the engine, use a smaller checkpoint, or set dtype: bfloat16 where it is float32"
        )
    if options.device != "cuda":
        return
    gpu_memory_gib = options.gpu_memory_gib
    free = torch.cuda.mem_get_info()[0]
    room = min(free, gpu_memory_gib * GIB) if gpu_memory_gib is not None else free
    if needed > room:
        limit = f", gpu_memory_gib allows {gpu_memory_gib:g}" if gpu_memory_gib is not None else ""
        raise ModelError(
            f"{model} takes {needed / GIB:.1f} GiB in {dtype} and {free / GIB:.1f} GiB of the GPU are free{limit}: "
            "raise gpu_memory_gib, give other engines less of the GPU, or use a smaller checkpoint or dtype"
        )


def weights_bytes(folder: Path, dtype: str) -> int:
    """Return the bytes of all model*.safetensors once loaded as dtype; 0 if there are none or one cannot be read."""
    width = 8 * getattr(torch, dtype).itemsize
    bits = 0
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            for kind, shape in _tensors(file):
                bits += math.prod(shape) * (width if kind in _FLOATS else _BITS.get(kind, 8))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return 0  # damaged: loading reports it
    return bits // 8


def _tensors(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield dtype and shape of every tensor from the header: its length in 8 bytes, then JSON (safetensors' format)."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(min(length, _MAX_HEADER)))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield tensor["dtype"], tensor["shape"]
