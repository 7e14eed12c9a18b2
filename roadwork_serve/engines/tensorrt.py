"""Stage 1 under TensorRT: plans built from the ONNX file of `roadwork export` and cached for the next start.

Experimental, not yet run on hardware. Written against the Python API of TensorRT 10 and 11
(docs.nvidia.com/deeplearning/tensorrt): networks are strongly typed, so a plan computes in the types of its ONNX file,
fp16 or fp32 (with TF32 where the GPU has it).
"""

import hashlib
import json
import logging
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadwork_serve.atomic_write import replace_file, write_json
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.memory import cap_gpu_memory
from roadwork_serve.engines.onnx import INPUT, OUTPUT, data_of, read_metadata
from roadwork_serve.engines.thumbnails import (
    ExportedBackbone,
    batches,
    check_side,
    reference_thumbs,
    to_device,
)
from roadwork_serve.errors import ModelError
from roadwork_serve.free_memory import GIB
from roadwork_serve.profiles.gpu_memory import RUNTIME_GIB

MAX_BATCH = 64
OPTIMAL_BATCH = 16  # the batch size kernels are tuned for; all sizes up to the largest run
MAX_DIFFERENCE = 0.05  # between logits of a plan and of PyTorch in fp32: TF32 and fp16 have 10 bits of mantissa
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Description of a plan, which runs only on this kind of GPU with this version of TensorRT."""

    model: str
    #: fp32 or fp16.
    precision: str
    #: Side of the thumbnails in pixels.
    side: int
    #: Names of the logits in order.
    outputs: tuple[str, ...]
    #: Name of the GPU.
    gpu: str
    #: Version of TensorRT.
    tensorrt: str
    #: SHA-256 of the ONNX file and its weights.
    onnx_sha256: str
    #: Largest batch size.
    max_batch: int
    #: Time of the build in seconds.
    build_s: float
    #: Largest difference between a logit of the plan and of PyTorch in fp32.
    difference: float


class TensorRtBackbone(ExportedBackbone):
    """Stage 1 from a TensorRT plan, which is built from the ONNX file of `roadwork export` if it is missing.

    Experimental, not yet run on hardware.
    """

    def __init__(
        self, file: Path, *, side: int | None = None, max_thumbs: int = MAX_BATCH, device: str = "cuda"
    ) -> None:
        """Load the plan, or build it.

        Args:
            file: ONNX file of `roadwork export`.
            side: Side of the thumbnails in pixels; by default that of the file.
            max_thumbs: Largest number of thumbnails in one forward pass.
            device: cuda; another device only in tests.

        Raises:
            ModelError: There is no TensorRT, no GPU or no such file, the file was exported for another side, or the
                logits of a new plan differ from PyTorch's by more than MAX_DIFFERENCE.
        """
        self._trt = _tensorrt()
        cap_gpu_memory(LoadOptions(device=device))
        if not file.is_file():
            raise ModelError(f"there is no file {file}: write it with `roadwork export --to onnx --out {file}`")
        self._file, self._device = file, torch.device(device)
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._gpu, self._sha256 = torch.cuda.get_device_name(), _sha256(file)
        self._runtime = self._trt.Runtime(self._logger)
        self._stream: Any = torch.cuda.Stream()  # TensorRT synchronises more on the default stream
        self.path, self.plan = self._find(side, max_thumbs) or self._build(side, max_thumbs)
        self.max_thumbs = min(max_thumbs, self.plan.max_batch)

    def warm(self) -> None:
        """Run the smallest and the largest batch."""
        for count in (1, self.max_thumbs):
            self.logits(reference_thumbs(self.plan.side, count))

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ExportedBackbone`."""
        return self.plan.outputs

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """See `ExportedBackbone`."""
        check_side(self.plan.side, thumbs.shape[1])
        logits = self._logits(thumbs, self.max_thumbs, len(self.plan.outputs))
        return {name: logits[:, i] for i, name in enumerate(self.plan.outputs)}

    def _logits(self, thumbs: NDArray[np.uint8], most: int, outputs: int) -> NDArray[np.float32]:
        with torch.cuda.stream(self._stream):
            parts = (to_device(thumbs[cut], len(thumbs[cut]), self._device) for cut in batches(len(thumbs), most))
            return torch.cat([self._run(part, outputs) for part in parts]).cpu().numpy()

    def _run(self, thumbs: Tensor, outputs: int) -> Tensor:
        logits = torch.empty((len(thumbs), outputs), dtype=torch.float32, device=self._device)
        done = (
            self._context.set_input_shape(INPUT, tuple(thumbs.shape))
            and self._context.set_tensor_address(INPUT, thumbs.data_ptr())
            and self._context.set_tensor_address(OUTPUT, logits.data_ptr())
            and self._context.execute_async_v3(self._stream.cuda_stream)
        )
        if not done:
            raise ModelError(f"TensorRT could not run {len(thumbs)} thumbnails; see its log")
        return logits

    def _find(self, side: int | None, largest: int) -> tuple[Path, Plan] | None:
        """Open a cached plan of this file for this GPU, TensorRT and batch size; None if there is none."""
        for folder in _folders(self._file):
            for path in sorted(folder.glob(f"*{self._suffix()}")):
                plan = _read(path)
                if plan is None or plan.onnx_sha256 != self._sha256 or plan.max_batch < largest:
                    continue
                check_side(plan.side, side)
                if self._open(path):
                    _LOG.info("Using the plan %s, which was built in %.0f s for %s.", path, plan.build_s, plan.gpu)
                    return path, plan
        return None

    def _suffix(self) -> str:
        return f"-{_slug(self._gpu)}-trt{self._trt.__version__}.plan"

    def _open(self, path: Path) -> bool:
        """Open the plan; return False if TensorRT rejects it."""
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            _LOG.warning("TensorRT rejects the plan %s; see its log.", path)
            return False
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelError(
                f"The GPU has too little memory for {path}: give other engines less, or build for a smaller batch."
            )
        return True

    def _build(self, side: int | None, largest: int) -> tuple[Path, Plan]:
        metadata = read_metadata(self._file)
        check_side(metadata.side, side)
        folder = next((f for f in _folders(self._file) if _writable(f)), None)
        if folder is None:
            raise ModelError(f"neither {self._file.parent} nor the cache can be written to: set XDG_CACHE_HOME")
        path = folder / f"{_slug(metadata.model)}-{metadata.side}-{metadata.precision}{self._suffix()}"
        _LOG.info("Building the plan %s. This takes minutes, once per kind of GPU and version of TensorRT.", path)
        began = time.monotonic()
        with replace_file(path, os_errors=True) as draft:
            draft.write_bytes(self._serialised(metadata.side, largest, folder / f"timing{self._suffix()}.cache"))
            build_s = time.monotonic() - began
            if not self._open(draft):
                raise ModelError(f"TensorRT built a plan of {self._file} that it cannot load; see its log")
            logits = self._logits(
                reference_thumbs(metadata.side, len(metadata.expected)), largest, len(metadata.outputs)
            )
            difference = float(np.abs(logits - metadata.expected).max())
            if not difference <= MAX_DIFFERENCE:
                raise ModelError(
                    f"the plan of {self._file} gives logits that differ from PyTorch's by {difference:.3g}, more than "
                    f"{MAX_DIFFERENCE:g}: the plan was deleted; export the model in fp32"
                )
            plan = Plan(
                metadata.model, metadata.precision, metadata.side, metadata.outputs, self._gpu, self._trt.__version__,
                self._sha256, largest, build_s, difference,
            )  # fmt: skip
        write_json(_description_file(path), asdict(plan))
        _LOG.info(
            "Built the plan %s in %.0f s. Its logits differ from PyTorch's by at most %.2g.", path, build_s, difference
        )
        return path, plan

    def _serialised(self, side: int, largest: int, timings: Path) -> memoryview:
        """Build a plan.

        Args:
            side: Side of the thumbnails in pixels.
            largest: Largest batch size.
            timings: TensorRT's timing cache of earlier builds, which this build extends.
        """
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(self._file)):  # by path, so that it finds the weights beside it
            errors = "; ".join(parser.get_error(at).desc() for at in range(parser.num_errors))
            raise ModelError(f"TensorRT {trt.__version__} cannot parse {self._file}: {errors}. Try a newer TensorRT.")
        config = builder.create_builder_config()
        # What the plan of the profile books: by default TensorRT takes all memory, also while others start beside it.
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(RUNTIME_GIB * GIB))
        shapes = [(n, side, side, 3) for n in (1, min(OPTIMAL_BATCH, largest), largest)]
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *shapes)
        config.add_optimization_profile(profile)
        cached = timings.read_bytes() if timings.is_file() else b""
        config.set_timing_cache(
            config.create_timing_cache(cached) or config.create_timing_cache(b""), ignore_mismatch=False
        )
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ModelError(
                f"TensorRT could not build a plan of {self._file}; see its log, and check the free GPU memory"
            )
        timings.write_bytes(memoryview(config.get_timing_cache().serialize()))
        return memoryview(plan)


def _tensorrt() -> Any:
    try:
        import tensorrt  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise ModelError(
            "TensorRT is not installed: pip install 'roadwork-serve[tensorrt]', or run stage 1 with backend: onnx"
        ) from error
    return tensorrt


def _folders(file: Path) -> tuple[Path, Path]:
    """Return the folders for plans: that of the file, and the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return file.absolute().parent, cache / "roadwork-serve"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _description_file(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")


def _read(path: Path) -> Plan | None:
    """Return the description of a plan; None if it is missing or of another version of this project."""
    try:
        fields = json.loads(_description_file(path).read_text())
        return Plan(**{**fields, "outputs": tuple(fields["outputs"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _sha256(file: Path) -> str:
    """Return the SHA-256 of the ONNX file and its weights."""
    found = hashlib.sha256()
    for part in (file, data_of(file)):
        if part.is_file():
            with part.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def _slug(name: str) -> str:
    """Return the name with characters that suit a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
