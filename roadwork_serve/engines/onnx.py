"""ONNX files under onnxruntime: sessions, and stage 1 as `roadwork export` writes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.denormals import flushed
from roadwork_serve.errors import ModelError

OUTPUTS, SIDE = "outputs", "side"  # keys of the metadata of an exported file
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(file: Path, threads: int, device: str = "cpu") -> Any:
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
    try:
        with flushed():  # else the thread that makes the process's first session would go on flushing
            return onnxruntime.InferenceSession(file, options, providers=[PROVIDERS[device]])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise ModelError(f"{file} cannot be opened by onnxruntime: {error}. Export it again.") from None


class OnnxBackbone:
    """Stage 1 from one file: backbone, head and the normalisation of pixels."""

    has_head = True

    def __init__(self, file: Path, *, threads: int = 1, device: str = "cpu") -> None:
        if not file.is_file():
            raise ModelError(f"there is no file {file}: write it with `roadwork export --to onnx --out {file}`")
        self._session = open_session(file, threads, device)
        about = self._session.get_modelmeta().custom_metadata_map
        if not {OUTPUTS, SIDE} <= set(about):
            raise ModelError(f"{file} was not written by `roadwork export`: it does not say what its outputs are")
        self.outputs: tuple[str, ...] = tuple(json.loads(about[OUTPUTS]))
        self.side = int(about[SIDE])

    def warm(self) -> None:
        """Run it once."""
        self.logits(np.zeros((1, self.side, self.side, 3), np.uint8))

    def logits(self, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 RGB [n, side, side, 3] -> one array [n] for each output, by name."""
        if thumbs.shape[1:3] != (self.side, self.side):
            raise ModelError(
                f"this file was exported for thumbs of {self.side} px, these have {thumbs.shape[1]}: set "
                f"media.thumb_side to {self.side}, or export it with --side {thumbs.shape[1]}"
            )
        with flushed():
            (logits,) = self._session.run(["logits"], {"thumbs": thumbs})
        return {name: logits[:, i] for i, name in enumerate(self.outputs)}
