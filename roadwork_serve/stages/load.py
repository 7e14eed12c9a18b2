"""Opens an engine and the stages that use it."""

from collections.abc import Callable, Mapping

from roadwork_serve.cascade.prediction import BlockingStage, Stage
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.engines.registry import Workload, open_feature_extractor, open_language_engine, open_ocr
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import STAGES, StageName, own_stage, role_of
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.health import STUCK_TIMEOUTS

Opener = Callable[[EngineSpec, Mapping[StageName, StageSpec]], Mapping[StageName, Stage]]


def open_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> Mapping[StageName, Stage]:
    """Load an engine's model and return the stages that use it.

    Args:
        engine: The engine of a profile.
        users: The stages of one role that use it, by name.

    Raises:
        ConfigError: The backend cannot run these stages.
        ModelError: The model cannot be loaded.
    """
    (role,) = {role_of(name) for name in users}
    if role == "language":
        return _language_stages(engine, users)
    blocking = {"features": _feature_stages, "ocr": _ocr_stages, "own": _own_stages}
    stages = blocking[role](engine, users)
    return {name: ThreadedStage(stage) for name, stage in stages.items()}


def _feature_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, BlockingStage]:
    from roadwork_serve.stages.backbone import Backbone
    from roadwork_serve.stages.closeup import Closeup

    engine = open_feature_extractor(model)

    def opened(name: StageName, spec: StageSpec) -> BlockingStage:
        if name not in STAGES:
            return own_stage(name).open(name, spec, model, engine)
        return (Closeup if name == "closeup" else Backbone)(spec, model, engine)

    return {name: opened(name, spec) for name, spec in users.items()}


def _ocr_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, BlockingStage]:
    from roadwork_serve.stages.signs import Signs

    engine = open_ocr(model)
    return {
        name: Signs(spec, model, engine) if name in STAGES else own_stage(name).open(name, spec, model, engine)
        for name, spec in users.items()
    }


def _own_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, BlockingStage]:
    return {name: own_stage(name).open(name, spec, model, None) for name, spec in users.items()}


def _language_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    from roadwork_serve.stages.video import Video
    from roadwork_serve.stages.vlm import Vlm

    timeout_s = max(spec.timeout_s for spec in users.values())
    workload = Workload(
        photos=any(name != "video" for name in users),
        clips=any(name == "video" or name not in STAGES for name in users),
        concurrency=sum(spec.max_batch * spec.slots for spec in users.values()),
        timeout_s=timeout_s,
        stuck_s=STUCK_TIMEOUTS * timeout_s,
    )
    engine = open_language_engine(model, workload)

    def opened(name: StageName, spec: StageSpec) -> Stage:
        if name not in STAGES:
            return own_stage(name).open(name, spec, model, engine)
        return (Video if name == "video" else Vlm)(name, spec, model, engine)

    return {name: opened(name, spec) for name, spec in users.items()}
