"""The Serve application: a profile in, deployments out."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from deployments.gpus import gpu_memory_gib, profile_for_gpus
from deployments.ingress import ingress_app
from deployments.journal_replica import journal_app
from deployments.stage_replica import process_app
from roadwork_serve.api.api_keys import FILE_VARIABLE, TEXT_VARIABLE
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.journal import absolute
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.plan import limit_replicas, plan_placement
from roadwork_serve.profiles.profile import Profile, StageName
from roadwork_serve.stages.load import Opener, open_stages

_LOG = logging.getLogger("ray.serve.roadwork.app")


class Args(BaseModel):
    """The `args` of the application in serve_config.yaml."""

    model_config = ConfigDict(extra="forbid")

    profile: str = Field(
        default="auto", description="auto, the name of a profile that ships with the project, or a path"
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="fields of the profile to replace, merged in; null takes a field away"
    )


def build(args: Args) -> Application:
    """The application of a profile, as `serve run` and the Serve configuration call it.

    Raises ConfigError when the profile does not make sense.
    """
    cards = gpu_memory_gib()
    found = _resources(cards)
    profile = (
        profile_for_gpus(cards, args.overrides)
        if args.profile == "auto"
        else load_profile(args.profile, args.overrides)
    )
    models = {stage: profile.engine_of(stage) for stage in profile.stages}
    stages = ", ".join(f"{stage} ({engine.model} on {engine.device})" for stage, engine in models.items())
    _LOG.info("Profile %s: %s. Stages: %s.", profile.name, profile.description, stages)
    _warn_of_shortage(profile, found)
    profile = _with_journal(_with_keys(profile))
    return build_app(_with_room(profile, cards))


def build_app(profile: Profile, opener: Opener = open_stages) -> Application:
    """The ingress over one deployment an engine, or group of engines that take turns.

    opener: opens an engine and makes the stages that ask it, inside their replica; must pickle.
    """
    stages: dict[StageName, Application] = {}
    users = profile.users()
    for names in profile.processes():
        engines, using = {name: profile.engines[name] for name in names}, {name: users[name] for name in names}
        app = process_app(engines, using, opener, profile.ingress.replicas)
        stages |= {stage: app for name in names for stage in using[name]}
    return ingress_app(profile, stages, journal_app(profile.journal) if profile.journal.enabled else None)


def _with_keys(profile: Profile) -> Profile:
    """The profile with the file of keys that the environment here names: that of a Ray which runs already may not.

    Raises ConfigError for a mistake in the keys, before anything starts.
    """
    file = os.environ.get(FILE_VARIABLE)
    if profile.ingress.keys_file is None and file:
        ingress = profile.ingress.model_copy(update={"keys_file": str(Path(file).absolute())})
        profile = profile.model_copy(update={"ingress": ingress})
    if profile.ingress.keys_file is None and os.environ.get(TEXT_VARIABLE) and ray.is_initialized():
        _LOG.warning("%s counts only if Ray was started with it; a file of keys is sure to be found.", TEXT_VARIABLE)
    Authenticator.of(profile.ingress)
    return profile


def _with_journal(profile: Profile) -> Profile:
    """The profile with the journal's folders seen from here: replicas may start elsewhere."""
    spec = profile.journal
    told = {name: str(Path(getattr(spec, name)).absolute()) for name in ("media_folder", "spool_folder")}
    return profile.model_copy(update={"journal": spec.model_copy(update=told | {"url": absolute(spec.url)})})


def _resources(cards: Sequence[float]) -> dict[str, float]:
    """What there is to run on, in Ray's terms; told in the log."""
    if ray.is_initialized():
        found, whose = {name: float(amount) for name, amount in ray.cluster_resources().items()}, "Ray reports"
    else:  # `serve run deployments.app:build` builds before it starts Ray
        found, whose = (
            {"CPU": float(os.cpu_count() or 1), "GPU": float(len(cards))},
            "Ray does not run yet; this machine has",
        )
    memory = f"{found['memory'] / 2**30:.1f} GiB" if "memory" in found else "unknown"
    _LOG.info(
        "%s CPUs: %g, GPUs: %s, memory for models: %s.", whose, found.get("CPU", 0), f"{found.get('GPU', 0):g}", memory
    )
    return found


def _with_room(profile: Profile, cards: Sequence[float]) -> Profile:
    """The profile with replicas under load only where the cards have room: Serve would wait for ever for the others.

    A profile that was asked for by name and does not fit is tried nevertheless, for the plan rests on estimates.
    """
    on_cards = {name: profile.engines[name] for name in profile.users() if profile.engines[name].device == "cuda"}
    most = {name: engine.replicas for name, engine in on_cards.items()}
    if on_cards and cards:
        try:
            most |= plan_placement(profile, cards).most
        except ConfigError as error:
            _LOG.warning("Profile %s may not run here: %s.", profile.name, error)
    for name, engine in on_cards.items():
        if (engine.max_replicas or engine.replicas) > most[name]:
            _LOG.info("%s has room for %d of %d replicas under load.", name, most[name], engine.max_replicas)
    return limit_replicas(profile, most)


def _warn_of_shortage(profile: Profile, found: dict[str, float]) -> None:
    """Say when the profile books more than there is: Ray would let the stages that go short wait, without a word."""
    engines = [profile.engines[name] for name in profile.users()]
    cpus = profile.ingress.replicas * profile.ingress.num_cpus + sum(e.replicas * e.num_cpus for e in engines)
    cpus += profile.journal.num_cpus * profile.journal.enabled
    gpus = sum(engine.replicas * engine.num_gpus for engine in engines)
    for resource, booked in (("CPU", cpus), ("GPU", gpus)):
        there = found.get(resource, 0.0)
        if booked > there:
            _LOG.warning(
                "Profile %s books %g %ss and there are %g: what goes short will not start. "
                "Lower num_%ss of its engines in the overrides, or add machines.",
                profile.name, booked, resource, there, resource.lower(),
            )  # fmt: skip
