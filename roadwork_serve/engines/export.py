"""Export of stage 1, backbone and head, to an ONNX file, which is then run and compared with PyTorch."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from roadwork_serve.engines.features import BackboneWithHeads, FeatureEngine
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import INPUT, OUTPUT, ExportMetadata, OnnxBackbone, data_of
from roadwork_serve.engines.onnx_program import to_onnx
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError, ModelError

Precision = Literal["fp32", "fp16"]
CHECKED = (1, 5)  # batch sizes the file is tested with; neither is the one it was traced with
MAX_DIFFERENCE = {"fp32": 1e-3, "fp16": 0.05}  # between logits of the file and of PyTorch in fp32
MAX_EMBEDDED_BYTES = 1536 * 2**20  # of weights in the file itself; protobuf allows 2 GiB with the graph


@dataclass(frozen=True)
class Exported:
    """An exported file."""

    file: Path
    #: File with the weights, if they are too large for `file`. It must stay beside it.
    data: Path | None
    #: Size of both files in MB.
    megabytes: float
    #: Largest difference between a logit under onnxruntime and under PyTorch in fp32.
    difference: float


def export_onnx(
    model: str,
    out: Path,
    *,
    precision: Precision = "fp32",
    side: int = 224,
    head: Path | None = None,
    revision: str | None = None,
) -> Exported:
    """Export a backbone and its head for batches of any size, and check the file under onnxruntime.

    Weights beyond MAX_EMBEDDED_BYTES are written to a second file, `data_of(out)`.

    Args:
        model: bundled:NAME, a folder or a hub id.
        out: File to write.
        precision: Precision of the backbone.
        side: Side of the thumbnails in pixels.
        head: Folder of the head; by default the folder of the weights.
        revision: Commit, tag or branch of a hub id.

    Raises:
        ConfigError: The side is not a multiple of the patch size.
        ModelError: There is no head, or the logits differ from PyTorch's by more than MAX_DIFFERENCE. Nothing is
            written then.
    """
    engine = FeatureEngine(weights_folder(model), LoadOptions(revision=revision), head_folder=head)
    if engine.head is None:
        raise ModelError(
            f"{model} has no head, so there is nothing to export: name a folder with head.json (--head FOLDER)"
        )
    if side % engine.patch:
        raise ConfigError(f"--side {side} is not a multiple of the model's patch size of {engine.patch} pixels")
    thumbs = reference_thumbs(side, max(CHECKED))
    expected = np.stack(list(engine.logits(thumbs).values()), axis=1)
    metadata = ExportMetadata(model, precision, side, engine.head.settings.outputs, expected)
    module = engine.module
    if precision == "fp16":
        module.backbone.half()  # the head and the pixel normalization stay in fp32
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as drafts:
        draft = Path(drafts) / out.name  # of the same name, since it refers to its data file by name
        _write(module, torch.from_numpy(thumbs[:2].copy()), draft, metadata)
        run = OnnxBackbone(draft, max_thumbs=max(CHECKED)).logits
        pairs = ((np.stack(list(run(thumbs[:n]).values()), axis=1), expected[:n]) for n in CHECKED)
        difference = max(float(np.abs(logits - reference).max()) for logits, reference in pairs)
        if not difference <= MAX_DIFFERENCE[precision]:
            raise ModelError(
                f"{model} in {precision} gives logits that differ from PyTorch's by {difference:.3g}, more than "
                f"{MAX_DIFFERENCE[precision]:g}: nothing was written; export it in fp32."
            )
        data = _put(draft, out)
    return Exported(out, data, sum(f.stat().st_size for f in (out, data) if f) / 1e6, difference)


def _put(draft: Path, out: Path) -> Path | None:
    """Move the file, and its data file if there is one, to the destination."""
    data = data_of(out)
    if data_of(draft).exists():
        data_of(draft).replace(data)
    else:
        data.unlink(missing_ok=True)  # of an earlier export
    draft.replace(out)
    return data if data.exists() else None


def _write(module: BackboneWithHeads, thumbs: Tensor, file: Path, metadata: ExportMetadata) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = to_onnx(module, {INPUT: thumbs}, {INPUT: {0: batch}}, [OUTPUT])
    _cast_first(program.model.graph)
    program.model.metadata_props.update(metadata.metadata())
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(file, external_data=weights > MAX_EMBEDDED_BYTES)


def _cast_first(graph: Any) -> None:
    """Let only a cast read the uint8 input, since TensorRT supports nothing else on uint8.

    The exporter reads the batch size with Shape, for which TensorRT's operator reference lists no uint8.
    """
    thumbs = graph.inputs[0]
    (cast,) = (node for node, _ in thumbs.uses() if node.op_type == "Cast")
    for node, at in tuple(thumbs.uses()):
        if node is not cast:
            node.replace_input_with(at, cast.outputs[0])
    graph.sort()
