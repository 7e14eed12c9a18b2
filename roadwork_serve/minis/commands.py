"""`roadwork minis`: the commands about miniatures. Each imports what it needs when it runs."""

import shlex
import sys
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
    from roadwork_serve.minis.train import WEIGHTS, main

    main([name.value for name in names or Mini], minutes, out or WEIGHTS, resume, warm=warm, photos=photos)


@minis.command()
def report() -> None:
    """Say what each miniature is and how well it does."""
    from roadwork_serve.minis.report import main

    main()


@minis.command()
def untrained(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("build/untrained"),
) -> None:
    """Write small checkpoints of all four architectures with random weights, and profiles that serve them."""
    from roadwork_serve.minis.untrained import write_all

    for profile in write_all(out):
        typer.echo(f"roadwork serve --profile {profile}")


@minis.command()
def fit_policy(
    rows: Annotated[Path, typer.Option(help="Rows of `roadwork evaluate --ask-everyone --rows`.")],
    out: Annotated[Path, typer.Option(help="Policy to write.")],
    base: Annotated[str, typer.Option(help="Policy to start from, by name or path.")] = "mini",
    version: Annotated[str, typer.Option(help="Version the policy is to carry.")] = "mini-1",
    max_exit_error: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of wrong answers allowed among the items that leave early.")
    ] = 0.01,
    pass_on: Annotated[
        float, typer.Option(min=0, max=1, help="Share of what the last stage but one is asked that may go on at most.")
    ] = 0.25,
) -> None:
    """Fit calibration and exit bands of a policy to judged rows."""
    from roadwork_serve.minis.fit import main

    main(rows, base, out, version, max_exit_error, pass_on, shlex.join(["roadwork", *sys.argv[1:]]))
