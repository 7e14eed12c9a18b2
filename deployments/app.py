"""The Serve application: builds the deployments of a profile."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from deployments.gpus import check_named_gpus, cluster_gpus, profile_for_gpus
from deployments.ingress import ingress_app
from deployments.journal_replica import journal_app
from deployments.stage_replica import process_app
from roadwork_serve.api.api_keys import FILE_VARIABLE, TEXT_VARIABLE
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.errors import ConfigError
from roadwork_serve.free_memory import GIB, free_ram
from roadwork_serve.profiles.backend_packages import stages_without_packages, with_installed_stages
from roadwork_serve.profiles.choice import ClusterGpus
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.host_needs import check_host
from roadwork_serve.profiles.journal import JournalSpec, sqlite_file
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.nvml import read_nvml
from roadwork_serve.profiles.optional_stages import with_optional_stages
from roadwork_serve.profiles.plan import limit_replicas, plan_placement
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.requirements import missing_requirements
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.timm_mirrors import TIMM_MIRRORS
from roadwork_serve.stages.load import Opener, open_stages
from roadwork_serve.state_folder import make_private, state_folder

_LOG = logging.getLogger("ray.serve.roadwork.app")
_EARLIER = Path("build/journal/journal.db")  # where the journal was before it moved to the state folder


class Args(BaseModel):
    """The arguments (`args`) of the application in serve_config.yaml."""

    model_config = ConfigDict(extra="forbid")

    profile: str = Field(
        default="auto",
        description="Profile to run: auto, the name of a profile that ships with the project, or a path.",
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the profile to override, merged in; null removes a field."
    )


def build(args: Args) -> Application:
    """Return the application of a profile. `serve run` and the Serve configuration call it.

    Raises ConfigError if the profile is invalid.
    """
    gpus = cluster_gpus()
    available = _resources(gpus)
    profile = (
        profile_for_gpus(gpus, args.overrides) if args.profile == "auto" else load_profile(args.profile, args.overrides)
    )
    if args.profile == "auto":
        profile = with_installed_stages(profile)
    if missing := sorted(set(stages_without_packages(profile).values())):
        raise ConfigError(f"profile {profile.name} cannot run here: {'; '.join(missing)}")
    models = {stage: profile.engine_of(stage) for stage in profile.stages}
    stages = ", ".join(f"{stage} ({engine.model} on {engine.device})" for stage, engine in models.items())
    _LOG.info("Profile %s: %s. Stages: %s.", profile.name, profile.description, stages)
    _warn_of_shortage(profile, available)
    profile = _resolve_journal_paths(_resolve_keys(profile))
    if profile.journal.enabled:
        _prepare_state_folder(profile.journal)
    return build_app(with_optional_stages(_limit_to_gpus(profile, gpus), _access_problem))


def build_app(profile: Profile, opener: Opener = open_stages) -> Application:
    """Return the ingress over a deployment for each engine, or group of engines that share a GPU by time slicing.

    Args:
        profile: The profile.
        opener: Opens an engine and makes the stages that use it, inside their replica; must pickle.
    """
    stages: dict[StageName, Application] = {}
    users = profile.users()
    for names in profile.processes():
        engines, using = {name: profile.engines[name] for name in names}, {name: users[name] for name in names}
        app = process_app(engines, using, opener, profile.ingress.replicas)
        stages |= {stage: app for name in names for stage in using[name]}
    return ingress_app(profile, stages, journal_app(profile.journal, profile.task) if profile.journal.enabled else None)


def _access_problem(engine: EngineSpec) -> str | None:
    """Return why this machine may not read the gated model of an engine; None for others."""
    if engine.model not in TIMM_MIRRORS:
        return None
    from roadwork_serve.engines.downloads import access_problem

    return access_problem(engine)


def _resolve_keys(profile: Profile) -> Profile:
    """Return the profile with the file of keys from this environment, which a running Ray may not have.

    Raises ConfigError for invalid keys, before anything starts.
    """
    file = os.environ.get(FILE_VARIABLE)
    if profile.ingress.keys_file is None and file:
        ingress = profile.ingress.model_copy(update={"keys_file": str(Path(file).absolute())})
        profile = profile.model_copy(update={"ingress": ingress})
    if profile.ingress.keys_file is None and os.environ.get(TEXT_VARIABLE) and ray.is_initialized():
        _LOG.warning("%s has an effect only if Ray was started with it; use a file of keys instead.", TEXT_VARIABLE)
    Authenticator.of(profile.ingress)
    return profile


def _resolve_journal_paths(profile: Profile) -> Profile:
    """Return the profile with absolute paths of journal and jobs: replicas may start in another directory."""
    return profile.model_copy(update={"journal": profile.journal.resolved(), "jobs": profile.jobs.resolved()})


def _prepare_state_folder(spec: JournalSpec) -> None:
    """Make the state folder if the journal uses it. Logs how to continue a journal of an earlier version.

    Raises ConfigError if the folder belongs to another user, or cannot be made.
    """
    state, database = state_folder(), sqlite_file(spec.url)
    paths = [Path(spec.media_folder), Path(spec.spool_folder), *([] if database is None else [database])]
    if any(path.is_relative_to(state) for path in paths):
        make_private(state)
    if database is not None and database.is_relative_to(state) and not database.exists() and _EARLIER.exists():
        _LOG.warning(
            "The journal starts empty in %s, and an earlier one is in %s. To continue that one, stop the server and "
            "run `roadwork journal restore %s`.",
            database, _EARLIER.absolute(), _EARLIER.parent.absolute(),
        )  # fmt: skip


def _resources(gpus: ClusterGpus) -> dict[str, float]:
    """Return the resources in Ray's terms, and log them."""
    if ray.is_initialized():
        found, source = {name: float(amount) for name, amount in ray.cluster_resources().items()}, "Ray reports"
    else:  # `serve run deployments.app:build` builds before it starts Ray
        found, source = (
            {"CPU": float(os.cpu_count() or 1), "GPU": float(len(gpus.gib))},
            "Ray is not running yet; this machine has",
        )
    memory = f"{found['memory'] / 2**30:.1f} GiB" if "memory" in found else "unknown"
    _LOG.info(
        "%s CPUs: %g, GPUs: %s, memory for models: %s.", source, found.get("CPU", 0), f"{found.get('GPU', 0):g}", memory
    )
    return found


