"""`roadwork export`: stage 1, backbone and head, as one ONNX file, checked by running it."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from roadwork_serve.engines.features import BackboneWithHeads, FeatureEngine
from roadwork_serve.engines.onnx import INPUT, OUTPUT, ExportMetadata, OnnxBackbone, data_of
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError, ModelError

Precision = Literal["fp32", "fp16"]
CHECKED = (1, 5)  # batch sizes the file is run at: neither is the one it was traced with
MOST_DIFFERENT = {"fp32": 1e-3, "fp16": 0.05}  # logits of the file against torch in fp32
LARGEST_FILE = 1536 * 2**20  # bytes of weights in the file itself; protobuf ends at 2 GiB, graph and all


@dataclass(frozen=True)
class Exported:
    """difference: the largest between a logit of the file, run by onnxruntime, and of torch in fp32.

    data: where the weights are that are too large for the file; it must stay beside it.
    """

    file: Path
    data: Path | None
    megabytes: float
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
    """Write the ONNX file of a backbone and its head, for batches of any size, and run it to check it.

    Weights beyond LARGEST_FILE go into a second file, `data_of(out)`. model: mini:NAME, a folder or a hub id.
    side: of the square thumbs, pixels. Raises ModelError when onnxruntime's logits are further from torch's than
    MOST_DIFFERENT, and leaves no file.
    """
    engine = FeatureEngine(weights_folder(model), head_folder=head, revision=revision)
    if engine.head is None:
        raise ModelError(f"{model} has no head, so it cannot answer: name a folder with head.json (--head FOLDER)")
    if side % engine.patch:
        raise ConfigError(f"--side {side} is no multiple of the model's patches of {engine.patch} pixels")
    thumbs = reference_thumbs(side, max(CHECKED))
    wanted = np.stack(list(engine.logits(thumbs).values()), axis=1)
    about = ExportMetadata(model, precision, side, engine.head.settings.outputs, wanted)
    glance = engine.glance
    if precision == "fp16":
        glance.backbone.half()  # the head and the pixels' normalisation stay in fp32
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as drafts:
        draft = Path(drafts) / out.name  # of the same name: it says what its data file is called
        _write(glance, torch.from_numpy(thumbs[:2].copy()), draft, about)
        run = OnnxBackbone(draft, max_thumbs=max(CHECKED)).logits
        answers = ((np.stack(list(run(thumbs[:n]).values()), axis=1), wanted[:n]) for n in CHECKED)
        difference = max(float(np.abs(told - expected).max()) for told, expected in answers)
        if not difference <= MOST_DIFFERENT[precision]:
            raise ModelError(
                f"{model} in {precision} gives logits {difference:.3g} off those of torch, more than "
                f"{MOST_DIFFERENT[precision]:g}: nothing was written; export it in fp32."
            )
        data = _put(draft, out)
    return Exported(out, data, sum(f.stat().st_size for f in (out, data) if f) / 1e6, difference)


def _put(draft: Path, out: Path) -> Path | None:
    """Move the file, and the data file where there is one, to where they are wanted."""
    data = data_of(out)
    if data_of(draft).exists():
        data_of(draft).replace(data)
    else:
        data.unlink(missing_ok=True)  # of an earlier export
    draft.replace(out)
    return data if data.exists() else None


def _write(glance: BackboneWithHeads, thumbs: Tensor, file: Path, about: ExportMetadata) -> None:
    try:
        import onnx  # noqa: F401 - or torch tells of it in its own words
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError("`roadwork export` needs onnx and onnxscript: pip install 'roadwork-serve[export]'") from error
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        program: Any = torch.onnx.export(
            glance,
            (thumbs,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"thumbs": {0: batch}},
            dynamo=True,
            verbose=False,
        )
    _cast_first(program.model.graph)
    program.model.metadata_props.update(about.metadata())
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(file, external_data=weights > LARGEST_FILE)


def _cast_first(graph: Any) -> None:
    """Let nothing but a cast read the uint8 input: TensorRT takes such an input, and can do nothing else with it.

    Its operator reference names no uint8 for Shape, by which the exporter asks for the size of the batch.
    """
    thumbs = graph.inputs[0]
    (cast,) = (node for node, _ in thumbs.uses() if node.op_type == "Cast")
    for node, at in tuple(thumbs.uses()):
        if node is not cast:
            node.replace_input_with(at, cast.outputs[0])
    graph.sort()
