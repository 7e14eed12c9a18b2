"""RapidOCR: finds lines of text on a picture and reads them, on the CPU, with the PP-OCR weights in its wheel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.ocr import OcrLine
from roadwork_serve.engines.onnx import open_session
from roadwork_serve.errors import ModelError

MODEL = "PP-OCRv6-small"
SIDE = 736
LEAST_CONFIDENCE = 0.6  # of a line that is told; RapidOCR's own default is 0.5
LEAST_SIDE = 30  # pixels of a picture; RapidOCR would enlarge a smaller one until it has them, to gigabytes if thin


class RapidOcr:
    """Reads pictures one at a time.

    side: text is looked for on the picture shrunk to this longer side, in pixels, and read at full size.
        Larger is not better: detection knows text of about 8 to 20 px best. A 960x720 scene takes about
        0.16 s at 640 and 0.2 s at 736 on one thread.

    Raises ModelError when the model is not the one in the wheel, or RapidOCR is not installed.
    """

    def __init__(self, model: str = MODEL, *, threads: int = 1, side: int = SIDE) -> None:
        if model != MODEL:
            raise ModelError(f"engine rapidocr reads with the weights in its wheel: use model {MODEL}, not {model!r}")
        try:
            self._ocr = _open(threads, side)
        except ImportError as error:
            raise ModelError("engine rapidocr needs the packages rapidocr and onnxruntime; install them") from error

    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        """The lines on each RGB picture, from top to bottom; none on one too thin to hold any."""
        return [self._read(image) for image in images]

    def _read(self, image: Image.Image) -> list[OcrLine]:
        stop_if_cancelled()
        if min(image.size) < LEAST_SIDE:
            return []
        bgr = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        with flush_denormals():
            found = self._ocr(bgr)
        if found.boxes is None:
            return []
        return [
            OcrLine(text, float(confidence), np.asarray(quad, np.float32))
            for text, confidence, quad in zip(found.txts, found.scores, found.boxes, strict=True)
        ]


def _open(threads: int, side: int) -> Any:
    import rapidocr
    from omegaconf import flag_override

    ocr = rapidocr.RapidOCR(
        params={
            "Global.log_level": "error",  # it warns of every picture without text
            "Global.text_score": LEAST_CONFIDENCE,
            "Global.use_cls": False,  # signs do not stand on their heads
            "Det.limit_type": "max",
            "Det.limit_side_len": side,
            "Rec.rec_img_shape": [3, 48, 96],  # the least width: the default of 320 makes STOP cost three times as much
        }
    )
    weights = Path(rapidocr.__file__).parent / "models"
    for part, name in ((ocr.cfg.Det, "PP-OCRv6_det_small.onnx"), (ocr.cfg.Rec, "PP-OCRv6_rec_small.onnx")):
        with flag_override(part, "allow_objects", True):
            part.session = open_session(weights / name, threads)
    return ocr
