"""`roadwork export`: stage 1, backbone and head, as one ONNX file, checked by running it."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from roadwork_serve.engines.features import FeatureEngine, Head, Recipe, features
from roadwork_serve.engines.onnx import OUTPUTS, SIDE, OnnxBackbone
from roadwork_serve.engines.weights import folder
from roadwork_serve.errors import ConfigError, ModelError

Precision = Literal["fp32", "fp16"]
CHECKED = (1, 5)  # batch sizes the file is run at: neither is the one it was traced with
MOST_DIFFERENT = {"fp32": 1e-3, "fp16": 0.05}  # logits of the file against torch in fp32


@dataclass(frozen=True)
class Exported:
    """difference: the largest between a logit of the file, run by onnxruntime, and of torch in fp32."""

    file: Path
    megabytes: float
    difference: float


class Glance(nn.Module):
    """Stage 1 as one module: thumbs uint8 [n, side, side, 3] -> logits float32 [n, outputs]."""

    def __init__(self, engine: FeatureEngine, head: Head, precision: Precision) -> None:
        super().__init__()
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        self.backbone: Any = engine.model.to(self.dtype)
        self.head = head.float()
        self.registers = engine.model.config.num_register_tokens
        self.recipe: Recipe = head.settings.recipe
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", engine.mean)
        self.register_buffer("std", engine.std)

    def forward(self, thumbs: Tensor) -> Tensor:
        """See the class."""
        pixels = (thumbs.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        tokens = self.backbone(pixels.to(self.dtype)).last_hidden_state
        return self.head(features(tokens.float(), self.registers, self.recipe))


def export_onnx(
    model: str, out: Path, *, precision: Precision = "fp32", side: int = 224, head: Path | None = None
) -> Exported:
    """Write the ONNX file of a backbone and its head, for batches of any size, and run it to check it.

    model: mini:NAME, a folder or a hub id. side: of the square thumbs, pixels.
    Raises ModelError when onnxruntime's logits are further from torch's than MOST_DIFFERENT, and leaves no file.
    """
    engine = FeatureEngine(folder(model), head_folder=head)
    if engine.head is None:
        raise ModelError(f"{model} has no head, so it cannot answer: name a folder with head.json (--head FOLDER)")
    if side % engine.patch:
        raise ConfigError(f"--side {side} is no multiple of the model's patches of {engine.patch} pixels")
    thumbs = np.random.default_rng(72).integers(0, 256, (max(CHECKED), side, side, 3), np.uint8)
    wanted = Glance(engine, engine.head, "fp32")(torch.from_numpy(thumbs)).detach().numpy()
    glance = Glance(engine, engine.head, precision).eval()
    about = {"model": model, SIDE: str(side), OUTPUTS: json.dumps(engine.head.settings.outputs)}
    draft = out.with_suffix(".draft")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(glance, torch.from_numpy(thumbs[:2]), draft, about)
        run = OnnxBackbone(draft).logits
        answers = ((np.stack(list(run(thumbs[:n]).values()), axis=1), wanted[:n]) for n in CHECKED)
        difference = max(float(np.abs(told - expected).max()) for told, expected in answers)
        if not difference <= MOST_DIFFERENT[precision]:
            raise ModelError(
                f"{model} in {precision} gives logits {difference:.3g} off those of torch, more than "
                f"{MOST_DIFFERENT[precision]:g}: nothing was written; export it in fp32."
            )
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return Exported(out, out.stat().st_size / 1e6, difference)


def _write(glance: Glance, thumbs: Tensor, file: Path, about: dict[str, str]) -> None:
    try:
        import onnx
    except ImportError as error:
        raise ModelError("`roadwork export` needs onnx and onnxscript: pip install 'roadwork-serve[export]'") from error
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        program = torch.onnx.export(
            glance,
            (thumbs,),
            input_names=["thumbs"],
            output_names=["logits"],
            dynamic_shapes={"thumbs": {0: batch}},
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto  # pyright: ignore[reportOptionalMemberAccess] - with dynamo=True there is one
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, file)
