"""The inputs of a language model's graphs for a prompt, and the rotary angles of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.processor_files import ProcessorFiles
from roadwork_serve.engines.vlm import Prompt

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the two graphs take it."""

    #: Inputs of the vision graph by name.
    vision: dict[str, Any]
    #: Token ids. Those of image tokens begin at the size of the embedding table.
    ids: list[int]
    #: Position of each token in time, height and width, int [3, tokens].
    positions: NDArray[np.int64]
    #: Whether a token sees all others of its kind, also later ones, bool [tokens].
    together: NDArray[np.bool_]


class PromptEncoder(Protocol):
    """The inputs of one model family."""

    #: For each rotary angle the row of `positions` that it turns with, int [width / 2].
    axes: NDArray[np.int64]

    def __init__(self, config: Mapping[str, Any], processor: ProcessorFiles, max_pixels: int | None) -> None:
        """Read the settings of a model."""
        ...

    def encode(self, text: str, prompt: Prompt) -> EncodedPrompt:
        """Encode a prompt, given as the text of its chat template, with its images."""
        ...


def rotary(positions: NDArray[np.int64], axes: NDArray[np.int64], theta: float) -> tuple[Floats, Floats]:
    """Return cosines and sines of the rotary angles, float32 [tokens, width].

    Args:
        positions: Positions of the tokens, [rows, tokens].
        axes: Row of the positions that each angle turns with, [width / 2].
        theta: Base of the frequencies.
    """
    count = len(axes)
    speeds = (1 / theta ** (np.arange(0, 2 * count, 2, dtype=np.float32) / (2 * count))).astype(np.float32)
    angles = positions[axes].T.astype(np.float32) * speeds
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles).astype(np.float32, copy=False), np.sin(angles).astype(np.float32, copy=False)


def normalized(image: NDArray[Any], settings: Mapping[str, Any]) -> Floats:
    """Return pixels [..., 3] of 0 to 255 as the processor of a model normalizes them."""
    scale = settings["rescale_factor"]
    mean, std = (np.array(settings[name], np.float32) / np.float32(scale) for name in ("image_mean", "image_std"))
    return ((image.astype(np.float32) - mean) / std).astype(np.float32, copy=False)
