"""Stage 1 under TensorRT: plans built from the ONNX file of `roadwork export`, kept for the next start.

Written against the Python API of TensorRT 10 and 11 (docs.nvidia.com/deeplearning/tensorrt): networks are strongly
typed, so a plan computes in the types of its ONNX file, fp16 or fp32 (with TF32 where the card has it).
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

from roadwork_serve.engines.memory import cap_gpu_memory
from roadwork_serve.engines.onnx import INPUT, OUTPUT, data_of, read_metadata
from roadwork_serve.engines.thumbnails import (
    ExportedBackbone,
    batches,
    max_logit_difference,
    reference_thumbs,
    to_device,
)
from roadwork_serve.errors import ModelError

LARGEST_BATCH = 64
USUAL_BATCH = 16  # what kernels are chosen for; all sizes up to the largest run
MOST_DIFFERENT = 0.05  # logits of a plan against PyTorch in fp32: TF32 and fp16 keep 10 bits of mantissa
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A plan, and what it was built for. It runs on cards of this name with this version of TensorRT alone.

    largest: batch. difference: the largest between one of its logits and PyTorch's in fp32.
    """

    model: str
    precision: str
    side: int
    outputs: tuple[str, ...]
    gpu: str
    tensorrt: str
    onnx_sha256: str
    largest: int
    build_s: float
    difference: float


