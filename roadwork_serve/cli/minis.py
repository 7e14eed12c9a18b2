"""`roadwork minis`: the commands about miniatures. Each imports what it needs when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

minis = typer.Typer(no_args_is_help=True, help="The miniatures that ship with the project.")


class Mini(StrEnum):
    """A miniature with weights of its own, or the vision tower that the VLM's starts from."""

    backbone = "backbone"
    tower = "tower"
    vlm = "vlm"
    video = "video"


@minis.command()
def train(
    names: Annotated[list[Mini] | None, typer.Argument(help="Which; all of them by default.")] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Time for each; rendering its scenes comes on top.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; by default where mini:NAME is.")] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of real photos with a manifest.csv to learn from.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an earlier run stopped.")] = True,
    warm: Annotated[bool, typer.Option(help="Start from the weights that are there, not from random ones.")] = False,
) -> None:
    """Train miniatures on rendered scenes, and on real photos whose licence allows it."""
    from roadwork_serve.testbed.minis.train import WEIGHTS, main

    main([name.value for name in names or Mini], minutes, out or WEIGHTS, resume, warm=warm, photos=photos)


@minis.command()
def report() -> None:
    """Say what each miniature is and how well it does."""
    from roadwork_serve.testbed.minis.report import main

    main()


@minis.command()
def untrained(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("build/untrained"),
) -> None:
    """Write small checkpoints of all four architectures with random weights, and profiles that serve them."""
    from roadwork_serve.testbed.minis.untrained import write_all

    for profile in write_all(out):
        typer.echo(f"roadwork serve --profile {profile}")
