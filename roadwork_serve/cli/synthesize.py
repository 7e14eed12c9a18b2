"""`roadwork synthesize`. It imports what it needs when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.progress import progress
from roadwork_serve.terminal import echo


class GeneratorName(StrEnum):
    """An image generator."""

    scenes = "scenes"
    sdxl = "sdxl"
    cosmos = "cosmos"


def synthesize(
    out: Annotated[Path, typer.Option(help="Folder to write to. Images that it already has are not made again.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images, half of them with road work.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 1,
    generator: Annotated[
        GeneratorName, typer.Option(help="Image generator. sdxl and cosmos need a GPU and model weights.")
    ] = GeneratorName.scenes,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of the generator's weights.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of road photos for sdxl to start from. By default it starts from noise.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0.05, max=1, help="How much sdxl may change those photos: 0.05 little, 1 everything.")
    ] = 0.6,
) -> None:
    """Generate labeled training images: half with one small cone, barrier, worker or machine, half without.

    Prompts, seeds and labels are written beside them. `roadwork train-head --data OUT` reads the folder.
    """
    from roadwork_serve.testbed.synthesis.generate import open_generator
    from roadwork_serve.testbed.synthesis.generate import synthesize as generate

    chosen = open_generator(generator.value, model, images, strength)
    with progress() as bar:
        task = bar.add_task("Generating", total=count)
        made = generate(chosen, out, count, seed, lambda: bar.advance(task))
    echo(
        f"{out}: {made.existing} images were there, {made.created} are new. Train on them with `roadwork "
        f"train-head --data {out}`."
    )
