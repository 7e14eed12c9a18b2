"""Settings for loading a checkpoint, the same for every engine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from roadwork_serve.profiles.engine_spec import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Settings for loading a checkpoint into PyTorch."""

    #: Type of the weights: float32, bfloat16 or float16; of an `OnnxFolder` float32, int8, or auto for the faster one.
    dtype: str = "float32"
    #: Device of the model: cpu or cuda.
    device: str = "cpu"
    #: CPU threads PyTorch computes with.
    threads: int = 1
    #: Commit, tag or branch of a hub id; None for the default branch.
    revision: str | None = None
    #: Run Python code from the checkpoint.
    trust_remote_code: bool = False
    #: Limit on the GPU memory PyTorch may allocate from now on, in GiB; None for no limit.
    gpu_memory_gib: float | None = None

    @classmethod
    def of(cls, spec: "EngineSpec") -> Self:
        """Return the settings of an engine of a profile."""
        return cls(
            dtype="float32" if spec.dtype == "auto" and spec.backend != "onnx" else spec.dtype,
            device=spec.device,
            threads=spec.threads,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            gpu_memory_gib=spec.gpu_memory_gib,
        )


#: fp32 on one CPU thread.
DEFAULTS = LoadOptions()
