"""Photos for Qwen3-VL, as its processor in transformers prepares them, without PyTorch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.engines.language_inputs import EncodedPrompt, Floats, normalized, rotary
from roadwork_serve.engines.processor_files import ProcessorFiles
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.errors import ModelError


class QwenInputs:
    """See `PromptEncoder`. An image of any size becomes a grid of patches; 2 x 2 of them make a token."""

    def __init__(self, config: Mapping[str, Any], processor: ProcessorFiles, max_pixels: int | None) -> None:
        """See `PromptEncoder`."""
        vision, text = config["vision_config"], config["text_config"]
        self._tokenizer = processor.tokenizer
        self._settings = processor.settings["image_processor"]
        self._patch, self._merge = vision["patch_size"], vision["spatial_merge_size"]
        self._depth, self._heads_width = vision["temporal_patch_size"], vision["hidden_size"] // vision["num_heads"]
        self._learned = math.isqrt(vision["num_position_embeddings"])
        self._vision_theta = float(vision["rope_parameters"]["rope_theta"])
        self._token, self._table = config["image_token_id"], text["vocab_size"]
        size = self._settings["size"]
        self._most = min(max_pixels or size["longest_edge"], size["longest_edge"])
        self._least = min(size["shortest_edge"], self._most)
        self.axes = _interleaved(text["head_dim"] // 2, text["rope_parameters"]["mrope_section"])

    def encode(self, text: str, prompt: Prompt) -> EncodedPrompt:
        """See `PromptEncoder`.

        Raises:
            ModelError: The prompt has a clip.
        """
        if prompt.timestamps_s:
            raise ModelError("this model sees clips under transformers or vLLM only: set backend: transformers")
        pixels, down, across = self._patches(prompt.images[0])
        rows, columns = down // self._merge, across // self._merge
        words = self._tokenizer.encode(text)
        at, count = words.index(self._token), rows * columns
        ids = [*words[:at], *range(self._table, self._table + count), *words[at + 1 :]]
        row, column = np.divmod(np.arange(count), columns)
        after = at + max(rows, columns) + np.arange(len(words) - at - 1)
        positions = np.concatenate(
            [np.tile(np.arange(at), (3, 1)), [np.full(count, at), at + row, at + column], np.tile(after, (3, 1))],
            axis=1,
        )
        return EncodedPrompt(
            self._places(down, across) | {"pixels": pixels}, ids, positions, np.zeros(len(ids), np.bool_)
        )

    def _patches(self, image: Image.Image) -> tuple[Floats, int, int]:
        """Return the patches [n, values], and the number of rows and columns of patches."""
        width, height = _fitting(*image.size, self._patch * self._merge, self._least, self._most)
        resized = image.resize((width, height), Image.Resampling(self._settings["resample"]))
        pixels = normalized(np.asarray(resized), self._settings)
        down, across, side, merge = height // self._patch, width // self._patch, self._patch, self._merge
        blocks = pixels.reshape(down // merge, merge, side, across // merge, merge, side, 3)
        blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # of blocks that make a token; channels before pixels
        frames = np.repeat(blocks[:, :, :, :, :, None], self._depth, axis=5)  # a photo is a film of equal frames
        return np.ascontiguousarray(frames.reshape(down * across, -1)), down, across

    def _places(self, down: int, across: int) -> dict[str, Any]:
        """Return where the patches are: in the table of learned positions, and as rotary angles."""
        merge = self._merge
        grid = np.indices((down, across))
        grid = grid.reshape(2, down // merge, merge, across // merge, merge).transpose(0, 1, 3, 2, 4).reshape(2, -1)
        (top, below), (left, right) = (self._taps(part, size) for part, size in zip(grid, (down, across), strict=True))
        taps = [y[0] * self._learned + x[0] for y in (top, below) for x in (left, right)]
        weights = [y[1] * x[1] for y in (top, below) for x in (left, right)]
        count = self._heads_width // 4
        axes = np.repeat([0, 1], count)
        cos, sin = _vision_rotary(grid, axes, self._vision_theta)
        return {
            "taps": np.stack(taps, axis=1),
            "weights": np.stack(weights, axis=1).astype(np.float32),
            "cos": cos,
            "sin": sin,
        }

    def _taps(self, at: NDArray[np.int64], size: int) -> tuple[tuple[NDArray[Any], NDArray[Any]], ...]:
        """Return the two nearest learned positions of each patch along an axis, with their weights."""
        place = at * np.float32((self._learned - 1) / max(1, size - 1))
        low = np.floor(place).astype(np.int64)
        share = (place - low).astype(np.float32)
        return (low, 1 - share), (np.minimum(low + 1, self._learned - 1), share)


def _vision_rotary(grid: NDArray[np.int64], axes: NDArray[np.int64], theta: float) -> tuple[Floats, Floats]:
    """Return cosines and sines for the patches: the frequencies of each axis are the same."""
    half = len(axes) // 2
    parts = [rotary(grid[axis : axis + 1], np.zeros(half, np.int64), theta) for axis in (0, 1)]
    cos, sin = (np.concatenate([part[i][:, :half] for part in parts], axis=1) for i in (0, 1))
    return np.concatenate([cos, cos], axis=1), np.concatenate([sin, sin], axis=1)


def _interleaved(count: int, section: list[int]) -> NDArray[np.int64]:
    """Return the axis of each text angle: time, height and width take turns as far as their sections last."""
    axes = np.zeros(count, np.int64)
    for axis in (1, 2):
        axes[axis : 3 * section[axis] : 3] = axis
    return axes


def _fitting(width: int, height: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Return the size near the given one whose sides are multiples of the factor, with pixels within the limits."""
    wide, high = (round(side / factor) * factor for side in (width, height))
    if wide * high > most:
        shrink = math.sqrt(width * height / most)
        wide, high = (max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height))
    elif wide * high < least:
        grow = math.sqrt(least / (width * height))
        wide, high = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return wide, high
