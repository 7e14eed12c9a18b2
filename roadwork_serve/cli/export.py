"""`roadwork export`: stage 1 as one file for another runtime."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.terminal import echo


class Precision(StrEnum):
    """The number format of an export's weights."""

    fp32 = "fp32"
    fp16 = "fp16"


class Format(StrEnum):
    """The file format of an export."""

    onnx = "onnx"
    tensorrt = "tensorrt"
    graphs = "graphs"


def export(
    out: Annotated[Path | None, typer.Option(help="ONNX file to write. A TensorRT plan is written beside it.")] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="Format to write. tensorrt builds a plan for the GPU of this machine; graphs writes ONNX graphs "
            "beside the weights of a folder with a DINOv3 ViT, Qwen3-VL or Molmo 2."
        ),
    ] = Format.onnx,
    model: Annotated[
        str,
        typer.Option(help="Backbone: bundled:backbone, a folder, a hub id, or for tensorrt an exported ONNX file."),
    ] = "bundled:backbone",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of the hub id.")] = None,
    head: Annotated[
        Path | None, typer.Option(help="Folder of the head. By default the one beside the weights.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Precision of the weights and of inference.")] = Precision.fp32,
    side: Annotated[
        int, typer.Option(min=16, help="Side of the input thumbnails in pixels, as media.thumb_side.")
    ] = 224,
    max_thumbs: Annotated[int, typer.Option(min=1, help="Largest batch that a TensorRT plan accepts.")] = 64,
) -> None:
    """Export stage 1 to ONNX or TensorRT, and check it against PyTorch.

    The file contains the backbone and the head. Graphs instead read the weights of the folder they are in, so heads
    stay exchangeable, and language models have them too; the backend onnx then runs the folder without PyTorch.
    """
    if format is Format.graphs:
        from roadwork_serve.engines.export_graphs import export_graphs

        written = export_graphs(Path(weights_folder(model)))
        echo(
            f"Wrote {', '.join(map(str, written))}. Serve the folder with an engine {{backend: onnx, model: {model}}}."
        )
        return
    file = Path(model) if format is Format.tensorrt and model.endswith(".onnx") else None
    if file is None:
        from roadwork_serve.engines.export import export_onnx

        if out is None:
            raise typer.BadParameter("give --out FILE.onnx, the file to write")
        done = export_onnx(model, out, precision=precision.value, side=side, head=head, revision=revision)
        echo(
            f"{done.file}: {done.megabytes:.1f} MB, onnx, {precision.value}; in onnxruntime its logits differ by "
            f"at most {done.difference:.2g} from PyTorch in fp32. Serve it with an engine "
            f"{{backend: onnx, model: {out}}}."
        )
        if done.data:
            echo(f"Its weights are in {done.data}, which must stay beside it.")
        file = out
    if format is Format.tensorrt:
        from roadwork_serve.engines.tensorrt import TensorRtBackbone

        built = TensorRtBackbone(file, max_thumbs=max_thumbs)
        echo(
            f"{built.path}: for {built.plan.gpu} and TensorRT {built.plan.tensorrt}, batches up to "
            f"{built.plan.max_batch}, built in {built.plan.build_s:.0f} s; its logits differ by at most "
            f"{built.plan.difference:.2g} from PyTorch in fp32. Serve it with an engine "
            f"{{backend: tensorrt, model: {file}, device: cuda, num_gpus: ...}}."
        )
