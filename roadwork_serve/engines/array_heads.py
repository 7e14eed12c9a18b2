"""Heads and patch heads computed with numpy, for engines that need no PyTorch."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, load_file

from roadwork_serve.engines.head_files import HeadFiles
from roadwork_serve.engines.head_settings import PATCH_FILE, TRAIN, HeadSettings, PatchHeadSettings
from roadwork_serve.errors import ModelError

_EPSILON = 1e-5  # of PyTorch's LayerNorm
_erf = np.vectorize(math.erf, otypes=[np.float32])

Array = NDArray[np.float32]


class ArrayHead:
    """The head that `features.Head` trains and saves: linear, or an MLP with one hidden layer."""

    def __init__(self, settings: HeadSettings, weights: Mapping[str, Array]) -> None:
        """Take the weights by the names that PyTorch gives them.

        Raises:
            ValueError: They have other names or shapes.
        """
        self.settings = settings
        features, hidden, outputs = settings.features, settings.hidden, len(settings.outputs)
        expected: dict[str, tuple[int, ...]] = {"0.weight": (outputs, features), "0.bias": (outputs,)}
        if hidden:
            expected = {
                "0.weight": (features,), "0.bias": (features,), "2.weight": (hidden, features), "2.bias": (hidden,),
                "5.weight": (outputs, hidden), "5.bias": (outputs,),
            }  # fmt: skip
        if (found := {name: each.shape for name, each in weights.items()}) != expected:
            raise ValueError(f"its weights are {found}, and head.json describes {expected}")
        self._weights = weights

    @classmethod
    def parse(cls, files: HeadFiles, name: str) -> "ArrayHead":
        """Make a head from its files; the name is for errors.

        Raises:
            ModelError: A file is damaged, or does not match the other.
        """
        try:
            weights = {key: each.astype(np.float32) for key, each in load(files.weights).items()}
            return cls(HeadSettings.parse(files.settings), weights)
        except (ValueError, TypeError, KeyError, SafetensorError) as error:
            raise ModelError(f"The head in {name} cannot be read: {error}. {TRAIN}.") from error

    def __call__(self, features: Array) -> Array:
        """Return the logits [n, outputs] for features [n, at least those of the recipe]."""
        weights, values = self._weights, features[:, : self.settings.features]
        if not self.settings.hidden:
            return values @ weights["0.weight"].T + weights["0.bias"]
        centered = values - values.mean(1, keepdims=True)
        normed = centered / np.sqrt((centered**2).mean(1, keepdims=True) + _EPSILON)
        hidden = (normed * weights["0.weight"] + weights["0.bias"]) @ weights["2.weight"].T + weights["2.bias"]
        active = hidden * 0.5 * (1 + _erf(hidden / math.sqrt(2)))  # GELU
        return active @ weights["5.weight"].T + weights["5.bias"]


class ArrayPatchHead:
    """The linear head on patches that `patch_head.PatchHead` saves."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            ModelError: A file is missing, damaged, or does not match the other.
        """
        try:
            self.settings = PatchHeadSettings.read(folder)
            weights = load_file(folder / f"{PATCH_FILE}.safetensors")
            self._weight, self._bias = (weights[name].astype(np.float32) for name in ("weight", "bias"))
            if self._weight.shape != (len(self.settings.classes), self.settings.width):
                raise ValueError(f"its weights are of the shape {self._weight.shape}")
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise ModelError(f"The patch head in {folder} cannot be read: {error}. Train it again.") from error

    def __call__(self, patches: Array) -> Array:
        """Return the logits [n, patches, classes] for patches [n, patches, width]."""
        return patches @ self._weight.T + self._bias
