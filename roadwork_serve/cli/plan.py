"""`roadwork plan`: the GPU memory that a profile needs."""

from typing import Annotated

import typer

from roadwork_serve.terminal import console, foreign


def plan(
    profile: Annotated[str, typer.Option(help="Profile to check: a name, a path, or auto.")] = "cpu",
    gpu: Annotated[
        list[float] | None,
        typer.Option(
            help="Memory of a GPU in GiB; repeat for each GPU. By default what is free on the GPUs of this machine, "
            "or, without one, on those that the profile is for."
        ),
    ] = None,
) -> None:
    """Check whether a profile fits the GPUs and this machine, before anything is downloaded.

    Prints the memory that each engine needs, who holds memory of the GPUs, and all that is missing. The exit code is 2
    if the profile does not fit.
    """
    import os

    from roadwork_serve.cli.tables import print_gpus, print_host_needs, print_plan, print_prices
    from roadwork_serve.errors import ConfigError
    from roadwork_serve.free_memory import GIB, free_ram
    from roadwork_serve.profiles.choice import ClusterGpus, choose_profile, shortfall
    from roadwork_serve.profiles.flops import profile_flops
    from roadwork_serve.profiles.host_needs import check_host, host_needs
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.nvml import read_nvml
    from roadwork_serve.profiles.plan import plan_placement
    from roadwork_serve.profiles.requirements import missing_requirements

    reading = None if gpu else read_nvml()
    here = None if reading is None or not reading.gpus else reading
    if here is not None:
        print_gpus(console(), here)
    gpus = ClusterGpus((tuple(gpu),)) if gpu else ClusterGpus.of_machine(here)
    if profile == "auto":
        requires = missing_requirements if here is not None else lambda *_: []  # else it is another machine
        choice = choose_profile(gpus, here, {}, requires=requires)
        console().print(foreign(choice.reason), "", soft_wrap=True)
        chosen = choice.profile
    else:
        chosen = load_profile(profile)
    if here is None and not gpu:
        gpus = ClusterGpus((chosen.gpus_gib,))
    missing = [] if here is None else missing_requirements(chosen, here)
    if (short := shortfall(chosen, gpus)) is None:
        print_plan(console(), plan_placement(chosen, gpus.of(chosen)))
    else:
        missing.append(short)
    print_host_needs(console(), host_needs(chosen))
    print_prices(console(), profile_flops(chosen))
    if here is not None:
        free = free_ram()
        try:
            check_host(chosen, None if free is None else free / GIB, os.cpu_count() or 1)
        except ConfigError as error:
            missing.append(str(error))
    if missing:
        raise ConfigError("; ".join(missing))
