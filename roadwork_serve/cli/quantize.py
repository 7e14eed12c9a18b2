"""`roadwork quantize`: stage 1 in 8 bits, for CPUs."""

from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.terminal import echo


def quantize(
    model: Annotated[str, typer.Argument(help="Folder with a convolutional backbone as an ONNX file.")],
    photos: Annotated[
        Path,
        typer.Option(help="Folder with at least 80 photos of the kind that will be classified; clips are skipped."),
    ],
    head: Annotated[
        Path | None, typer.Option(help="Folder of the head to compare with. By default the one beside the backbone.")
    ] = None,
) -> None:
    """Write the 8-bit graph of a backbone beside its graph, for engines with `dtype: auto`.

    Half of the photos, at most 64, give the scales. On the others every probability is compared with float32, and
    nothing is written if one moves by more than 0.03 on average, or more than 3 % of the verdicts of stage 1 flip. The
    first layer of the network must be a convolution whose stride divides the side of the thumbnails.
    """
    from roadwork_serve.engines.int8 import check_int8, read_thumbs, write_int8_backbone

    folder = Path(weights_folder(model))
    check_int8(folder)
    done = write_int8_backbone(folder, read_thumbs(folder, photos), head)
    echo(
        f"{done.file}: on {done.photos} photos on which no scale was measured the probabilities change by "
        f"{done.summary} on average, and {done.flipped:.1%} of the verdicts of stage 1 flip. Serve the folder with an "
        f"engine {{backend: onnx, model: {model}, dtype: auto}}."
    )
