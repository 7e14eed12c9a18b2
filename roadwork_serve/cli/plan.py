"""`roadwork plan`: the GPU memory that a profile needs."""

from typing import Annotated

import typer

from roadwork_serve.cli.options import ProfileName
from roadwork_serve.terminal import console


def plan(
    profile: ProfileName = "cpu",
    gpu: Annotated[
        list[float] | None,
        typer.Option(help="Memory of a GPU in GiB; repeat for each GPU. By default the GPUs that the profile is for."),
    ] = None,
) -> None:
    """Check whether a profile fits the GPUs, before anything is downloaded.

    Prints the memory that each engine needs. The exit code is 2 if it does not fit.
    """
    from roadwork_serve.cli.tables import print_plan
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.plan import plan_placement

    chosen = load_profile(profile)
    print_plan(console(), plan_placement(chosen, gpu or chosen.gpus_gib))
