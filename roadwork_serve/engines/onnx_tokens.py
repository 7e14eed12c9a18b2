"""A convolutional backbone as an ONNX file without a head, run by onnxruntime on the CPU.

onnxruntime takes about half the time of PyTorch's eager mode. Unlike a file of `roadwork export`, a folder of this kind
returns features, so heads can be trained for it and exchanged.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from roadwork_serve.engines.backbones import Backbone
from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import open_session
from roadwork_serve.errors import ModelError

MODEL_TYPE = "onnx_backbone"
FILE = "backbone.onnx"
_INPUT = "pixels"


class OnnxTokens(Backbone):
    """A folder with config.json and backbone.onnx: pixels [n, 3, side, side] -> tokens [n, 1 + cells, width].

    The graph maps normalized pixels to a feature map [n, width, h, w]. Its mean becomes the global token.
    """

    def __init__(self, folder: str, config: Mapping[str, Any], options: LoadOptions) -> None:
        """Open the file.

        Raises:
            ModelError: The options ask for a GPU or for half precision, or the file cannot be opened.
        """
        torch.nn.Module.__init__(self)
        if options.device != "cpu" or options.dtype != "float32":
            raise ModelError(f"{folder} runs on the CPU in float32 only: set device: cpu, and remove dtype")
        self.model = SimpleNamespace(config=SimpleNamespace(**config))
        self.processor = {}
        self.width, self.patch = int(config["width"]), int(config["patch_size"])
        self.image_size = int(config["image_size"])
        self.mean, self.std = tuple(config["image_mean"]), tuple(config["image_std"])
        torch.set_num_threads(options.threads)  # for the heads
        self._session = open_session(Path(folder) / FILE, options.threads)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the tokens, float32 [n, 1 + cells, width].

        Raises:
            ModelError: The side of the pixels is not the one that the file was written for.
        """
        if pixels.shape[-1] != self.image_size:
            raise ModelError(
                f"this backbone takes thumbnails of {self.image_size} px, and these have {pixels.shape[-1]}: set "
                f"media.thumb_side to {self.image_size}"
            )
        with flush_denormals():
            (cells,) = self._session.run(None, {_INPUT: pixels.detach().numpy()})
        grid = torch.from_numpy(cells)
        return torch.cat([grid.mean((2, 3))[:, None], grid.flatten(2).transpose(1, 2)], dim=1)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the computation."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Device that the tokens are on."""
        return torch.device("cpu")

    def blocks(self) -> set[type[torch.nn.Module]]:
        """Raise ModelError, since the file cannot be trained."""
        raise ModelError("an ONNX file cannot be fine-tuned: train a head on its features, without --unfreeze")

    def fresh(self) -> Backbone:
        """Raise ModelError, since the file cannot be trained."""
        raise ModelError("an ONNX file cannot be fine-tuned: train a head on its features, without --unfreeze")
