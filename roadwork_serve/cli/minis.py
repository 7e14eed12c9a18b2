"""`roadwork minis`: the miniature models. Each command imports what it needs when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.terminal import echo

minis = typer.Typer(
    no_args_is_help=True, help="Train the miniature models that ship with the project, and report on them."
)


class Mini(StrEnum):
    """A miniature with weights of its own, or the vision tower that the VLM's starts from."""

    backbone = "backbone"
    tower = "tower"
    vlm = "vlm"
    video = "video"


@minis.command()
def train(
    names: Annotated[list[Mini] | None, typer.Argument(help="Miniatures to train; all of them by default.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Training time of each in minutes; rendering its scenes adds to it.")
    ] = 30.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the weights. By default the one that bundled:NAME refers to.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of real photos with a manifest.csv to train on, too.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue an earlier run from its checkpoint.")] = True,
    warm: Annotated[bool, typer.Option(help="Start from the present weights instead of random ones.")] = False,
) -> None:
    """Train miniatures on synthetic scenes, and on real photos whose licence permits it."""
    from roadwork_serve.testbed.minis.train import WEIGHTS, main

    main([name.value for name in names or Mini], minutes, out or WEIGHTS, resume, warm=warm, photos=photos)


@minis.command()
def report() -> None:
    """Describe each miniature and its accuracy."""
    from roadwork_serve.testbed.minis.report import main

    main()


@minis.command()
def untrained(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("build/untrained"),
) -> None:
    """Write small untrained checkpoints of all four architectures, and profiles that serve them."""
    from roadwork_serve.testbed.minis.untrained import write_all

    for profile in write_all(out):
        echo(f"roadwork serve --profile {profile}")
