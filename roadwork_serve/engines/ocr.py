"""The interface of OCR engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class OcrLine:
    """One line of text."""

    text: str
    #: Confidence from 0 to 1.
    confidence: float
    #: Corners in pixels, float32 [4, 2], clockwise from the start of the text.
    quad: NDArray[np.float32]


class OcrEngine(Protocol):
    """The engine of stage 2A."""

    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        """Return the lines of text on each RGB image."""
        ...
