"""Stands in for the part of TensorRT's Python API that the project uses. Nothing here shows that real TensorRT agrees.

Names, arguments and the order of calls are those of its documentation for versions 10 and 11. The "plan" remembers
the ONNX file and runs it with onnxruntime on the memory it is pointed at, so addresses, shapes and types must be right.
"""

import ctypes
import json
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from roadwork_serve.engines.onnx import open_session

__version__ = "10.99"
calls: list[str] = []
workspaces: list[int | None] = []  # limit in bytes of each build
refuses: set[str] = set()  # names of calls that fail, in TensorRT's way: by returning None or False
off = 0.0  # added to every logit


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class Logger:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        assert severity == self.WARNING


class HostMemory(bytes):
    """Stands in for IHostMemory, of which only the buffer protocol is used."""


class Error:
    def desc(self) -> str:
        return "No importer registered for op: Foo"


class Network:
    file: str


class OnnxParser:
    num_errors = 1

    def __init__(self, network: Network, logger: Logger) -> None:
        self.network = network

    def parse_from_file(self, model: str) -> bool:
        calls.append("parse")
        self.network.file = model
        return "parse" not in refuses

    def get_error(self, index: int) -> Error:
        assert index == 0
        return Error()


class OptimizationProfile:
    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        assert input == "thumbs"
        self.shapes = (min, opt, max)


class TimingCache:
    def __init__(self, kept: bytes) -> None:
        self.kept = kept

    def serialize(self) -> HostMemory:
        return HostMemory(self.kept + b"timed")


class BuilderConfig:
    profile: OptimizationProfile
    cache: TimingCache | None = None
    workspace: int | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = pool_size

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        return None if serialized_timing_cache == b"broken" else TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        assert self.cache is not None
        return self.cache


class Builder:
    def __init__(self, logger: Logger) -> None: ...

    def create_network(self, flags: int = 0) -> Network:
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        calls.append("build")
        workspaces.append(config.workspace)
        if "build" in refuses:
            return None
        return HostMemory(json.dumps({"file": network.file, "shapes": config.profile.shapes}).encode())


class Runtime:
    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "CudaEngine | None":
        calls.append("deserialize")
        try:
            return CudaEngine(json.loads(serialized_engine))
        except ValueError:
            return None


class CudaEngine:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan

    def create_execution_context(self) -> "ExecutionContext | None":
        return None if "context" in refuses else ExecutionContext(self.plan)


class ExecutionContext:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.least, _, self.most = plan["shapes"]
        self.session = open_session(Path(plan["file"]), 1)
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return all(low <= n <= high for low, n, high in zip(self.least, shape, self.most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in ("thumbs", "logits")

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 72
        calls.append(f"execute {self.shape[0]}")
        size = int(np.prod(self.shape))
        thumbs = np.frombuffer(ctypes.string_at(self.addresses["thumbs"], size), np.uint8).reshape(self.shape)
        logits = self.session.run(["logits"], {"thumbs": thumbs})[0] + np.float32(off)
        ctypes.memmove(self.addresses["logits"], logits.tobytes(), logits.nbytes)
        return True
