"""An application with fake stages: each takes a configured time, and derives its score from the bytes of the image."""

import random
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.serve import Application

from deployments.app import Args, build_app
from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Evidence
from roadwork_serve.stages.load import open_stages

BUILDER = "benchmarks.fake_models:build"


class FakeStage:
    """A stage that is sure of most items and unsure of the others; the same bytes always get the same score.

    Options:
        item_ms: time per item.
        sure: share of items that it is sure of, by default 0.7.
        doubt: largest log-odds of the others, by default 1.2.
    """

    def __init__(self, name: str, spec: StageSpec, engine: EngineSpec) -> None:
        self.name = name
        self.sees: StageInput = "thumbs" if name == "backbone" else "images"
        self._model = engine.model
        self._item_s = float(spec.options.get("item_ms", 0.0)) / 1000
        self._sure = float(spec.options.get("sure", 0.7))
        self._doubt = float(spec.options.get("doubt", 1.2))

    def warm(self) -> None:
        """Do nothing: a fake model needs no warm-up."""

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return one prediction per item, in order."""
        began = time.perf_counter()
        if self._item_s:
            time.sleep(self._item_s * len(items))  # blocks like a model, without using the core
        took_ms = 1000 * (time.perf_counter() - began)
        return [self._prediction(item, took_ms) for item in items]

    def _prediction(self, item: Item, took_ms: float) -> StagePrediction:
        content = item.thumbs.tobytes() if self.sees == "thumbs" else b"".join(item.images)
        dice = random.Random(zlib.crc32(content))
        logit = dice.choice((-8.0, 8.0)) if dice.random() < self._sure else dice.uniform(-self._doubt, self._doubt)
        evidence = Evidence(text_probability=dice.random()) if self.name == "backbone" else Evidence()
        return StagePrediction(logit, self._model, miniature=True, evidence=evidence, compute_ms=took_ms)


def overrides(item_ms: Mapping[str, float], ingress_replicas: int = 1, **options: float) -> dict[str, Any]:
    """Return overrides of profile mini for fake models with these times per item; other stages take no time."""
    stages = {
        stage: {"options": options | {"item_ms": item_ms.get(stage, 0.0)}} for stage in load_profile("mini").stages
    }
    return {
        "policy": str(Path(__file__).with_suffix(".yaml")),
        "ingress": {"replicas": ingress_replicas, "num_cpus": 0.1},
        "engines": {name: {"num_cpus": 0.1} for name in load_profile("mini").engines},
        "stages": stages,
    }


def open_fake_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    """Open an engine's stages like `open_stages`, with fake models in place of those of this package."""
    if engine.backend == "own":
        return dict(open_stages(engine, users))
    return {name: ThreadedStage(FakeStage(name, spec, engine)) for name, spec in users.items()}


def build(args: Args) -> Application:
    """Return the application of a profile with fake models."""
    return build_app(load_profile(args.profile, args.overrides), opener=open_fake_stages)
