"""OCR with RapidOCR, with the PP-OCR weights in its wheel. On a GPU experimental, not yet run on hardware."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.engines.denormals import flush_denormals
from roadwork_serve.engines.heap import keep_freed_memory
from roadwork_serve.engines.ocr import OcrLine
from roadwork_serve.engines.onnx import open_session
from roadwork_serve.errors import ModelError
from roadwork_serve.replaced import replaced

MODEL = "PP-OCRv6-small"
SIDE = 736
MIN_CONFIDENCE = 0.6  # of a line that is returned; the default of RapidOCR is 0.5
MIN_SIDE = 30  # pixels; RapidOCR enlarges smaller images up to it, and thin ones to gigabytes


class RapidOcr:
    """OCR with RapidOCR, one image at a time."""

    def __init__(self, model: str = MODEL, *, threads: int = 1, side: int = SIDE, device: str = "cpu") -> None:
        """Load the models.

        Args:
            model: Name of the model in the wheel.
            threads: CPU threads.
            side: Longer side in pixels to which images are scaled for text detection; text is recognized at full
                size. Larger is not better: detection works best on text of 8 to 20 px. A 960x720 scene takes about
                0.16 s at 640 and 0.2 s at 736 on one thread.
            device: cpu or cuda, which takes onnxruntime-gpu in place of onnxruntime.

        Raises:
            ModelError: The model is not the one in the wheel, RapidOCR is not installed, or onnxruntime cannot use the
                device.
        """
        if model != MODEL:
            raise ModelError(f"backend rapidocr uses the weights in its wheel: set model: {MODEL}, not {model!r}")
        keep_freed_memory()
        try:
            self._ocr = _open(threads, side, device)
        except ImportError as error:
            raise ModelError("backend rapidocr needs the packages rapidocr and onnxruntime; install them") from error

    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        """Return the lines of text on each RGB image, from top to bottom; none for an image that is too thin."""
        return [self._read(image) for image in images]

    def _read(self, image: Image.Image) -> list[OcrLine]:
        stop_if_cancelled()
        if min(image.size) < MIN_SIDE:
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


def _open(threads: int, side: int, device: str) -> Any:
    from omegaconf import OmegaConf, flag_override

    # At its import it reads its table of weights to download twice, each time in a quarter of a second.
    with replaced(OmegaConf, "load", staticmethod(cache(OmegaConf.load))):
        import rapidocr
        from rapidocr import main  # noqa: F401 - the part that reads the table

    ocr = rapidocr.RapidOCR(
        params={
            "Global.log_level": "error",  # it warns about every image without text
            "Global.text_score": MIN_CONFIDENCE,
            "Global.use_cls": False,  # signs are not upside down
            "Det.limit_type": "max",
            "Det.limit_side_len": side,
            "Rec.rec_img_shape": [
                3,
                48,
                96,
            ],  # the smallest width: at the default of 320 a short word costs three times as much
        }
    )
    weights = Path(rapidocr.__file__).parent / "models"
    for part, name in ((ocr.cfg.Det, "PP-OCRv6_det_small.onnx"), (ocr.cfg.Rec, "PP-OCRv6_rec_small.onnx")):
        with flag_override(part, "allow_objects", True):
            part.session = open_session(weights / name, threads, device, dynamic=True)
    return ocr
