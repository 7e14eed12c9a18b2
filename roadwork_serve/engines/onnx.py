"""ONNX files under onnxruntime: sessions, and stage 1 as `roadwork export` writes it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.thumbnails import ExportedBackbone, batches, max_logit_difference, reference_thumbs
from roadwork_serve.errors import ModelError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUT, OUTPUT = "thumbs", "logits"  # names in the graph


@dataclass(frozen=True)
class ExportMetadata:
    """What `roadwork export` writes into the file's metadata.

    outputs: what the columns of the logits are. wanted: PyTorch's logits in fp32 for `thumbs.references`,
    float32 [n, outputs], by which whoever runs the file can check that he runs it right.
    """

    model: str
    precision: str
    side: int
    outputs: tuple[str, ...]
    wanted: NDArray[np.float32]

    def metadata(self) -> dict[str, str]:
        """As text; ONNX knows nothing else."""
        return {
            "model": self.model,
            "precision": self.precision,
            "side": str(self.side),
            "outputs": json.dumps(self.outputs),
            "wanted": json.dumps(self.wanted.tolist()),
        }

    @classmethod
    def of(cls, metadata: dict[str, str], file: Path) -> Self:
        """Raises ModelError when the file is no export, or one of an earlier version."""
        try:
            return cls(
                metadata["model"],
                metadata["precision"],
                int(metadata["side"]),
                tuple(json.loads(metadata["outputs"])),
                np.array(json.loads(metadata["wanted"]), np.float32),
            )
        except KeyError as error:
            raise ModelError(
                f"{file} was not written by this version of `roadwork export`, for it does not say what its {error} "
                "is: export it again"
            ) from None


def data_of(file: Path) -> Path:
    """Where the weights lie that are too large for the file itself."""
    return file.with_name(f"{file.name}.data")


def open_session(file: Path, threads: int, device: str = "cpu", *, optimised: bool = True) -> Any:
    """A session whose threads flush denormals and sleep when idle. Raises ModelError."""
    import onnxruntime

    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ModelError(f"this onnxruntime has no {PROVIDERS[device]}: install onnxruntime-gpu, or set device: cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        with flush_denormals():  # else the thread that makes the process's first session would go on flushing
            session = onnxruntime.InferenceSession(file, options, providers=[PROVIDERS[device]])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        told = f"{file} cannot be opened by onnxruntime: {error}."
        if data_of(file).name in str(error):
            raise ModelError(f"{told} Put {data_of(file).name}, which was written with it, beside it.") from None
        raise ModelError(f"{told} Export it again.") from None
    if PROVIDERS[device] not in session.get_providers():  # onnxruntime only logs that, and computes on the CPU
        raise ModelError(
            f"onnxruntime could not start its {PROVIDERS[device]}: "
            "install the CUDA and cuDNN it was built for, or set device: cpu"
        )
    return session


def read_metadata(file: Path) -> ExportMetadata:
    """What the file says of itself; its weights are read and let go of. Raises ModelError."""
    if not file.is_file():
        raise ModelError(f"there is no file {file}: write it with `roadwork export --to onnx --out {file}`")
    session = open_session(file, 1, optimised=False)
    return ExportMetadata.of(session.get_modelmeta().custom_metadata_map, file)


class OnnxBackbone(ExportedBackbone):
    """Stage 1 from one file: backbone, head and the normalisation of pixels.

    side: of the thumbs that will come, pixels; the file's own by default. max_thumbs: in one pass of the model.
    Raises ModelError when the file cannot be run, or was exported for another side.
    """

    def __init__(
        self, file: Path, *, threads: int = 1, device: str = "cpu", side: int | None = None, max_thumbs: int = 16
    ) -> None:
        if not file.is_file():
            raise ModelError(f"there is no file {file}: write it with `roadwork export --to onnx --out {file}`")
        self._session = open_session(file, threads, device)
        self.about = ExportMetadata.of(self._session.get_modelmeta().custom_metadata_map, file)
        max_logit_difference(self.about.side, side)
        self.max_thumbs = max_thumbs

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ExportedBackbone`."""
        return self.about.outputs

    def warm(self) -> None:
        """Run it at the smallest and the largest batch. Raises ModelError when there is no room for that."""
        for count in (1, self.max_thumbs):
            try:
                self.logits(reference_thumbs(self.about.side, count))
            except ModelError:
                raise
            except Exception as error:  # onnxruntime's errors share no base but Exception
                raise ModelError(
                    f"{count} thumbs at once are too much for {self.about.side} px here: {error}. Lower the stage's "
                    "max_batch or features.max_thumbs, or free memory"
                ) from error

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 RGB [n, side, side, 3] -> one array [n] for each output, by name."""
        max_logit_difference(self.about.side, thumbs.shape[1])
        with flush_denormals():
            told = [self._session.run([OUTPUT], {INPUT: thumbs[c]})[0] for c in batches(len(thumbs), self.max_thumbs)]
        logits = np.concatenate(told)
        return {name: logits[:, i] for i, name in enumerate(self.about.outputs)}