class TensorRtBackbone(ExportedBackbone):
    """Stage 1 from the ONNX file of `roadwork export`, through the plan beside it, which is built when it is missing.

    side: of the thumbs that will come, pixels; the file's own by default. max_thumbs: in one pass of the model.
    Raises ModelError when there is no TensorRT, no GPU or no such file, when the file was exported for another side,
    or when a new plan's logits are further from PyTorch's than MOST_DIFFERENT.
    """

    def __init__(
        self, file: Path, *, side: int | None = None, max_thumbs: int = LARGEST_BATCH, device: str = "cuda"
    ) -> None:
        self._trt = _tensorrt()
        cap_gpu_memory(None, device)
        if not file.is_file():
            raise ModelError(f"there is no file {file}: write it with `roadwork export --to onnx --out {file}`")
        self._file, self._device = file, torch.device(device)
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._gpu, self._sha256 = torch.cuda.get_device_name(), _sha256(file)
        self._runtime = self._trt.Runtime(self._logger)
        self._stream: Any = torch.cuda.Stream()  # TensorRT synchronises more on the default stream
        self.path, self.plan = self._find(side, max_thumbs) or self._build(side, max_thumbs)
        self.max_thumbs = min(max_thumbs, self.plan.largest)

    def warm(self) -> None:
        """Run it at the smallest and the largest batch."""
        for count in (1, self.max_thumbs):
            self.logits(reference_thumbs(self.plan.side, count))

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ExportedBackbone`."""
        return self.plan.outputs

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 RGB [n, side, side, 3] -> one array [n] for each output, by name."""
        max_logit_difference(self.plan.side, thumbs.shape[1])
        told = self._logits(thumbs, self.max_thumbs, len(self.plan.outputs))
        return {name: told[:, i] for i, name in enumerate(self.plan.outputs)}

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
            raise ModelError(f"TensorRT could not run {len(thumbs)} thumbs; its log says why")
        return logits

    def _find(self, side: int | None, largest: int) -> tuple[Path, Plan] | None:
        """A plan of this file, for this card and TensorRT, that takes batches so large; opened."""
        for folder in _folders(self._file):
            for path in sorted(folder.glob(f"*{self._suffix()}")):
                plan = _read(path)
                if plan is None or plan.onnx_sha256 != self._sha256 or plan.largest < largest:
                    continue
                max_logit_difference(plan.side, side)
                if self._open(path):
                    _LOG.info("Plan %s, built in %.0f s for %s.", path, plan.build_s, plan.gpu)
                    return path, plan
        return None

    def _suffix(self) -> str:
        return f"-{_slug(self._gpu)}-trt{self._trt.__version__}.plan"

    def _open(self, path: Path) -> bool:
        """Whether TensorRT takes the plan."""
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            _LOG.warning("TensorRT does not take %s; its log says why.", path)
            return False
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelError(
                f"The card has no room for {path}: give other engines less of it, or build a smaller batch."
            )
        return True

    def _build(self, side: int | None, largest: int) -> tuple[Path, Plan]:
        about = read_metadata(self._file)
        max_logit_difference(about.side, side)
        folder = next((f for f in _folders(self._file) if _writable(f)), None)
        if folder is None:
            raise ModelError(f"neither {self._file.parent} nor the cache can be written to: set XDG_CACHE_HOME")
        path = folder / f"{_slug(about.model)}-{about.side}-{about.precision}{self._suffix()}"
        _LOG.info("Building %s; this takes minutes, once for a card and a version of TensorRT.", path)
        began = time.monotonic()
        draft = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            draft.write_bytes(self._serialised(about.side, largest, folder / f"timing{self._suffix()}.cache"))
            build_s = time.monotonic() - began
            if not self._open(draft):
                raise ModelError(f"TensorRT built a plan of {self._file} that it does not take; its log says why")
            told = self._logits(reference_thumbs(about.side, len(about.wanted)), largest, len(about.outputs))
            difference = float(np.abs(told - about.wanted).max())
            if not difference <= MOST_DIFFERENT:
                raise ModelError(
                    f"the plan of {self._file} gives logits {difference:.3g} off those of PyTorch in fp32, more than "
                    f"{MOST_DIFFERENT:g}: nothing was kept; export the model in fp32"
                )
            plan = Plan(
                about.model, about.precision, about.side, about.outputs, self._gpu, self._trt.__version__,
                self._sha256, largest, build_s, difference,
            )  # fmt: skip
            draft.replace(path)
            _about(path).write_text(json.dumps(asdict(plan), indent=2) + "\n")
        finally:
            draft.unlink(missing_ok=True)
        _LOG.info("Built %s in %.0f s; its logits are at most %.2g off PyTorch's in fp32.", path, build_s, difference)
        return path, plan

    def _serialised(self, side: int, largest: int, timings: Path) -> memoryview:
        """The plan's bytes. timings: file of what TensorRT measured in earlier builds; this one adds to it."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(self._file)):  # by name: it finds the weights beside it
            told = "; ".join(parser.get_error(at).desc() for at in range(parser.num_errors))
            raise ModelError(f"TensorRT {trt.__version__} cannot read {self._file}: {told}. Try a newer TensorRT.")
        config = builder.create_builder_config()
        shapes = [(n, side, side, 3) for n in (1, min(USUAL_BATCH, largest), largest)]
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *shapes)
        config.add_optimization_profile(profile)
        kept = timings.read_bytes() if timings.is_file() else b""
        config.set_timing_cache(
            config.create_timing_cache(kept) or config.create_timing_cache(b""), ignore_mismatch=False
        )
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ModelError(f"TensorRT could not build {self._file}; its log says why. Is enough of the card free?")
        timings.write_bytes(memoryview(config.get_timing_cache().serialize()))
        return memoryview(plan)


def _tensorrt() -> Any:
    try:
        import tensorrt  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise ModelError(
            "TensorRT is not installed: pip install 'roadwork-serve[tensorrt]', or run stage 1 with runs: onnx"
        ) from error
    return tensorrt


def _folders(file: Path) -> tuple[Path, Path]:
    """Where plans may lie: beside the file, or in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return file.absolute().parent, cache / "roadwork-serve"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _about(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")


def _read(path: Path) -> Plan | None:
    """What is told of a plan; None when that is not there, or of another version of this project."""
    try:
        told = json.loads(_about(path).read_text())
        return Plan(**{**told, "outputs": tuple(told["outputs"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _sha256(file: Path) -> str:
    """Of the ONNX file and of the weights beside it."""
    found = hashlib.sha256()
    for part in (file, data_of(file)):
        if part.is_file():
            with part.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def _slug(name: str) -> str:
    """Fit for a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
