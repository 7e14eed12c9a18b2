"""A backbone as an ONNX file without a head, run by onnxruntime on the CPU.

onnxruntime takes about half the time of PyTorch's eager mode. Unlike a file of `roadwork export`, a folder of this kind
returns features, so heads can be trained for it and exchanged. It holds a convolutional network alone, or a DINOv3 ViT
beside the checkpoint whose weights it reads. Beside the graph there can be one in 8 bits; `engines.int8` writes it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.cpu_features import has_int8_dot_products
from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import INT8_FILE, open_graph
from roadwork_serve.engines.thumbnails import batches
from roadwork_serve.errors import ModelError

MODEL_TYPE, VIT = "onnx_backbone", "dinov3_vit"
FILE = "backbone.onnx"
INPUT, THUMBS = "pixels", "thumbs"  # of graphs in float32, and in 8 bits
_LOG = logging.getLogger("ray.serve.roadwork.onnx")
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, unless the checkpoint has others
_BATCH = 8  # thumbnails in a run, whose memory the session keeps


class OnnxFolder:
    """A folder with config.json and backbone.onnx.

    The graph maps normalized pixels to a map [n, width, h, w], or of a ViT to tokens [n, 1 + h * w, width]. In 8 bits
    it takes thumbnails in `blocks`.
    """

    def __init__(self, folder: str, config: Mapping[str, Any], options: LoadOptions) -> None:
        """Open the file.

        Args:
            folder: The folder.
            config: Contents of its config.json.
            options: Settings for loading.

        Raises:
            ModelError: The options ask for a GPU, half precision, or 8 bits without a graph for them, or the file
                cannot be opened or is of an earlier version.
            KeyError: The config lacks a setting.
        """
        if options.device != "cpu" or options.dtype not in ("float32", "int8", "auto"):
            raise ModelError(f"{folder} runs on the CPU in float32 or 8 bits: set device: cpu, and dtype: auto")
        self.width = int(config["hidden_size" if config.get("model_type") == VIT else "width"])
        self.patch, self.side = int(config["patch_size"]), int(config["image_size"])
        self.mean = tuple(config.get("image_mean", PIXEL_MEAN))
        self.std = tuple(config.get("image_std", PIXEL_STD))
        mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (self.mean, self.std))
        self._scale, self._offset = 1 / (255 * std), -mean / std
        graph = _graph(folder, options.dtype)
        self._session = open_graph(Path(folder), graph, options.threads, arena=True)
        self._block: int | None = None  # side of the blocks of pixels that a graph in 8 bits takes
        if graph == INT8_FILE:
            (given,) = self._session.get_inputs()
            if given.name != THUMBS:
                raise ModelError(
                    f"{Path(folder) / graph} is of an earlier version: write it again with `roadwork quantize {folder} "
                    "--photos PHOTOS`, or delete it"
                )
            self._block = self.side // given.shape[1]

    def check_side(self, side: int) -> None:
        """Raise ModelError for another side of the thumbnails than the one that the file was written for."""
        if side != self.side:
            raise ModelError(
                f"this backbone takes thumbnails of {self.side} px, and these have {side}: set "
                f"media.thumb_side to {self.side}"
            )

    def pixels(self, thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the normalized pixels [n, 3, side, side] of thumbnails [n, side, side, 3]."""
        pixels = np.ascontiguousarray(thumbs.transpose(0, 3, 1, 2)).astype(np.float32)
        pixels *= self._scale  # in place: each further copy would cost as much as the network's first layer
        pixels += self._offset
        return pixels

    def tokens_of(self, thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the tokens of thumbnails [n, side, side, 3]; see `tokens`."""
        if self._block is None:
            return self.tokens(self.pixels(thumbs))
        self.check_side(thumbs.shape[1])
        return self._run(THUMBS, blocks(thumbs, self._block))

    def tokens(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the tokens, float32 [n, 1 + cells, width], for normalized pixels [n, 3, side, side].

        The first is the global one: of a map it is the mean of the cells.

        Raises:
            ModelError: The side of the pixels is not the one that the file was written for, or the graph is in 8 bits.
        """
        self.check_side(pixels.shape[-1])
        if self._block is not None:
            raise ModelError("a graph in 8 bits takes thumbnails, not pixels: set dtype: float32")
        return self._run(INPUT, pixels)

    def _run(self, name: str, given: NDArray[Any]) -> NDArray[np.float32]:
        with flush_denormals():
            parts = [self._session.run(None, {name: given[cut]})[0] for cut in batches(len(given), _BATCH)]
        found = np.concatenate(parts)
        if found.ndim == 3:
            return found
        cells = found.reshape(*found.shape[:2], -1)
        return np.concatenate([cells.mean(2, keepdims=True), cells], axis=2).transpose(0, 2, 1)


def blocks(thumbs: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return thumbnails [n, h, w, 3] as blocks of pixels [n, h / side, w / side, 3 * side^2]."""
    n, height, width, channels = thumbs.shape
    rows = thumbs.reshape(n, height // side, side, width // side, side * channels)
    return np.ascontiguousarray(rows.transpose(0, 1, 3, 2, 4)).reshape(n, height // side, width // side, -1)


def _graph(folder: str, dtype: str) -> str:
    if dtype == "int8" or (dtype == "auto" and has_int8_dot_products() and (Path(folder) / INT8_FILE).is_file()):
        _LOG.info("%s runs in 8 bits", folder)
        return INT8_FILE
    if dtype == "auto":
        _LOG.info("%s runs in float32: without a graph in 8 bits, or without a CPU for it", folder)
    return FILE