def _limit_to_gpus(profile: Profile, gpus: ClusterGpus) -> Profile:
    """Return the profile with no more replicas than fit on the GPUs: Serve would wait forever for the others.

    A profile that was requested by name is tried even if it does not fit, because the plan rests on estimates.

    Raises ConfigError if it names GPUs that Ray does not offer.
    """
    check_named_gpus(profile)
    on_gpu = {name: profile.engines[name] for name in profile.users() if profile.engines[name].device == "cuda"}
    limits = {name: engine.replicas for name, engine in on_gpu.items()}
    if on_gpu and gpus.gib:
        _warn_of_this_machine(profile)
        try:
            limits |= plan_placement(profile, gpus.of(profile)).max_replicas
        except ConfigError as error:
            _LOG.warning("Profile %s may not run here: %s.", profile.name, error)
    for name, engine in on_gpu.items():
        if (engine.max_replicas or engine.replicas) > limits[name]:
            _LOG.info("Engine %s: %d of up to %d replicas fit on the GPUs.", name, limits[name], engine.max_replicas)
    return limit_replicas(profile, limits)


def _warn_of_this_machine(profile: Profile) -> None:
    """Log a warning for everything that this machine lacks for a profile on GPUs."""
    lacking = missing_requirements(profile, read_nvml())
    free = free_ram()
    try:
        check_host(profile, None if free is None else free / GIB, math.inf)
    except ConfigError as error:
        lacking.append(str(error))
    for each in lacking:
        _LOG.warning("Profile %s may not run here: %s.", profile.name, each)


def _warn_of_shortage(profile: Profile, available: dict[str, float]) -> None:
    """Log a warning if the profile reserves more than there is: Ray would let stages wait without a message."""
    engines = [profile.engines[name] for name in profile.users()]
    cpus = profile.ingress.replicas * profile.ingress.num_cpus + sum(e.replicas * e.num_cpus for e in engines)
    cpus += profile.journal.num_cpus * profile.journal.enabled
    gpus = sum(engine.replicas * engine.num_gpus for engine in engines)
    for resource, reserved in (("CPU", cpus), ("GPU", 0.0 if profile.names_gpus else gpus)):
        amount = available.get(resource, 0.0)
        if reserved > amount:
            _LOG.warning(
                "Profile %s reserves %g %ss and there are %g: some deployments will not start. "
                "Lower num_%ss of its engines in the overrides, or add machines.",
                profile.name, reserved, resource, amount, resource.lower(),
            )  # fmt: skip
