"""ONNX files under onnxruntime: sessions, and stage 1 from a file of `roadwork export`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.thumbnails import ExportedBackbone, batches, check_side, reference_thumbs
from roadwork_serve.errors import ModelError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUT, OUTPUT = "thumbs", "logits"  # names in the graph
INT8_FILE = "backbone.int8.onnx"  # beside the graph of a backbone, made from it
WRITTEN_FOR = "weights"  # key in the metadata of a graph: the fingerprint of the weights that it reads


@dataclass(frozen=True)
class ExportMetadata:
    """Metadata that `roadwork export` stores in an ONNX file."""

    model: str
    #: fp32 or fp16.
    precision: str
    #: Side of the thumbnails in pixels.
    side: int
    #: Names of the logits in order.
    outputs: tuple[str, ...]
    #: PyTorch's logits in fp32 for `reference_thumbs`, float32 [n, outputs], for checking a runtime.
    expected: NDArray[np.float32]

    def metadata(self) -> dict[str, str]:
        """Return the fields as text, the only type that ONNX metadata has."""
        return {
            "model": self.model,
            "precision": self.precision,
            "side": str(self.side),
            "outputs": json.dumps(self.outputs),
            "expected": json.dumps(self.expected.tolist()),
        }

    @classmethod
    def of(cls, metadata: dict[str, str], file: Path) -> Self:
        """Parse the metadata of a file.

        Raises:
            ModelError: The file is not an export, or is one of an earlier version.
        """
        try:
            return cls(
                metadata["model"],
                metadata["precision"],
                int(metadata["side"]),
                tuple(json.loads(metadata["outputs"])),
                np.array(json.loads(metadata["expected"]), np.float32),
            )
        except KeyError as error:
            raise ModelError(
                f"{file} was not written by this version of `roadwork export`, since its metadata has no {error}: "
                "export it again"
            ) from None


def data_of(file: Path) -> Path:
    """Return the path of the weights that are too large for the file itself."""
    return file.with_name(f"{file.name}.data")


def open_graph(folder: Path, name: str, threads: int, *, arena: bool = False) -> Any:
    """Open a graph that reads the weights beside it, or was made from them, on the CPU. `arena`: see `open_session`.

    Raises:
        ModelError: It cannot be opened, or was written for other weights, in which offsets would point anywhere.
    """
    session = open_session(folder / name, threads, arena=arena)
    wanted = session.get_modelmeta().custom_metadata_map.get(WRITTEN_FOR)
    if wanted is not None and wanted != fingerprint(str(folder)):
        raise ModelError(
            f"{folder / name} was written for other weights than those beside it: write it again with "
            f"`roadwork {'quantize' if name == INT8_FILE else 'export --format graphs --model'} {folder}`"
            f"{', or delete it' if name == INT8_FILE else ''}"
        )
    return session


def open_session(
    file: Path,
    threads: int,
    device: str = "cpu",
    *,
    optimized: bool = True,
    dynamic: bool = False,
    arena: bool = False,
    saved: Path | None = None,
) -> Any:
    """Open a session whose threads flush denormals and do not spin when idle.

    Args:
        file: The ONNX file.
        threads: CPU threads.
        device: cpu or cuda.
        optimized: Optimize the graph.
        dynamic: Inputs change their size, so that cuDNN must not search for the fastest algorithm of each size.
        arena: Keep the memory of a run for the next one. For inputs of one size, with which it stays bounded.
        saved: File to write the graph to, simplified but not yet optimized for a processor.

    Raises:
        ModelError: The file cannot be opened, or onnxruntime does not support the device.
    """
    import onnxruntime

    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ModelError(f"this onnxruntime has no {PROVIDERS[device]}: install onnxruntime-gpu, or set device: cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if saved is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(saved)
    on_gpu: dict[str, str] = {"cudnn_conv_algo_search": "HEURISTIC"} if dynamic and device == "cuda" else {}
    try:
        with flush_denormals():  # else the thread that creates the first session would keep flushing
            session = onnxruntime.InferenceSession(file, options, providers=[(PROVIDERS[device], on_gpu)])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        message = f"{file} cannot be opened by onnxruntime: {error}."
        if data_of(file).name in str(error):
            raise ModelError(f"{message} Put {data_of(file).name}, which was written with it, beside it.") from None
        raise ModelError(f"{message} Export it again.") from None
    if PROVIDERS[device] not in session.get_providers():  # onnxruntime only logs that, and computes on the CPU
        raise ModelError(
            f"onnxruntime could not start its {PROVIDERS[device]}: "
            "install the CUDA and cuDNN it was built for, or set device: cpu"
        )
    return session


def read_metadata(file: Path) -> ExportMetadata:
    """Return the metadata of a file.

    Raises:
        ModelError: The file does not exist or is not an export.
    """
    if not file.is_file():
        raise ModelError(f"there is no file {file}: write it with `roadwork export --out {file}`")
    session = open_session(file, 1, optimized=False)
    return ExportMetadata.of(session.get_modelmeta().custom_metadata_map, file)


class OnnxBackbone(ExportedBackbone):
    """Stage 1 from one file with backbone, head and pixel normalization."""

    def __init__(
        self, file: Path, *, threads: int = 1, device: str = "cpu", side: int | None = None, max_thumbs: int = 16
    ) -> None:
        """Open the file.

        Args:
            file: File of `roadwork export`.
            threads: CPU threads.
            device: cpu or cuda.
            side: Side of the thumbnails in pixels; by default that of the file.
            max_thumbs: Largest number of thumbnails in one forward pass.

        Raises:
            ModelError: The file cannot be run, or was exported for another side.
        """
        if not file.is_file():
            raise ModelError(f"there is no file {file}: write it with `roadwork export --out {file}`")
        self._session = open_session(file, threads, device)
        self.metadata = ExportMetadata.of(self._session.get_modelmeta().custom_metadata_map, file)
        check_side(self.metadata.side, side)
        self.max_thumbs = max_thumbs

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ExportedBackbone`."""
        return self.metadata.outputs

    def warm(self) -> None:
        """Run the smallest and the largest batch.

        Raises:
            ModelError: There is too little memory.
        """
        for count in (1, self.max_thumbs):
            try:
                self.logits(reference_thumbs(self.metadata.side, count))
            except ModelError:
                raise
            except Exception as error:  # onnxruntime's errors share no base but Exception
                raise ModelError(
                    f"a batch of {count} thumbnails of {self.metadata.side} px fails: {error}. Lower max_batch of the "
                    "stage or features.max_thumbs, or free memory"
                ) from error

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """See `ExportedBackbone`."""
        check_side(self.metadata.side, thumbs.shape[1])
        with flush_denormals():
            parts = [self._session.run([OUTPUT], {INPUT: thumbs[c]})[0] for c in batches(len(thumbs), self.max_thumbs)]
        logits = np.concatenate(parts)
        return {name: logits[:, i] for i, name in enumerate(self.metadata.outputs)}
