"""`roadwork export`: stage 1 as one file for another runtime."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Precision(StrEnum):
    """What the weights of an export are kept in."""

    fp32 = "fp32"
    fp16 = "fp16"


class Format(StrEnum):
    """What stage 1 is exported to."""

    onnx = "onnx"
    tensorrt = "tensorrt"


def export(
    out: Annotated[
        Path | None, typer.Option(help="ONNX file to write; a TensorRT plan comes to lie beside it.")
    ] = None,
    to: Annotated[Format, typer.Option("--to", help="tensorrt builds for the GPU of this machine.")] = Format.onnx,
    model: Annotated[
        str, typer.Option(help="Backbone: mini:backbone, a folder, a hub id, or for tensorrt an exported ONNX file.")
    ] = "mini:backbone",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub id.")] = None,
    head: Annotated[Path | None, typer.Option(help="Folder with head.json, when not beside the weights.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the weights and the arithmetic.")] = Precision.fp32,
    side: Annotated[int, typer.Option(min=16, help="Side of the thumbs, pixels, as media.thumb_side.")] = 224,
    max_thumbs: Annotated[int, typer.Option(min=1, help="Largest batch a TensorRT plan takes.")] = 64,
) -> None:
    """Write stage 1, backbone and head, as one file for another runtime, and check it against PyTorch."""
    file = Path(model) if to is Format.tensorrt and model.endswith(".onnx") else None
    if file is None:
        from roadwork_serve.engines.export import export_onnx

        if out is None:
            raise typer.BadParameter("say with --out FILE.onnx where it is to be written")
        done = export_onnx(model, out, precision=precision.value, side=side, head=head, revision=revision)
        typer.echo(
            f"{done.file}: {done.megabytes:.1f} MB, onnx, {precision.value}; run by onnxruntime its logits are at most "
            f"{done.difference:.2g} off those of PyTorch in fp32. Serve it with an engine {{runs: onnx, model: {out}}}."
        )
        if done.data:
            typer.echo(f"Its weights are in {done.data}, which must stay beside it.")
        file = out
    if to is Format.tensorrt:
        from roadwork_serve.engines.tensorrt import TensorRtBackbone

        built = TensorRtBackbone(file, max_thumbs=max_thumbs)
        typer.echo(
            f"{built.path}: for {built.plan.gpu} and TensorRT {built.plan.tensorrt}, batches up to "
            f"{built.plan.largest}, built in {built.plan.build_s:.0f} s; its logits are at most "
            f"{built.plan.difference:.2g} off those of PyTorch in fp32. Serve it with an engine "
            f"{{runs: tensorrt, model: {file}, device: cuda, num_gpus: ...}}."
        )
