"""The backbone of an `OnnxFolder` as a module of PyTorch, in which heads are trained on its features."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from roadwork_serve.engines.backbones import Backbone
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx_folder import OnnxFolder
from roadwork_serve.errors import ModelError


class OnnxTokens(Backbone):
    """Pixels [n, 3, side, side] -> tokens [n, 1 + cells, width]. The mean of the cells is the global token."""

    def __init__(self, folder: str, config: Mapping[str, Any], options: LoadOptions) -> None:
        """Open the file; see `OnnxFolder`. Heads are trained in float32, whatever they are served in."""
        torch.nn.Module.__init__(self)
        options = replace(options, dtype="float32") if options.dtype in ("int8", "auto") else options
        self._folder = OnnxFolder(folder, config, options)
        self.model = SimpleNamespace(config=SimpleNamespace(**config))
        self.processor = {}
        self.width, self.patch, self.image_size = self._folder.width, self._folder.patch, self._folder.side
        self.mean, self.std = self._folder.mean, self._folder.std
        torch.set_num_threads(options.threads)  # for the heads

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the tokens, float32 [n, 1 + cells, width].

        Raises:
            ModelError: The side of the pixels is not the one that the file was written for.
        """
        return torch.from_numpy(self._folder.tokens(pixels.detach().numpy()))

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
