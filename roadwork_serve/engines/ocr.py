"""What a sign reader says: lines of text and where they stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class OcrLine:
    """One line of text. quad: float32 [4, 2], its corners in pixels, clockwise from where the text begins."""

    text: str
    confidence: float
    quad: NDArray[np.float32]


class OcrEngine(Protocol):
    """What the stage asks of an engine."""

    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        """The lines of text on each RGB picture."""
        ...
