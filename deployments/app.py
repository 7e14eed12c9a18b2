"""The Serve application: a profile in, deployments out."""

import logging
import os
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from deployments.ingress import ingress_app
from deployments.stages import Opener, stage_app
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile, StageName
from roadwork_serve.stages.load import open_stage

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
    name = _choose() if args.profile == "auto" else args.profile
    profile = load_profile(name, args.overrides)
    stages = ", ".join(f"{stage} ({spec.model} on {spec.device})" for stage, spec in profile.stages.items())
    _LOG.info("Profile %s: %s. Stages: %s.", profile.name, profile.description, stages)
    return build_app(profile)


def build_app(profile: Profile, opener: Opener = open_stage) -> Application:
    """The ingress over one deployment a stage.

    opener: makes the stage of a name and spec inside its replica; must pickle.
    """
    replicas = profile.ingress.replicas
    stages: dict[StageName, Application] = {
        name: stage_app(name, spec, opener, callers=replicas) for name, spec in profile.stages.items()
    }
    return ingress_app(profile, stages)


def _choose() -> str:
    """The profile for the machines that Ray reports."""
    if ray.is_initialized():
        found = ray.cluster_resources()
        whose = "Ray reports"
    else:  # `serve run deployments.app:build` builds before it starts Ray
        found = {"CPU": os.cpu_count() or 1}
        whose = "Ray is not running yet; this machine has"
    memory_gb = found.get("memory", 0) / 2**30
    _LOG.info(
        "%s %g CPUs, %s GPUs and %s of memory for models.",
        whose,
        found.get("CPU", 0),
        f"{found.get('GPU', 0):g}" if found.get("GPU") else "no",
        f"{memory_gb:.1f} GiB" if memory_gb else "an unknown amount",
    )
    _LOG.info("Profile auto chose mini: it is the only one that ships, and fits two CPU cores and 8 GiB.")
    return "mini"
