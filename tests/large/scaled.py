"""Stand-ins whose model names contain their process and GPU."""

import os
from collections.abc import Mapping

from ray.serve import Application

from benchmarks.fake_models import open_fake_stages
from deployments.app import Args, build_app
from roadwork_serve.cascade.prediction import Stage
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec

BUILDER = "tests.large.scaled:build"


def open_named(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    name = f"{os.getpid()} on {os.environ['CUDA_VISIBLE_DEVICES']}"
    return open_fake_stages(engine.model_copy(update={"model": name}), users)


def build(args: Args) -> Application:
    return build_app(load_profile(args.profile, args.overrides), opener=open_named)
