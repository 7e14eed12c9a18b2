"""The check of the profile that would run on this machine, with the reason."""

import math

from roadwork_serve.doctor.finding import Finding
from roadwork_serve.doctor.machine import usable_cores
from roadwork_serve.errors import ConfigError
from roadwork_serve.free_memory import GIB, free_ram
from roadwork_serve.profiles.backend_packages import stages_without_packages
from roadwork_serve.profiles.choice import ClusterGpus, ProfileChoice, choose_profile, shortfall
from roadwork_serve.profiles.host_needs import check_host
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.nvml import NvmlReading
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.requirements import missing_requirements


def what_would_run(name: str, reading: NvmlReading | None, serving: bool = False) -> list[Finding]:
    """Return the profile, its stages, and what it lacks here.

    Args:
        name: A profile, or auto.
        reading: The reading of the driver; None without GPUs.
        serving: A server of this user runs already and holds memory, so that too little is only noted.

    Raises:
        ConfigError: There is no such profile.
    """
    gpus = ClusterGpus.of_machine(reading)
    if name == "auto":
        choice = choose_profile(gpus, reading, {})
    else:
        choice = ProfileChoice(load_profile(name), f"Profile {name} was named.")
    profile = choice.profile
    lacking = [] if name == "auto" else _lacking(profile, gpus, reading)
    left_out = stages_without_packages(profile)
    if len(left_out) == len(profile.stages) or (left_out and name != "auto"):
        lacking += sorted(set(left_out.values()))
    findings = [Finding("Profile", "note" if choice.idle_gpus else "ok", choice.reason)]
    for stage in profile.stages:
        engine = profile.engine_of(stage)
        if missing := left_out.get(stage):
            findings.append(Finding(f"Stage {stage}", "note", f"would be left out: {missing}"))
        else:
            small = ", a small stand-in" if engine.miniature else ""
            text = f"{engine.model} by {engine.backend} on {engine.device}{small}"
            findings.append(Finding(f"Stage {stage}", "ok", text))
    try:
        free = free_ram()
        check_host(profile, None if free is None or serving else free / GIB, max(1, math.ceil(usable_cores())))
    except ConfigError as error:
        lacking.append(str(error))
    return findings + [Finding("Missing", "problem", text) for text in lacking]


def _lacking(profile: Profile, gpus: ClusterGpus, reading: NvmlReading | None) -> list[str]:
    """Return what a profile that was named lacks, and auto would have passed over."""
    short = shortfall(profile, gpus)
    return missing_requirements(profile, reading) + ([] if short is None else [short])
