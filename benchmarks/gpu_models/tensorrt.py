"""Stage 1 with TensorRT, built as on a server: export to ONNX, build a plan, run it."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Plan:
    """A TensorRT plan of the backbone with an untrained head, fp16, for one side and batches up to the largest.

    It takes thumbnails on the GPU, uint8 [n, side, side, 3]. Building it takes minutes. Raises ModelError if the model
    cannot be exported or built.
    """

    def __init__(self, model: Any, side: int, largest: int) -> None:
        from roadwork_serve.engines.export import export_onnx
        from roadwork_serve.engines.features import Head, HeadSettings
        from roadwork_serve.engines.tensorrt import TensorRtBackbone

        settings = HeadSettings(width=model.config.hidden_size)
        self.outputs = len(settings.outputs)
        with tempfile.TemporaryDirectory() as name:
            folder, file = Path(name), Path(name) / "stage1.onnx"
            model.save_pretrained(folder)
            Head(settings).save(folder)
            export_onnx(str(folder), file, precision="fp16", side=side)
            self._engine: Any = TensorRtBackbone(file, side=side, max_thumbs=largest)

    def __call__(self, thumbs: Tensor) -> Tensor:
        """Return logits, [n, outputs]."""
        with torch.cuda.stream(self._engine._stream):
            return self._engine._run(thumbs, self.outputs)
