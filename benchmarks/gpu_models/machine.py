"""The GPU: its name, synchronization, memory and peak throughput."""

import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
import transformers

from benchmarks.gpu_models.results import Peak, Run

TINY_NAME = "cpu, tiny"
REPEATS = 20


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU, or with `tiny` a CPU with toy models."""

    gpu: str
    device: torch.device
    dtype: torch.dtype
    tiny: bool

    @classmethod
    def here(cls, tiny: bool) -> "Machine":
        """Return the first CUDA GPU, or with `tiny` the CPU. Raises RuntimeError if there is no GPU."""
        if tiny:
            torch.set_num_threads(1)  # on a busy machine two threads mostly wait for each other
            return cls(TINY_NAME, torch.device("cpu"), torch.float32, True)
        if not torch.cuda.is_available():
            raise RuntimeError("there is no CUDA GPU here; --tiny rehearses the benchmark on a CPU")
        return cls(torch.cuda.get_device_name(0), torch.device("cuda", 0), torch.bfloat16, False)

    def wait(self) -> None:
        """Wait until the GPU has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_memory(self) -> None:
        """Release unused memory and restart the measurement of the peak."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory_gib(self) -> float:
        """Return the peak of allocated memory; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else 0.0

    def driver(self) -> str:
        """Return the driver version from nvidia-smi."""
        smi = shutil.which("nvidia-smi")
        if self.tiny or smi is None:
            return "unknown"
        command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip() or "unknown"

    def run(self, command: str, peak_side: int) -> Run:
        """Return the record of a command, with the peak throughput measured now."""
        return Run(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            driver=self.driver(),
            torch=torch.__version__,
            cuda=torch.version.cuda or "none",
            transformers=transformers.__version__,
            dtype=str(self.dtype).removeprefix("torch."),
            peak=self.peak(peak_side),
        )

    def peak(self, side: int) -> Peak:
        """Return the TFLOP/s of a product of two random square matrices, the best of several after a warm-up."""
        left, right = (torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
        best = float("inf")
        for i in range(REPEATS + 3):
            self.wait()
            began = time.perf_counter()
            torch.matmul(left, right)
            self.wait()
            best = min(best, time.perf_counter() - began) if i >= 3 else best
        return Peak(side, 2 * side**3 / best / 1e12)
