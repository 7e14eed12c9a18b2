"""Stages without models for the cluster tests, and the builder that deploys them."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.serve import Application

from deployments.app import Args, build_app
from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Evidence
from roadwork_serve.stages import health

SEES: dict[str, StageInput] = {"backbone": "thumbs"}


class FakeStage:
    """Stage 1 is positive on white, negative on black and undecided on grey; the others lean to positive.

    options: journal, a file that gets the ids of its requests; gate, a file without which it
    blocks on requests whose id begins with "held"; model, a file without which it does not load.
    """

    def __init__(self, name: str, spec: StageSpec, engine: EngineSpec) -> None:
        self.name = name
        self.sees: StageInput = SEES.get(name, "images")
        self._model = engine.model
        self._journal = spec.options.get("journal")
        self._gate = spec.options.get("gate")
        self._file = spec.options.get("model")

    def warm(self) -> None:
        if self._file:
            wait_for(Path(self._file))

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        if self._journal:
            with Path(self._journal).open("a") as journal:
                journal.writelines(f"{item.request_id}\n" for item in items)
        while (
            self._gate and any(item.request_id.startswith("held") for item in items) and not Path(self._gate).exists()
        ):
            time.sleep(0.01)
        return [self._prediction(item) for item in items]

    def _prediction(self, item: Item) -> StagePrediction:
        shown = bool(item.images), bool(item.thumbs.size)
        if shown != (self.sees != "thumbs", self.sees != "images"):
            raise AssertionError(f"{self.name} was shown images, thumbs = {shown}")
        if item.left_s() > 600:
            raise AssertionError(f"{item.left_s()} s left cannot be")
        logit = (float(item.thumbs.mean()) - 127.5) / 20 if self.sees == "thumbs" else 1.0
        return StagePrediction(logit, self._model, miniature=True, evidence=Evidence(reasoning=f"pid {os.getpid()}"))


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


class Waiting:
    """A stage whose engine holds its items until their callers have gone, as one on vLLM would.

    options: held, a file with one byte for every item in the engine.
    """

    sees: StageInput = "images"

    def __init__(self, name: str, spec: StageSpec) -> None:
        self.name = name
        self._file = Path(spec.options["held"]).open("r+b")
        self._held = 0
        health._STALLED_S = 600.0  # of this process, where silence is meant

    async def warm(self) -> None: ...

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        if not any(item.request_id.startswith("held") for item in items):
            return [StagePrediction(1.0, "waiting") for _ in items]
        self._count(len(items))
        try:
            await asyncio.sleep(3600)
        finally:
            self._count(-len(items))
        return []

    def _count(self, change: int) -> None:
        self._held += change
        self._file.truncate(self._held)

    async def check(self) -> None: ...

    async def aclose(self) -> None:
        self._file.close()


def open_fakes(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    return {
        name: Waiting(name, spec) if "held" in spec.options else ThreadedStage(FakeStage(name, spec, engine))
        for name, spec in users.items()
    }


def build(args: Args) -> Application:
    return build_app(load_profile(args.profile, args.overrides), opener=open_fakes)
