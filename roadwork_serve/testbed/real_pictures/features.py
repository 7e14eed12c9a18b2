"""Features of a frozen backbone for crops, pairs and rendered scenes, computed once and cached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roadwork_serve.engines.backbones import load_backbone
from roadwork_serve.stages.tiles import COUNT, cut_tiles
from roadwork_serve.testbed.real_pictures.augment import Framing, weather
from roadwork_serve.testbed.real_pictures.crops import CropCache
from roadwork_serve.testbed.real_pictures.pairs import PairCache
from roadwork_serve.testbed.real_pictures.sources import Picture

_SAVE_EVERY = 256  # rows between two writes of the progress


@dataclass(frozen=True)
class Features:
    """Tokens of a set of pictures, memory-mapped."""

    #: The global token, float16 [n, width].
    pooled: NDArray[np.float16]
    #: The cells, float16 [n, cells, width].
    cells: NDArray[np.float16]


class FeatureCache:
    """Computes tokens in a folder. A stopped run goes on where it was; a finished one is read."""

    def __init__(self, backbone: Path, folder: Path) -> None:
        self.backbone = load_backbone(str(backbone)).eval()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mean, self._std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.backbone.mean, self.backbone.std))

    def crops(self, crops: CropCache) -> Features:
        """Return the tokens of all crops as they are."""
        return self._computed("crops", len(crops), crops.crop)

    def worn_crops(self, crops: CropCache, seed: int) -> Features:
        """Return the tokens of all crops, each framed and worn anew; `framing` has the frames."""

        def worn(index: int) -> NDArray[np.uint8]:
            pixels = framing(index, seed).pixels(crops.crop(index), self.backbone.image_size)
            return weather(pixels, np.random.default_rng([seed, 1, index]))

        return self._computed("worn-crops", len(crops), worn)

    def pairs(self, pairs: PairCache, seed: int) -> Features:
        """Return the tokens of both sides of every pair in turn, both sides worn alike."""

        def side(index: int) -> NDArray[np.uint8]:
            return weather(pairs.sides(index // 2)[index % 2], np.random.default_rng([seed, 2, index // 2]))

        return self._computed("pairs", 2 * len(pairs), side)

    def tiles(self, pictures: Sequence[Picture]) -> Features:
        """Return the tokens of the tiles of all pictures, COUNT rows each."""
        held: list[NDArray[np.uint8]] = []

        def tile(index: int) -> NDArray[np.uint8]:
            if index % COUNT == 0 or not held:
                fresh = replace(pictures[index // COUNT])  # a copy, whose decoded image is not kept
                held[:] = cut_tiles(fresh.image, self.backbone.image_size)
            return held[index % COUNT]

        return self._computed("tiles", COUNT * len(pictures), tile)

    def pictures(self, name: str, pixels: NDArray[np.uint8]) -> Features:
        """Return the tokens of uint8 RGB [n, side, side, 3]."""
        return self._computed(name, len(pixels), lambda index: pixels[index])

    @torch.inference_mode()
    def _computed(self, name: str, count: int, picture: Callable[[int], NDArray[np.uint8]]) -> Features:
        width, cells = self.backbone.width, (self.backbone.image_size // self.backbone.patch) ** 2
        shape = {"pooled": (count, width), "cells": (count, cells, width)}
        progress = self.folder / f"{name}.done"
        done = int(progress.read_text()) if progress.exists() else 0
        paths = {kind: self.folder / f"{name}-{kind}.npy" for kind in shape}
        if done < count:
            mode = "r+" if done else "w+"
            arrays = {k: np.lib.format.open_memmap(paths[k], mode, np.float16, shape[k]) for k in shape}
            for index in range(done, count):
                pixels = torch.from_numpy(np.array(picture(index))[None]).permute(0, 3, 1, 2).float() / 255
                tokens = self.backbone((pixels - self._mean) / self._std)[0].float().numpy()
                arrays["pooled"][index], arrays["cells"][index] = tokens[0], tokens[1:]
                if (index + 1) % _SAVE_EVERY == 0 or index + 1 == count:
                    for array in arrays.values():
                        array.flush()
                    progress.write_text(str(index + 1))
                    print(f"features: {name}, {index + 1} of {count}", flush=True)
        return Features(*(np.load(paths[kind], mmap_mode="r") for kind in ("pooled", "cells")))


def framing(index: int, seed: int) -> Framing:
    """Return the frame of a worn crop."""
    return Framing.draw(np.random.default_rng([seed, 0, index]))
