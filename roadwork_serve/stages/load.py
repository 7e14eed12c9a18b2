"""Opens an engine and the stages that use it."""

from collections.abc import Callable, Mapping

from roadwork_serve.cascade.prediction import BlockingStage, Stage
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.engines.registry import Workload, open_feature_extractor, open_language_engine
from roadwork_serve.profiles.profile import ROLES, EngineSpec, StageName, StageSpec
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
    (role,) = {ROLES[name] for name in users}
    if role == "language":
        return _language_stages(engine, users)
    stages = _feature_stages(engine, users) if role == "features" else _ocr_stages(engine, users)
    return {name: ThreadedStage(stage) for name, stage in stages.items()}


def _feature_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, BlockingStage]:
    from roadwork_serve.stages.backbone import Backbone
    from roadwork_serve.stages.closeup import Closeup

    engine = open_feature_extractor(model)
    return {name: (Closeup if name == "closeup" else Backbone)(spec, model, engine) for name, spec in users.items()}


def _ocr_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, BlockingStage]:
    from roadwork_serve.stages.signs import Signs

    return {name: Signs(spec, model) for name, spec in users.items()}


def _language_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    from roadwork_serve.stages.video import Video
    from roadwork_serve.stages.vlm import Vlm

    timeout_s = max(spec.timeout_s for spec in users.values())
    workload = Workload(
        photos=any(name != "video" for name in users),
        clips="video" in users,
        concurrency=sum(spec.max_batch * spec.slots for spec in users.values()),
        timeout_s=timeout_s,
        stuck_s=STUCK_TIMEOUTS * timeout_s,
    )
    engine = open_language_engine(model, workload)
    return {name: (Video if name == "video" else Vlm)(name, spec, model, engine) for name, spec in users.items()}
